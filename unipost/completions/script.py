"""The behaviour of a page of completions: colours, sorting, filters, token details.

Texts get into the document as `textContent` and nowhere else.
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const LOGS = ["policy", "old", "behavior", "reference"];
const state = {key: "order", down: false};

const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};
const known = x => x !== null && x !== undefined;
const digits = (x, n = 4) => {
  if (!known(x)) return "unknown";
  const small = x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5);
  return small ? x.toExponential(2) : String(Number(x.toPrecision(n)));
};

// a column is a list, or one number for all tokens; logs are integers (see scales)
const raw = (entry, name, i) => {
  const column = entry.columns[name];
  if (column === undefined) return null;
  return Array.isArray(column) ? column[i] : column;
};
const value = (entry, name, i) => {
  const x = raw(entry, name, i);
  if (!LOGS.includes(name)) return x;
  const mine = raw(entry, "policy", i);
  if (!known(x) || !known(mine)) return null;
  const own = mine / data.scales.policy;
  return name === "policy" ? own : own + x / data.scales[name];
};
const ratio = (entry, name, i) => {  // log(policy / name)
  const x = raw(entry, name, i);
  return known(x) ? 0 - x / data.scales[name] : null;
};

const COLOURS = {
  coefficient: ["gradient coefficient", "coefficient",
    (e, i) => value(e, "coefficient", i), "lowered", "raised"],
  advantage: ["advantage", "advantage",
    (e, i) => value(e, "advantage", i), "below", "above"],
  old: ["log policy/old", "old", (e, i) => ratio(e, "old", i),
    "less likely than then", "more likely"],
  behavior: ["log policy/behaviour", "behavior", (e, i) => ratio(e, "behavior", i),
    "less likely than sampled", "more likely"],
  reference: ["log policy/reference", "reference", (e, i) => ratio(e, "reference", i),
    "less likely than in the reference", "more likely"],
  policy: ["log-prob", "policy", (e, i) => value(e, "policy", i),
    "surprising", "certain"],
};

const spans = new Map();
function tokenSpan(entry, i) {
  const piece = entry.text[i];
  const special = Array.isArray(piece), text = special ? piece[0] : piece;
  const span = make("span", "", text);
  if (special) span.classList.add("special");
  else if (text === "") { span.classList.add("part"); span.textContent = "\u25aa"; }
  else if (/^[\r\n]+$/.test(text)) span.classList.add("line");
  const off = Array.isArray(entry.off) ? entry.off[i] : entry.off;
  if (off) span.classList.add("off");
  span.at = i;
  return span;
}

function tokensOf(entry, index) {
  const box = make("div", "tokens");
  box.tabIndex = 0;
  box.dir = "auto";
  box.entry = entry;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `completion ${index} of group ${entry.group}, ` +
    `${entry.ids.length} tokens; left and right go from token to token`);
  const all = entry.ids.map((_, i) => tokenSpan(entry, i));
  box.append(...all);
  spans.set(entry, all);
  return box;
}

function badgesOf(entry) {
  const cell = make("td", "state");
  for (const name of entry.badges)
    cell.append(make("span", "badge " + name.split(/[ -]/)[0], name));
  return cell;
}

// [key, label, value of an entry, numeric]
function columnsOf() {
  const some = get => data.entries.some(e => known(get(e)));
  const names = [...new Set(data.entries.flatMap(e => Object.keys(e.parts)))];
  const columns = [["order", "#", e => e.order]];
  const add = (key, label, get) => { if (some(get)) columns.push([key, label, get]); };
  add("reward", "reward", e => e.reward);
  for (const name of names) add("part " + name, name, e => e.parts[name]);
  add("advantage", "advantage", e => e.advantage);
  columns.push(["length", "tokens", e => e.ids.length]);
  add("staleness", "stale", e => e.staleness);
  return columns;
}
data.entries.forEach((e, i) => { e.order = i + 1; });
const columns = columnsOf();

function rowOf(entry) {
  const row = make("tr", "row");
  const text = make("td", "text");
  const prompt = make("div", "prompt label", data.groups[entry.group]);
  prompt.dir = "auto";
  text.append(prompt, tokensOf(entry, entry.order));
  entry.promptNode = prompt;
  columns.forEach(([key, label, get], i) => {
    const x = get(entry), cell = make("td", "number", known(x) ? digits(x) : "");
    cell.dataset.name = label;
    row.append(cell);
    if (i === 0) row.append(text, badgesOf(entry));
  });
  return row;
}
data.entries.forEach(entry => { entry.row = rowOf(entry); });
"""
