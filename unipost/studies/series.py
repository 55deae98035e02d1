"""What a figure draws of a study: a quantity of an arm over the steps, with intervals.

Results may be given as `Sample(results)`, which several figures then share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from unipost.analysis.statistics import Interval, percentiles
from unipost.studies.frame import At
from unipost.studies.sample import Sample


class Series(NamedTuple):
    """A quantity at the points of a curve; its unit is points, %, or nothing."""

    steps: list[int]
    values: list[Interval]
    unit: str


def series(
    results: Mapping[str, Any] | Sample, arm: str, what: str, n_boot: int = 2_000
) -> Series:
    """`Series` of `what` (as in a claim) of an arm: the base, the curve, the last step.

    Means over the seeds with 95% intervals over seeds and items. A point where it was
    not measured is left out. Raises ValueError for a name that the results do not have.
    """
    sample = _sampled(results, n_boot)
    last = sample.results["arms"][sample.frame.members(arm)[0]]["steps"]
    points: list[tuple[int, At]] = [(s, s) for s in sample.frame.curve if s < last]
    found = [(0, sample.mean("base", what, "final"))]
    found += [(step, sample.mean(arm, what, at)) for step, at in points]
    found.append((last, sample.mean(arm, what, "final")))
    kept = [(step, draws) for step, draws in found if draws[0] == draws[0]]
    values = [Interval(float(d[0]), *percentiles(d[1:])) for _, d in kept]
    return Series([s for s, _ in kept], values, sample.frame.quantity(what).unit)


def value(
    results: Mapping[str, Any] | Sample,
    arm: str,
    what: str,
    at: At = "final",
    n_boot: int = 2_000,
) -> Interval:
    """`what` (as in a claim) of an arm at one moment, with its 95% interval.

    NaN where no run reaches the accuracy of `matched`, or it was not measured.
    """
    sample = _sampled(results, n_boot)
    sample.frame.check_at(at, what)
    draws = sample.mean(arm, what, at)
    return Interval(float(draws[0]), *percentiles(draws[1:]))


def _sampled(results: Mapping[str, Any] | Sample, n_boot: int) -> Sample:
    return results if isinstance(results, Sample) else Sample(results, n_boot)
