"""Measures as a table for a terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from unipost.analysis.measures import Measure
from unipost.analysis.statistics import Interval
from unipost.tables import markdown

HEADS = ["", "base", "tuned", "difference or distance [95%]"]


def cells(measure: Measure) -> tuple[str, str, str]:
    """Base, tuned, and the difference or distance of a line, as text."""
    sign = "" if measure.base is None else "+"
    base, tuned = (_number(x, measure.digits) for x in (measure.base, measure.tuned))
    return base, tuned, _value(measure.value, sign + measure.digits)


def table(measures: Sequence[Measure]) -> str:
    """Markdown whose columns are aligned as plain text, a table for each group."""
    groups = dict.fromkeys(m.group for m in measures)
    names = [m.name for m in measures]
    width = max(map(len, names), default=0)
    blocks = []
    for group in groups:
        own = [m for m in measures if m.group == group]
        rows = [[m.name.ljust(width), *(c.rjust(7) for c in cells(m))] for m in own]
        blocks.append(markdown([group, *HEADS[1:]], rows))
    return "\n\n".join(blocks)


def plain(measure: Measure) -> dict[str, Any]:
    """A measure as JSON values; what is no number is null."""
    found = measure._asdict()
    del found["digits"]
    if isinstance(measure.value, Interval):
        value, low, high = map(_known, measure.value)
        found |= {"value": value, "low": low, "high": high}
    return {k: _known(v) if isinstance(v, float) else v for k, v in found.items()}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None, digits: str) -> str:
    if value is None:
        return ""
    return format(value, digits) if math.isfinite(value) else "none"


def _value(value: Interval | float | None, digits: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, Interval):
        return _number(value, digits)
    if not math.isfinite(value.low):
        return _number(value.mean, digits)
    return f"{value.mean:{digits}} [{value.low:{digits}}, {value.high:{digits}}]"
