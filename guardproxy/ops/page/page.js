// What the guard is doing, asked for every two seconds. The token is in this tab's memory only.

import { Charts } from "./charts.js";
import { TABLES, Table, element } from "./tables.js";
import { USES, counted, duration, number } from "./words.js";

const EVERY = 2000;
const $ = (id) => document.getElementById(id);

const wish = { table: "clients", text: "", sort: "", down: false };
let token = "";
let last = null; // the last state that came
let canAct = null;
let timer = 0;
let asking = 0;

// -- asking ----------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

async function ask(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body),
    cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(10000),
  });
  if (!answer.ok) throw new Refused(answer.status, (await answer.text()).trim());
  return answer.json();
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++asking;
  try {
    const query = new URLSearchParams({ ...wish, down: wish.down ? "1" : "" });
    const state = await ask(`api/state?${query}`);
    if (mine !== asking) return; // something else has been wished for meanwhile
    show(state);
    if (state.at - charts.latest > 5) charts.add(await ask(`api/history?since=${charts.latest}`));
  } catch (error) {
    if (mine !== asking) return;
    if (error.status === 401 && (await askForToken("This guard shows itself only to who has its token."))) return refresh();
    lost(error);
  }
  if (!document.hidden) timer = setTimeout(refresh, EVERY);
}

function lost(error) {
  $("live").className = "live lost";
  $("live-text").textContent = error.status
    ? error.message
    : `no answer${last ? `; this is ${duration(Date.now() / 1000 - last.came)} old` : ""}`;
  document.body.classList.toggle("stale", last !== null);
}

// -- showing ---------------------------------------------------------------------------------------

function show(state) {
  state.came = Date.now() / 1000;
  document.body.classList.remove("stale");
  $("live").className = "live on";
  $("live-text").textContent = "live";
  text("about", `${state.version} · PostgreSQL at ${state.upstream} · ${state.mode} mode · ${state.phase} for ${duration(state.uptime)}`);
  showVerdict(state.verdict);
  showFigures(state);
  showTable(state);
  last = state;
}

function text(id, said) {
  if ($(id).textContent !== said) $(id).textContent = said;
}

function showVerdict(verdict) {
  $("verdict").className = `card verdict ${verdict.level}`;
  text("headline", verdict.headline);
  text("why", verdict.why);
  text("advice", verdict.advice);
  document.title = verdict.level === "calm" ? "guardproxy" : `${verdict.level}: guardproxy`;
}

function showFigures(state) {
  text("servers", number(state.counts.servers));
  text("cap", number(state.cap));
  showBar(state);
  text("waiting", number(state.waiting));
  text("longest", state.waiting ? `the first for ${duration(state.longest_wait)}` : "nobody");
  $("waiting-card").classList.toggle("alarm", state.waiting > 0);
  text("clients", number(state.counts.clients));
  text("door", state.at_the_door ? `${number(state.at_the_door)} at the door` : counted(state.counts.pools, "pool"));
  if (last && state.at > last.at) {
    const rate = (state.queries - last.queries) / (state.at - last.at);
    text("rate", number(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate)));
  }
  text("queries", `${number(state.queries)} so far`);
}

function showBar(state) {
  const whole = Math.max(state.cap, state.counts.servers, 1);
  const said = [];
  for (const [key, words] of USES) {
    const value = state.use[key];
    const { part, item, figure } = uses.get(key);
    part.style.width = `${(100 * value) / whole}%`;
    part.hidden = value === 0;
    item.classList.toggle("none", value === 0);
    if (figure.textContent !== String(value)) figure.textContent = value;
    if (value) said.push(`${value} ${words}`);
  }
  $("bar").setAttribute("aria-label", said.join(", ") || "none is open");
}

const uses = new Map(USES.map(([key, words]) => {
  const classes = key.replace("_", "-");
  const part = element("span", classes);
  const item = element("li");
  const figure = element("b");
  part.title = words;
  item.append(element("span", `swatch ${classes}`), figure, ` ${words}`);
  $("bar").append(part);
  $("legend").append(item);
  return [key, { part, item, figure }];
}));

function showTable(state) {
  if (state.can_act !== canAct) {
    canAct = state.can_act;
    text("token-button", "");
    table.choose(wish.table, canAct);
  }
  showToken();
  tabs.get("activity").button.hidden = !state.watched;
  for (const [name, tab] of tabs) {
    tab.count.textContent = number(state.counts[name]);
  }
  const { rows, matching, all } = state.table;
  table.show(rows, all > 0 && matching === 0, wish.sort, wish.down);
  const order = wish.sort ? "in this order" : "what matters most first";
  text("more", rows.length < matching
    ? `${number(rows.length)} of ${number(matching)} shown, ${order}, and ${number(matching - rows.length)} more. Filter to find them.`
    : wish.text ? `${number(matching)} of ${number(all)}` : "");
}

// -- wishing ---------------------------------------------------------------------------------------

const table = new Table($("table"), { sorted, closed: closeClient });
const charts = new Charts($("chart-servers"), $("chart-waiting"));

function sorted(key) {
  if (wish.sort !== key) Object.assign(wish, { sort: key, down: false });
  else if (!wish.down) wish.down = true;
  else Object.assign(wish, { sort: "", down: false });
  refresh();
}

// What can be closed for being idle, by table.
const IDLE = {
  clients: {
    path: "api/close-idle",
    who: "Close clients idle for",
    title: (older) => `Close all clients idle for ${older} or longer?`,
    words: "In all databases. Only who is idle outside a transaction is closed; who is pinned or listens stays.",
    told: (closed) => `${counted(closed, "client")} closed.`,
  },
  activity: {
    path: "api/end-idle",
    who: "End what comes past the guard and is idle for",
    title: (older) => `End all connections past the guard idle for ${older} or longer?`,
    words: "Those that watch.terminate_idle means by user, database and application. Never a guard's own, a superuser's, replication, or what is active.",
    told: (closed) => `${counted(closed, "connection")} ended.`,
  },
};

const tabs = new Map(Object.entries(TABLES).map(([name, shape]) => {
  const button = element("button", "", shape.title);
  const count = element("span", "count");
  button.type = "button";
  button.setAttribute("role", "tab");
  button.append(count);
  button.addEventListener("click", () => choose(name));
  $("tabs").append(button);
  return [name, { button, count }];
}));

function choose(name) {
  Object.assign(wish, { table: name, sort: "", down: false });
  for (const [other, { button }] of tabs) button.setAttribute("aria-selected", String(other === name));
  table.choose(name, canAct);
  text("more", "");
  $("close-idle").hidden = !(name in IDLE);
  text("idle-who", IDLE[name]?.who ?? "");
  refresh();
}

let typing = 0;
$("filter").addEventListener("input", () => {
  wish.text = $("filter").value.trim();
  clearTimeout(typing);
  typing = setTimeout(refresh, 200);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select, textarea") || $("dialog").open) return;
  event.preventDefault();
  $("filter").focus();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());

// -- acting ----------------------------------------------------------------------------------------

function showToken() {
  const said = !canAct ? "read-only" : token ? "token: forget" : "token …";
  text("token-button", said);
  $("token-button").title = canAct
    ? "Closing connections needs the token (http.token). It is kept in this tab only."
    : "To close connections from here, set http.token or http.token_file.";
}

$("token-button").addEventListener("click", async () => {
  if (!canAct) {
    await confirm({ title: "Read-only", words: "To close connections from here, give the guard a token (http.token or http.token_file, 16 characters or more) and reload it. Then this page asks for it.", yes: "OK" });
  } else if (token) {
    token = "";
  } else {
    await askForToken("It is kept in this tab's memory only, and sent with nothing but what you do here.");
  }
  showToken();
});

async function askForToken(words) {
  const given = await confirm({ title: "The guard's token", words, yes: "Use it", secret: true });
  if (given) token = given;
  return Boolean(given);
}

async function act(path, body, told) {
  if (!token && !(await askForToken("Closing connections needs http.token. It is kept in this tab's memory only."))) return;
  try {
    toast(told((await ask(path, body)).closed));
  } catch (error) {
    if (error.status === 401) token = "";
    toast(error.status ? error.message : "The guard does not answer.");
  }
  showToken();
  refresh();
}

async function closeClient(row) {
  if (!canAct) return;
  const sure = await confirm({
    title: `Close client ${row.id}?`,
    words: `${row.user}@${row.database}${row.application ? `, ${row.application}` : ""}, from ${row.from}: ${row.state} for ${duration(row.for)}.\nIt is told FATAL 57P01; a running query is cancelled and its transaction rolled back.`,
    detail: row.statement, yes: "Close it", danger: true,
  });
  if (sure) await act("api/kill", { client: row.id }, (closed) => (closed ? `Client ${row.id} is closed.` : `Client ${row.id} is gone already.`));
}

$("close-idle").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!canAct) return $("token-button").click();
  const older = Number($("older-than").value);
  const { path, title, words, told } = IDLE[wish.table];
  const sure = await confirm({ title: title(duration(older)), words, yes: "Close them", danger: true });
  if (sure) await act(path, { older_than: older }, told);
});

// -- words to and from people ----------------------------------------------------------------------

// What was answered: the text of the input, or whether it was yes.
function confirm({ title, words, detail = "", yes, danger = false, secret = false }) {
  const dialog = $("dialog");
  if (dialog.open) return Promise.resolve(false);
  text("dialog-title", title);
  text("dialog-text", words);
  text("dialog-detail", detail);
  $("dialog-detail").hidden = !detail;
  $("dialog-input").hidden = !secret;
  $("dialog-input").value = "";
  text("dialog-yes", yes);
  $("dialog-yes").classList.toggle("danger", danger);
  dialog.returnValue = "";
  dialog.showModal();
  ($("dialog-input").hidden ? $("dialog-yes") : $("dialog-input")).focus();
  return new Promise((answered) => {
    dialog.addEventListener("close", () => {
      const agreed = dialog.returnValue === "yes";
      const given = $("dialog-input").value;
      $("dialog-input").value = "";
      answered(secret ? agreed && given : agreed);
    }, { once: true });
  });
}
$("dialog-input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return; // else it would press the first button, which is Cancel
  event.preventDefault();
  $("dialog").close("yes");
});

let toasting = 0;
function toast(said) {
  text("toast", said);
  $("toast").hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => { $("toast").hidden = true; }, 5000);
}

// -- colours ---------------------------------------------------------------------------------------

const THEMES = ["auto", "dark", "light"];
let theme = remembered();

function remembered() {
  try {
    return THEMES.includes(localStorage.theme) ? localStorage.theme : "auto";
  } catch {
    return "auto"; // storage is off
  }
}

function paint() {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  text("theme", `colours: ${theme}`);
  charts.draw();
}

$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.theme = theme; } catch { /* storage is off: until the page is loaded again */ }
  paint();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

paint();
choose("clients");
