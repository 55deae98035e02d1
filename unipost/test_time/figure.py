"""Accuracy against N, one line for every rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unipost.figure_style import FAINT, METHODS, PAGE, RC, looks_for, new_figure
from unipost.test_time.curves import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what no rule can exceed is grey
_ORACLE = METHODS["control"].color


def figure(points: Sequence[Point], title: str, items: int) -> Figure:
    """Accuracy in percent against N on a log axis, with 95% intervals over items."""
    from matplotlib import rc_context

    with rc_context(RC):
        return _drawn(points, title, items)


def _drawn(points: Sequence[Point], title: str, items: int) -> Figure:
    from matplotlib.ticker import NullLocator

    made = new_figure(PAGE, 3.6)
    axes = made.add_subplot()
    rules = list(dict.fromkeys(p.rule for p in points))
    ends = []
    looks = looks_for(rules)
    for rule in rules:
        own = [p for p in points if p.rule == rule]
        color = _ORACLE if rule == "pass@n" else looks[rule].color
        sizes = [p.samples for p in own]
        means = [100 * (p.mean if p.exact is None else p.exact) for p in own]
        line = ":" if rule == "pass@n" else "--" if "vote" in rule else "-"
        mark = {"marker": looks[rule].marker, "ms": 4, "lw": 1.5}
        axes.plot(sizes, means, line, color=color, **mark)
        lows, highs = ([100 * getattr(p, k) for p in own] for k in ("low", "high"))
        axes.fill_between(sizes, lows, highs, color=color, alpha=0.1, lw=0)
        ends.append((means[-1], rule, color))
    axes.set_xscale("log", base=2)
    ticks = sorted({p.samples for p in points})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("N, responses per question (log scale)")
    axes.set_ylabel("accuracy %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    _label(axes, ends, ticks[-1])
    axes.set_title(
        f"{title}: {items} questions, 95% intervals over questions",
        loc="left",
        fontsize=9,
        color=FAINT,
    )
    return made


def _label(axes, ends: list[tuple[float, str, str]], right: int) -> None:
    """The name of every line beside its end, apart by a line's height at least."""
    low, high = axes.get_ylim()
    ends = sorted(ends)
    places = _apart([value for value, _, _ in ends], (high - low) / 18)
    for place, (_, rule, color) in zip(places, ends, strict=True):
        axes.text(right * 1.08, place, rule, color=color, fontsize=8, va="center")


def _apart(places: list[float], gap: float) -> list[float]:
    """Sorted places pushed apart from both sides, until all are `gap` apart."""
    places = list(places)
    for _ in range(200):
        for i in range(len(places) - 1):
            push = (gap - (places[i + 1] - places[i])) / 2
            if push > 0:
                places[i] -= push
                places[i + 1] += push
    return places
