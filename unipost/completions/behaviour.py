"""What a reader can do with a page of completions: sort, filter, colour, look closer.

It follows `unipost.completions.script`, whose names it uses.
"""

BEHAVIOUR = r"""
// ---- which rows, in which order
const matches = entry => {
  const text = $("find").value.toLowerCase(), sign = $("sign").value, r = entry.reward;
  if (text && !entry.plain.includes(text)) return false;
  switch (sign) {
    case "above": return known(r) && r > 0;
    case "zero": return r === 0;
    case "below": return known(r) && r < 0;
    case "unscored": return !known(r);
  }
  return true;
};
const mean = list => list.reduce((a, b) => a + b, 0) / list.length;
const compare = (a, b) => {  // what is not known comes last either way
  if (!known(a) || !known(b)) return known(b) - known(a);
  return state.down ? b - a : a - b;
};

function groupHead(index, entries) {
  const row = make("tr", "group"), cell = make("th");
  cell.colSpan = columns.length + 2;
  cell.scope = "rowgroup";
  const rewards = entries.map(e => e.reward).filter(known);
  const about = rewards.length ? `, mean reward ${digits(mean(rewards))}` : "";
  cell.append(make("div", "label", `group ${index}, ${entries.length} shown${about}`));
  const prompt = make("div", "prompt", data.groups[index]);
  prompt.dir = "auto";
  cell.append(prompt);
  row.append(cell);
  return row;
}

function bodyOf(entries, index) {
  const body = make("tbody", index === null ? "flat" : "");
  if (index !== null) body.append(groupHead(index, entries));
  for (const entry of entries) {
    entry.promptNode.hidden = index !== null;
    body.append(entry.row);
  }
  return body;
}

function render() {
  const get = columns.find(c => c[0] === state.key)[2];
  const shown = data.entries.filter(matches);
  shown.sort((a, b) => compare(get(a), get(b)) || a.order - b.order);
  const table = $("table");
  for (const body of [...table.tBodies]) body.remove();
  if ($("together").checked) {
    // the group of the first row comes first
    const groups = new Map();
    for (const entry of shown) {
      if (!groups.has(entry.group)) groups.set(entry.group, []);
      groups.get(entry.group).push(entry);
    }
    for (const [index, entries] of groups) table.append(bodyOf(entries, index));
  } else table.append(bodyOf(shown, null));
  $("count").textContent = `${shown.length} of ${data.entries.length} completions`;
  for (const cell of $("head").children) {
    const ours = cell.dataset.key === state.key;
    if (ours) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  hideTip();
}

function sortBy(key) {
  // numbers are most telling from the top
  state.down = state.key === key ? !state.down : key !== "order";
  state.key = key;
  render();
}

function fillHead() {
  columns.forEach(([key, label], i) => {
    const cell = make("th", "number"), button = make("button", "", label);
    cell.scope = "col";
    cell.dataset.key = key;
    button.type = "button";
    button.addEventListener("click", () => sortBy(key));
    cell.append(button);
    $("head").append(cell);
    if (i > 0) return;
    for (const name of ["completion", "state"]) {
      const plain = make("th", "plain", name);
      plain.scope = "col";
      $("head").append(plain);
    }
  });
}

// ---- colours
function paint() {
  const [, , get, low, high] = COLOURS[$("colour").value];
  const values = data.entries.map(e => e.ids.map((_, i) => get(e, i)));
  const sizes = values.flat().filter(known).map(Math.abs).sort((a, b) => a - b);
  // one outlier must not fade everything else
  const top = sizes[Math.floor(0.98 * (sizes.length - 1))] || sizes.at(-1) || 0;
  data.entries.forEach((entry, k) => spans.get(entry).forEach((span, i) => {
    const x = values[k][i];
    const share = known(x) && top > 0 ? Math.min(Math.abs(x) / top, 1) : 0;
    span.classList.toggle("up", known(x) && x > 0);
    span.classList.toggle("down", known(x) && x < 0);
    span.style.setProperty("--a", (65 * share).toFixed(1));
  }));
  $("low").textContent = `${digits(-top, 3)} ${low}`;
  $("high").textContent = `${high} ${digits(top, 3)}`;
}

// ---- one token, by pointer or by key
let active = null;
function hideTip() {
  $("tip").hidden = true;
  if (active) active.classList.remove("here");
  active = null;
}
function facts(entry, i) {
  const found = [["token", `${i + 1} of ${entry.ids.length}, id ${entry.ids[i]}`]];
  const add = (label, x) => { if (x !== undefined) found.push([label, digits(x)]); };
  const has = name => entry.columns[name] !== undefined;
  if (has("coefficient")) add("coefficient", value(entry, "coefficient", i));
  if (has("advantage")) add("advantage", value(entry, "advantage", i));
  const called = {policy: "policy", old: "old", behavior: "behaviour",
                  reference: "reference"};
  for (const name of LOGS.filter(has))
    add("log-prob " + called[name], value(entry, name, i));
  for (const name of LOGS.slice(1).filter(has)) {
    const far = ratio(entry, name, i);
    add("policy / " + called[name], known(far) ? Math.exp(far) : null);
  }
  return found;
}
function showTip(span) {
  const entry = span.parentNode.entry, tip = $("tip"), piece = entry.text[span.at];
  const text = Array.isArray(piece) ? piece[0] : JSON.stringify(piece);
  const list = make("dl");
  for (const [name, shown] of facts(entry, span.at))
    list.append(make("dt", "", name), make("dd", "", shown));
  tip.replaceChildren(make("code", "", text), list);
  if (active) active.classList.remove("here");
  active = span;
  span.classList.add("here");
  tip.hidden = false;
  const at = span.getClientRects()[0] || span.getBoundingClientRect();
  const size = tip.getBoundingClientRect(), room = document.documentElement;
  const left = Math.min(at.left, room.clientWidth - size.width - 8);
  const below = at.bottom + 6 + size.height < room.clientHeight;
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = Math.max(8, below ? at.bottom + 6 : at.top - size.height - 6) + "px";
}
const tokenAt = event => event.target.closest(".tokens > span");
$("table").addEventListener("pointerover", event => {
  const span = tokenAt(event);
  if (span) showTip(span); else hideTip();
});
$("table").addEventListener("pointerleave", hideTip);
$("table").addEventListener("focusout", hideTip);
$("table").addEventListener("keydown", event => {
  const box = event.target.closest(".tokens");
  if (event.key === "Escape") return hideTip();
  const steps = {ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9};
  if (!box || !box.children.length || !(event.key in steps)) return;
  event.preventDefault();
  const ours = active && active.parentNode === box, step = steps[event.key];
  const want = ours ? active.at + step : step > 1 ? 1e9 : 0;
  const span = box.children[Math.max(0, Math.min(want, box.children.length - 1))];
  span.scrollIntoView({block: "nearest"});
  showTip(span);
});

// ---- start
function layout() {
  const room = document.documentElement.clientWidth;
  document.body.classList.toggle("cards", room < 450 + 85 * columns.length);
}
function fill(id, options) {
  for (const [key, label] of options) {
    const option = make("option", "", label);
    option.value = key;
    $(id).append(option);
  }
}
data.entries.forEach(entry => {
  const words = entry.text.map(x => Array.isArray(x) ? "" : x).join("");
  entry.plain = (words + "\n" + data.groups[entry.group]).toLowerCase();
});
const has = name => data.entries.some(e => e.columns[name] !== undefined);
fill("colour", Object.entries(COLOURS).filter(([, c]) => has(c[1])).map(
  ([key, c]) => [key, c[0]]));
fill("sign", [["any", "any"], ["above", "above 0"], ["zero", "0"],
              ["below", "below 0"], ["unscored", "unscored"]]);
$("title").textContent = `Completions of step ${data.step}`;
const facts0 = [`${data.completions} completions of ${
  Object.keys(data.groups).length} prompts`];
if (known(data.reward)) facts0.push(`mean reward ${data.reward}`);
if (known(data.length)) facts0.push(`${data.length} tokens on average`);
$("summary").textContent = facts0.join(", ");
$("sign").parentNode.hidden = !data.entries.some(e => known(e.reward));
$("legend").hidden = $("colour").parentNode.hidden = !$("colour").options.length;
fillHead();
layout();
addEventListener("resize", layout);
if ($("colour").options.length) paint();
render();
for (const id of ["find", "sign", "together"]) $(id).addEventListener("input", render);
$("colour").addEventListener("input", paint);
$("controls").addEventListener("submit", event => event.preventDefault());
document.documentElement.dataset.ready = "yes";
"""
