"""Spans of time, and how a stretch of wall time divides over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """What was done from `start` to `end`, in seconds of one clock."""

    name: str
    start: float
    end: float


def overlap(span: Span, start: float, end: float) -> float:
    """Seconds that a span and [start, end] have in common."""
    return max(0.0, min(span.end, end) - max(span.start, start))


def divided(
    start: float, end: float, device: Sequence[Span], host: Iterable[Span]
) -> dict[str, float]:
    """Seconds of [start, end] by name: each moment counts once.

    Where the device works at something, the moment is the device's; elsewhere it is
    what the host does. Spans of one kind must not overlap each other. What no span
    covers is in no entry.
    """
    found: dict[str, float] = {}
    for span in device:
        if span.start < end and span.end > start:
            seconds = overlap(span, start, end)
            found[span.name] = found.get(span.name, 0.0) + seconds
    for span in host:
        first, last = max(span.start, start), min(span.end, end)
        if first < last:
            alone = last - first - sum(overlap(other, first, last) for other in device)
            found[span.name] = found.get(span.name, 0.0) + max(0.0, alone)
    return found
