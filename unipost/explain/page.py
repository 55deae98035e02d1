"""An objective as text for a terminal, and as LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from unipost.annealed import annealed_numbers
from unipost.explain.equality import equals
from unipost.explain.expression import formula
from unipost.explain.lines import Statement, objective_lines, vocabulary_lines
from unipost.explain.status import status
from unipost.explain.zero import zero_lines
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.objectives import AnyObjective

WIDTH = 98  # columns; a terminal of 100 shows every line whole


def explain(objective: AnyObjective) -> str:
    """The objective in mathematical notation, line by line, in at most 98 columns.

    ratio, reward, loss   u, the implicit reward z = beta f'(u) and the link's loss
    signal, aggregation   A, and the loss L of the batch; penalty and others in between
    GC     the coefficient, grad L = -sum_it w_it GC_it grad log pi(y_t | s_t)
    status what is exact, gradient-equal, conditional or biased (see `status`)
    annealed  numbers that change from step to step
    zero   where value or gradient are 0, or are not
    is     the presets it equals, or the nearest one and what differs (see `equals`)
    reads  the streams and arrays of the batch

    mean_G is over a group, mean_B over the batch, mean_i over rows, mean_t over a row's
    tokens; sg is a stopped gradient, w chosen and l rejected. A part of one's own is
    its name and the first line of its docstring. `gradient_coefficient` has numbers.
    """
    found = list(_rows(objective))
    width = max(len(name) for name, _, _ in found) + 2
    lines: list[str] = []
    for name, words, hang in found:
        wrapped = textwrap.wrap(
            words,
            WIDTH - width,
            subsequent_indent=" " * hang,
            break_long_words=False,
            break_on_hyphens=False,
        )
        labels = [name, *[""] * (len(wrapped) - 1)]
        pairs = zip(labels, wrapped, strict=True)
        lines += [f"{label:<{width}}{line}" for label, line in pairs]
    return "\n".join(lines)


def latex(objective: AnyObjective) -> str:
    """The same formulas as an `aligned` environment, for between dollars."""
    rows = [statement.latex() for statement in statements(objective)]
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


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


def _rows(objective: AnyObjective) -> Iterator[tuple[str, str, int]]:
    """(name, text, indent of what is wrapped); a repeated name is left out."""
    for statement in statements(objective):
        yield statement.name, statement.text(), 0
    for path, number in annealed_numbers(objective).items():
        yield "annealed", f"{path}: {number}", 0
    labelled = [f"{s.label:<12}{s.about}: {s.line}" for s in status(objective)]
    for name, lines, hang in (
        ("status", labelled, 12),
        ("zero", zero_lines(objective), 0),
        ("is", [str(found) for found in equals(objective)], 0),
        ("reads", [", ".join(sorted(objective.needs))], 0),
    ):
        for k, line in enumerate(lines):
            yield name if k == 0 else "", line, hang
