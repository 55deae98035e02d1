"""An objective as text for a terminal, and as LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from unipost.explain.expression import formula, text
from unipost.explain.lines import Statement, objective_lines, vocabulary_lines
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.objectives import AnyObjective, terms

WIDTH = 98  # columns; a terminal of 100 shows every line whole


def statements(objective: AnyObjective) -> Iterator[Statement]:
    """The statements of an objective, those of a mixture term by term."""
    if isinstance(objective, Mixture):
        pairs = zip(objective.terms, objective.weights, strict=True)
        for k, (term, weight) in enumerate(pairs):
            note = "the weight of what follows, with its own denominator"
            yield Statement(f"term {k}", f"w_{k}", formula("w", w=weight), note)
            yield from statements(term)
    elif isinstance(objective, Objective):
        yield from objective_lines(objective)
    else:
        yield from vocabulary_lines(objective)


def rows(objective: AnyObjective) -> Iterator[tuple[str, str]]:
    """(name, text) of every line of `explain`."""
    for statement in statements(objective):
        yield statement.name, statement.text()
    yield "reads", ", ".join(sorted(objective.needs))


def explain(objective: AnyObjective) -> str:
    found = list(rows(objective))
    width = max(len(name) for name, _ in found) + 2
    lines = []
    for name, words in found:
        wrapped = textwrap.wrap(
            words, WIDTH - width, break_long_words=False, break_on_hyphens=False
        )
        for label, line in zip([name, *[""] * len(wrapped)], wrapped, strict=False):
            lines.append(f"{label:<{width}}{line}")
    return "\n".join(lines)


def latex(objective: AnyObjective) -> str:
    found = [s.latex() for s in statements(objective)]
    return "\\begin{aligned}\n" + " \\\\\n".join(found) + "\n\\end{aligned}"
