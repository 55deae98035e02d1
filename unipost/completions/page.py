"""Entries as one HTML file that opens in any browser and asks the network nothing.

The rows stand in the page as JSON, in which nothing can end a script or start a tag,
and get into the document as text only.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipost.completions.behaviour import BEHAVIOUR
from unipost.completions.entries import Entry
from unipost.completions.script import SCRIPT
from unipost.completions.style import STYLE
from unipost.runs import write_atomic

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
SUMMARY = "unipost-completions"
SCALES = {"policy": 1e4, "old": 1e5, "behavior": 1e5, "reference": 1e5}
"""Log-probs are written as integers: the policy's, and how far the others are off."""


def write_page(path: Path, entries: Sequence[Entry], step: int) -> None:
    """Write the page of `entries`, whole or not at all. Raises OSError.

    A token takes about 35 bytes: 64 completions of 256 tokens are 0.6 MB.
    """
    rewards = [e.reward for e in entries if e.reward is not None]
    known = [reward for reward in rewards if math.isfinite(reward)]
    lengths = [len(entry.tokens) for entry in entries]
    summary = {
        "step": step,
        "completions": len(entries),
        "reward": round(float(np.mean(known)), 4) if known else None,
        "length": round(float(np.mean(lengths)), 1) if lengths else None,
    }
    values = summary | {
        "scales": SCALES,
        "groups": {str(e.group): e.prompt for e in entries},
        "entries": [_plain(entry) for entry in entries],
    }
    body = TEMPLATE.format(data=escaped(values), script=SCRIPT + BEHAVIOUR)
    write_atomic(path, _document(f"Completions of step {step}", summary, body))


def write_index(folder: Path) -> None:
    """Write index.html, which links every page of `folder`, newest first."""
    rows = []
    for path in sorted(folder.glob("[0-9]*.html"), reverse=True):
        found = _summary(path)
        if found is not None:
            cells = (found[key] for key in ("completions", "reward", "length"))
            shown = "".join(f"<td>{'' if x is None else x}</td>" for x in cells)
            name = html.escape(path.name)
            link = f'<a href="{name}">{found["step"]}</a>'
            rows.append(f'<tr><th scope="row">{link}</th>{shown}</tr>')
    body = INDEX.format(rows="\n".join(rows))
    write_atomic(folder / "index.html", _document("Completions", {}, body))


def escaped(values: Any) -> str:
    """JSON that may stand inside a script element: no <, >, & and no NaN in it."""
    text = json.dumps(
        values, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    # half a character, which no file can hold
    text = text.encode("utf-8", "replace").decode("utf-8")
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(entry: Entry) -> dict[str, Any]:
    """An entry as JSON values; a column of equal numbers as that number."""
    pieces = [[x.text] if x.special else x.text for x in entry.pieces]
    values = {
        "group": entry.group,
        "ids": list(entry.tokens),
        "text": pieces,
        "off": _column([int(x) for x in entry.off_policy]),
        "reward": _number(entry.reward),
        "parts": {k: _number(x) for k, x in entry.parts.items()},
        "advantage": _number(entry.advantage),
        "badges": list(entry.badges),
        "staleness": _number(entry.staleness),
    }
    columns: dict[str, Any] = {}
    for name, column in entry.columns.items():
        if name in SCALES:
            far = column if name == "policy" else column - entry.columns["policy"]
            columns[name] = _column([_integer(x * SCALES[name]) for x in far.tolist()])
        else:
            columns[name] = _column([_number(x) for x in column.tolist()])
    return values | {"columns": columns}


def _column(values: list[Any]) -> Any:
    return values[0] if values and values.count(values[0]) == len(values) else values


def _number(value: float | None) -> float | None:
    """Four digits; None for what is no number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.4g}")


def _integer(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None


def _document(title: str, summary: dict[str, Any], body: str) -> str:
    meta = html.escape(json.dumps(summary))
    return DOCUMENT.format(
        title=title, policy=POLICY, name=SUMMARY, meta=meta, style=STYLE, body=body
    )


def _summary(path: Path) -> dict[str, Any] | None:
    """What a page says of itself in its head; None for a file that is no page."""
    with path.open(encoding="utf-8") as file:
        head = file.read(2000)
    found = re.search(f'<meta name="{SUMMARY}" content="([^"]*)">', head)
    return None if found is None else json.loads(html.unescape(found[1]))


DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="{name}" content="{meta}">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

INDEX = """<header><h1>Completions</h1></header>
<main><table class="index"><thead><tr><th scope="col">step</th>
<th scope="col">completions</th><th scope="col">reward</th>
<th scope="col">tokens</th></tr></thead>
<tbody>
{rows}
</tbody></table></main>"""

TEMPLATE = """<header>
<h1 id="title"></h1> <a href="index.html">all steps</a>
<p id="summary"></p>
<form id="controls">
<label>Find <input id="find" type="search" placeholder="text"></label>
<label>Reward <select id="sign"></select></label>
<label>Colour by <select id="colour"></select></label>
<label><input id="together" type="checkbox" checked> groups together</label>
</form>
<div id="legend"><span id="low"></span><span id="ramp"></span><span id="high"></span>
</div>
<p id="count" role="status"></p>
</header>
<main>
<noscript><p>A script of this page shows its rows; allow it.</p></noscript>
<table id="table"><thead><tr id="head"></tr></thead></table>
</main>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>"""
