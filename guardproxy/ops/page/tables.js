// Tables of rows that change every two seconds. What clients chose is shown as text, never as markup.

import { duration, number, stateClass } from "./words.js";

const who = { title: "Who", key: "user", kind: "short", text: (row) => [row.user, row.database].filter(Boolean).join("@") };
const seconds = (title, key) => ({ title, key, kind: "number", text: (row) => duration(row[key]) });
const count = (title, key) => ({ title, key, kind: "number", text: (row) => number(row[key]) });
const name = (title, key) => ({ title, key, kind: "number", text: (row) => String(row[key] ?? "") });
const word = (title, key, kind = "") => ({ title, key, kind });
const grave = (column) => ({ ...column, grave: (row) => Boolean(row[column.key]) });

export const TABLES = {
  clients: {
    title: "Clients",
    none: "No client is connected.",
    columns: [
      { title: "State", key: "state", swatch: stateClass, text: clientState },
      seconds("For", "for"),
      who,
      word("Application", "application", "short"),
      { title: "Why", key: "pins", kind: "short", text: why },
      word("Last statement", "statement", "text code"),
      word("From", "from", "short"),
      name("Backend", "backend"),
      count("Queries", "queries"),
      seconds("Connected", "age"),
      name("No.", "id"),
    ],
    key: (row) => row.id,
  },
  servers: {
    title: "Servers",
    none: "No connection to PostgreSQL is open: nobody needs one.",
    columns: [
      { title: "State", key: "state", swatch: serverClass },
      seconds("For", "for"),
      who,
      name("Backend", "backend"),
      name("Client", "client"),
      word("Client's state", "client_state"),
      word("Application", "application", "short"),
      word("Pinned by", "pins", "short"),
      count("Prepared", "prepared"),
      seconds("Open", "age"),
      word("TLS", "tls", "short"),
      word("To be closed", "retiring"),
      name("No.", "id"),
    ],
    key: (row) => row.id,
  },
  pools: {
    title: "Pools",
    none: "Nobody has logged in yet.",
    columns: [
      word("Database", "database", "short"),
      word("User", "user", "short"),
      grave(count("Waiting", "waiting")),
      seconds("Longest wait", "longest_wait"),
      count("Servers", "servers"),
      count("Lent", "leased"),
      count("Clients", "clients"),
      count("Active", "active"),
      count("In transaction", "in_transaction"),
      count("Idle", "idle"),
      count("Parked", "parked"),
      word("Pinned", "pinned", "short"),
      count("Queries", "queries"),
      grave(word("PostgreSQL says", "failure", "text")),
    ],
    key: (row) => `${row.database}\n${row.user}`,
  },
  activity: {
    title: "PostgreSQL",
    none: "PostgreSQL has no connections.",
    columns: [
      { title: "State", key: "state", swatch: (row) => stateClass({ ...row, waits_for: "", pins: "" }) },
      seconds("For", "for"),
      name("Backend", "pid"),
      word("Whose", "origin"),
      who,
      word("Application", "application", "short"),
      word("From", "from", "short"),
      grave(word("Blocked by", "blocked_by", "short")),
      word("Waits for", "wait", "short"),
      word("Last statement", "statement", "text code"),
      name("Client", "client"),
      seconds("Open", "age"),
    ],
    key: (row) => row.pid,
  },
  endings: {
    title: "Endings",
    none: "Nothing has ended yet.",
    columns: [
      { title: "Ago", key: "ago", kind: "number", text: (row) => duration(row.ago) },
      word("Reason", "reason"),
      word("What", "kind"),
      who,
      word("Application", "application", "short"),
      word("State", "state"),
      seconds("In it for", "idle"),
      word("Why", "why", "text"),
      word("Last statement", "statement", "text code"),
      word("From", "from", "short"),
      seconds("Age", "age"),
      name("No.", "id"),
    ],
    key: (row) => `${row.kind} ${row.id} ${row.reason}`,
  },
};

function clientState(row) {
  if (row.waits_for === "door") return "waiting at the door";
  if (row.waits_for === "server" && row.state === "login") return "waiting to log in";
  return row.state;
}

function why(row) {
  if (row.waits_for === "server") return "no server is free for it";
  if (row.waits_for === "door") return "limits.max_client_connections are in";
  if (row.state.startsWith("idle in transaction")) return "left its transaction open";
  return row.pins ? `${row.pins}, ${duration(row.pinned_for)}: ${row.pinned_by}` : "";
}

function serverClass(row) {
  if (row.state === "idle") return "spare";
  if (row.state !== "leased" || row.client === null) return "changing";
  return stateClass({ state: row.client_state, pins: row.pins, waits_for: "" });
}

export class Table {
  // `sorted` is called with a column's key, `closed` with a row.
  constructor(place, { sorted, closed }) {
    this.place = place;
    this.sorted = sorted;
    this.closed = closed;
    this.open = new Set();
  }

  // Begin anew, with another table or other buttons.
  choose(name, canAct) {
    this.name = name;
    this.shape = TABLES[name];
    this.canAct = canAct && name === "clients";
    this.lines = new Map();
    this.table = document.createElement("table");
    this.heads = new Map();
    const head = this.table.createTHead().insertRow();
    for (const column of this.shape.columns) head.append(this.head(column));
    if (this.canAct) head.append(element("th", "act"));
    this.body = this.table.createTBody();
    this.none = element("p", "none-yet", "");
    this.place.replaceChildren(this.table, this.none);
  }

  head(column) {
    const cell = element("th", column.kind?.includes("number") ? "number" : "");
    const button = element("button", "", column.title);
    button.type = "button";
    button.addEventListener("click", () => this.sorted(column.key));
    cell.append(button);
    this.heads.set(column.key, cell);
    return cell;
  }

  show(rows, filtered, sort, down) {
    for (const [key, cell] of this.heads) {
      if (key === sort) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    this.none.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
    this.none.textContent = filtered ? "No row has this text." : this.shape.none;
    const kept = new Map();
    let before = null;
    for (const row of rows) {
      const key = String(this.shape.key(row));
      const line = this.lines.get(key) ?? this.line(key);
      this.fill(line, row);
      const next = before ? before.nextSibling : this.body.firstChild;
      if (next !== line.tr) this.body.insertBefore(line.tr, next);
      before = line.tr;
      kept.set(key, line);
    }
    for (const [key, line] of this.lines) if (!kept.has(key)) line.tr.remove();
    this.lines = kept;
  }

  line(key) {
    const tr = element("tr", this.open.has(key) ? "open" : "");
    const line = { tr, cells: [], row: null };
    for (const column of this.shape.columns) {
      const cell = element("td", column.kind ?? "");
      const text = document.createTextNode("");
      const swatch = column.swatch ? element("span", "swatch") : null;
      if (swatch) cell.append(swatch);
      cell.append(text);
      tr.append(cell);
      line.cells.push({ cell, text, swatch });
    }
    if (this.canAct) tr.append(this.act(line));
    tr.addEventListener("click", () => this.toggle(key, tr));
    return line;
  }

  act(line) {
    const cell = element("td", "act");
    const button = element("button", "", "Close");
    button.type = "button";
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      this.closed(line.row);
    });
    cell.append(button);
    return cell;
  }

  fill(line, row) {
    line.row = row;
    this.shape.columns.forEach((column, at) => {
      const { cell, text, swatch } = line.cells[at];
      const said = String((column.text ? column.text(row) : row[column.key]) ?? "");
      if (text.data !== said) {
        text.data = said;
        if (column.kind?.match(/text|short/)) cell.title = said;
      }
      if (swatch) swatch.className = `swatch ${column.swatch(row)}`;
      if (column.grave) cell.classList.toggle("grave", column.grave(row));
    });
  }

  // A row's long texts, whole.
  toggle(key, tr) {
    if (String(getSelection())) return;
    if (tr.classList.toggle("open")) this.open.add(key);
    else this.open.delete(key);
  }
}

export function element(name, classes = "", text = "") {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text) made.textContent = text;
  return made;
}
