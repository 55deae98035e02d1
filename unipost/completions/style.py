"""The look of a page of completions: light and dark, wide and narrow."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --quiet: #57606a; --line: #d0d7de;
  --band: #f6f8fa; --accent: #0a58ca; --up: #2f7fd1; --down: #e0701b;
  --good: #1a7f37; --bad: #b42318; --note: #7a5c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ec; --quiet: #9aa4af; --line: #353c44;
    --band: #1d2228; --accent: #7db4ff; --up: #3d8fe0; --down: #d9741f;
    --good: #57c27a; --bad: #ff8a7a; --note: #e0b84a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 0 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif;
}
header { padding: 1rem 0 .5rem; }
h1 { display: inline-block; font-size: 1.35rem; margin: 0 .75rem 0 0; }
a { color: var(--accent); }
p { margin: .25rem 0; }
#summary, #count { color: var(--quiet); }
#controls { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; margin: .75rem 0; }
#controls label { display: inline-flex; align-items: center; gap: .4rem; }
input, select, button { font: inherit; color: inherit; }
input[type=search], select {
  background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  padding: .2rem .5rem; max-width: 100%;
}
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
#legend { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem; }
#ramp {
  width: 11rem; height: .8rem; border-radius: 3px; border: 1px solid var(--line);
  background: linear-gradient(to right,
    color-mix(in srgb, var(--down) 65%, var(--paper)), var(--paper),
    color-mix(in srgb, var(--up) 65%, var(--paper)));
}
#legend[hidden], label[hidden], .prompt[hidden] { display: none !important; }
#low, #high { font-variant-numeric: tabular-nums; }
table { width: 100%; border-collapse: collapse; margin-top: .5rem; }
table.index { width: auto; }
th, td { padding: .4rem .5rem; vertical-align: top; text-align: left; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; }
#head th { position: sticky; top: 0; background: var(--paper); z-index: 1; }
#head button {
  background: none; border: 0; padding: 0; cursor: pointer; font-weight: 600;
  text-align: inherit;
}
#head button::after { content: "\\a0\\2195"; color: var(--quiet); }
#head [aria-sort] button::after { color: var(--accent); }
#head [aria-sort=ascending] button::after { content: "\\a0\\2191"; }
#head [aria-sort=descending] button::after { content: "\\a0\\2193"; }
tbody { border-bottom: 2px solid var(--line); }
tbody.flat { border-bottom: 0; }
tbody tr + tr td { border-top: 1px solid var(--line); }
tr.group th {
  background: var(--band); font-weight: 400; border-left: 4px solid var(--accent);
}
tbody:not(.flat) tr.row td:first-child { border-left: 4px solid var(--line); }
.prompt {
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 9rem; overflow-y: auto;
  text-align: start;
}
.label { color: var(--quiet); font-size: .85rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
td.text { width: 70%; min-width: 20rem; }
.tokens {
  white-space: pre-wrap; overflow-wrap: anywhere; text-align: start; max-height: 26rem;
  overflow-y: auto; border-radius: 4px; padding: 1px 3px;
  font: 13.5px/1.65 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace;
}
.tokens span { border-radius: 2px; }
.tokens span.up {
  background: color-mix(in srgb, var(--up) calc(var(--a) * 1%), transparent);
}
.tokens span.down {
  background: color-mix(in srgb, var(--down) calc(var(--a) * 1%), transparent);
}
.tokens span.off { text-decoration: underline dotted var(--quiet); }
.tokens span.special, .tokens span.part { font-size: .85em; font-style: italic; }
.tokens span.line::before { content: "\\21b5"; color: var(--quiet); }
.tokens span.here, .tokens span:hover { outline: 1.5px solid var(--ink); }
.badge {
  display: inline-block; border: 1px solid currentColor; border-radius: 999px;
  padding: 0 .5rem; margin: 0 .25rem .2rem 0; font-size: .8rem; white-space: nowrap;
  color: var(--quiet);
}
.badge.finished { color: var(--good); }
.badge.truncated, .badge.unscored { color: var(--bad); }
.badge.off { color: var(--note); }
#tip {
  position: fixed; z-index: 5; pointer-events: none; max-width: min(22rem, 92vw);
  background: var(--band); border: 1px solid var(--line); border-radius: 8px;
  box-shadow: 0 4px 16px rgb(0 0 0 / 25%); padding: .5rem .75rem; font-size: .85rem;
}
#tip[hidden] { display: none; }
#tip code { white-space: pre-wrap; overflow-wrap: anywhere; font-weight: 600; }
#tip dl {
  display: grid; grid-template-columns: auto auto; gap: 0 1rem; margin: .3rem 0 0;
}
#tip dt { color: var(--quiet); }
#tip dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
@media (max-width: 760px) { body { padding: 0 .75rem 4rem; } }
/* a card per completion where its row would not fit (class set by the script) */
.cards #table, .cards #table :is(tbody, tr, td, .group th, thead) { display: block; }
.cards #table thead th { position: static; padding: .2rem 0; border: 0; }
.cards #table #head { display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.cards #table #head .plain { display: none; }
.cards #table td { padding: .15rem .5rem; border: 0; }
.cards #table td.text { width: auto; min-width: 0; }
.cards #table td.number { display: inline-block; text-align: start; }
.cards #table td.number::before { content: attr(data-name) " "; color: var(--quiet); }
.cards #table td.number:empty { display: none; }
.cards #table tr.row { padding: .4rem .2rem; border-top: 1px solid var(--line); }
.cards #table tbody:not(.flat) tr.row { border-left: 4px solid var(--line); }
"""
