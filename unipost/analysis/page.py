"""The page of `unipost analyze`: the table, shifted tokens, and coloured responses.

One HTML file that asks the network for nothing and runs no script. Texts are escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from unipost.analysis.coloured import spans, strongest
from unipost.analysis.compare import Compared
from unipost.analysis.implicit import step_rewards
from unipost.analysis.measures import Measure
from unipost.analysis.responses import Responses
from unipost.analysis.run import Findings
from unipost.analysis.settings import Analysis
from unipost.analysis.table import cells
from unipost.completions.pieces import Piece, pieces
from unipost.completions.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
OWN = """
main { max-width: 70rem; }
h2 { font-size: 1.1rem; margin: 1.75rem 0 .25rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; font-weight: 600; }
table.measures { width: auto; }
table.measures th, table.measures td { padding: .15rem .75rem .15rem 0; }
table.measures tbody, table.measures tbody tr + tr td { border: 0; }
table.measures th { font-weight: 400; }
table.measures tr.head th { font-weight: 600; padding-top: .6rem; }
.response { margin: .35rem 0 .75rem; }
.tokens { border: 1px solid var(--line); padding: .3rem .5rem; max-height: none; }
.shifted code { background: var(--band); padding: 0 .25rem; border-radius: 3px; }
"""


def page(found: Findings, names: Sequence[str], asked: Analysis) -> str:
    """The HTML of the page; `names` are those of base, tuned model and data."""
    base, tuned, data = (html.escape(name) for name in names)
    body = "\n".join(
        [
            f"<header><h1>{tuned} against {base}</h1><p>on {data}</p></header><main>",
            _measures(found.measures),
            _shifted(found.details["shifted_tokens"]),
            *_prompts(found, asked),
            "</main>",
        ]
    )
    return DOCUMENT.format(policy=POLICY, title=tuned, style=STYLE + OWN, body=body)


def _measures(measures: Sequence[Measure]) -> str:
    rows, group = [], None
    for measure in measures:
        if measure.group != group:
            group = measure.group
            head = html.escape(group)
            rows.append(f'<tr class="head"><th scope="rowgroup">{head}</th></tr>')
        numbers = "".join(
            f'<td class="number">{html.escape(cell)}</td>' for cell in cells(measure)
        )
        name = html.escape(measure.name)
        rows.append(f'<tr><th scope="row">{name}</th>{numbers}</tr>')
    heads = "".join(
        f'<th scope="col" class="number">{x}</th>'
        for x in ("base", "tuned", "difference or distance")
    )
    lines = "\n".join(rows)
    return (
        f'<table class="measures"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _shifted(listed: Sequence[dict]) -> str:
    if not listed:
        return "<h2>Shifted tokens</h2><p>No token changed its rank.</p>"
    items = ", ".join(
        f"<code>{html.escape(repr(x['text']))}</code> {x['count']} × {x['mean']:.1f}"
        for x in listed[:20]
    )
    return (
        "<h2>Shifted tokens</h2><p>Of the tuned model's samples, how often and by how "
        f'many places the base ranks them lower.</p><p class="shifted">{items}</p>'
    )


class Side(NamedTuple):
    """One model's samples, as they are shown."""

    name: str
    responses: Responses
    compared: Compared
    rewards: np.ndarray


def _prompts(found: Findings, asked: Analysis) -> Iterator[str]:
    """The first sample of each model to the first prompts, coloured on one scale."""
    shown = min(asked.shown, found.pair.tuned.shape[0])
    limit = strongest(np.concatenate([x[:shown, 0].ravel() for x in found.rewards]))
    yield (
        "<h2>Implicit reward of every token</h2><p>Blue tokens are more likely under "
        "the tuned model than under the base, orange ones less likely; full colour "
        f"from {limit:.3g} on. Point at a token for its numbers.</p>"
    )
    sides = (
        Side("tuned", found.pair.tuned, found.own, found.rewards[0]),
        Side("base", found.pair.base, found.before, found.rewards[1]),
    )
    for i in range(shown):
        prompt = html.escape(found.pair.tuned.given.prompts[i])
        yield f'<h3 class="prompt">{prompt}</h3>'
        for side in sides:
            ids = side.responses.rows.response[i, 0][side.compared.mask[i, 0]]
            parts = pieces(found.tokenizer, ids.tolist())
            yield _response(side, i, parts, limit, asked.separator)


def _response(
    side: Side, i: int, parts: Sequence[Piece], limit: float, separator: str
) -> str:
    """The first sample to prompt i."""
    found, mask = side.compared, side.compared.mask[i, 0]
    values = side.rewards[i, 0][mask]
    ranks = (x.rank[i, 0][mask] for x in (found.base, found.tuned))
    chances = (np.exp(x.logp[i, 0][mask]) for x in (found.base, found.tuned))
    titles = [
        f"reward {r:+.3f}, probability {q:.3g} to {p:.3g}, rank {a} to {b}"
        for r, q, p, a, b in zip(values, *chances, *ranks, strict=True)
    ]
    notes = [f"reward {values.sum():+.2f}"]
    steps = step_rewards(
        values, ["" if x.special else x.text for x in parts], separator
    )
    if len(steps.spans) > 1:
        notes.append(
            "by step " + ", ".join(f"{round(x, 2) + 0.0:+.2f}" for x in steps.rewards)
        )
    text = spans(parts, values.tolist(), limit, titles)
    return (
        f'<div class="response"><span class="label">{side.name}: {"; ".join(notes)}'
        f'</span> {_badge(side.responses, i)}<div class="tokens" dir="auto">{text}'
        "</div></div>"
    )


def _badge(responses: Responses, i: int) -> str:
    if responses.correct is None:
        return ""
    right = responses.correct[i, 0]
    kind, word = ("finished", "right") if right else ("truncated", "wrong")
    return f'<span class="badge {kind}">{word}</span>'


DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Analysis of {title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
