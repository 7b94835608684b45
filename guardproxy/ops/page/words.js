// How things are written: durations, numbers, names. Pure.

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.round(seconds / 86400)} d`;
}

export function number(value) {
  return value === null || value === undefined ? "" : value.toLocaleString("en");
}

export function counted(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

// Servers by what keeps them, in the order of the bar. The keys are the document's.
export const USES = [
  ["active", "at work"],
  ["in_transaction", "idle in a transaction"],
  ["pinned", "pinned"],
  ["idle", "lent to idle clients"],
  ["spare", "free"],
  ["changing", "opening, cleaning, closing"],
];

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name.replace("_", "-")}`).trim();
}

// The colour of a client's state, by its class in page.css.
export function stateClass(row) {
  if (row.waits_for === "server" || row.waits_for === "door") return "waiting";
  if (row.state.startsWith("idle in transaction")) return "in-transaction";
  if (row.state === "active") return "active";
  if (row.state === "idle") return row.pins ? "pinned" : "idle";
  return row.state === "login" ? "changing" : "empty";
}
