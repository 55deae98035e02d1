"""Intervals of domain indices and of the Transferability Index, from outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unipost.analysis.statistics import Interval
from unipost.analysis.transfer import Groups, domain_index, not_positive


class Intervals(NamedTuple):
    """Transfer with its doubt: intervals of DI and of TI by group.

    ratio   of every group but the source, in percent; NaN where it means nothing
    reason  why it is NaN, or ""
    """

    index: dict[str, Interval]
    ratio: dict[str, Interval]
    reason: str


def transfer_interval(
    base: Mapping[str, ArrayLike],
    tuned: Mapping[str, ArrayLike],
    groups: Groups,
    spread: Mapping[str, float],
    *,
    source: str = "math",
    power: float = 0.5,
    draws: int = 2000,
    seed: int = 0,
) -> Intervals:
    """Intervals of DI of every group and of TI, by bootstrap.

    base, tuned  {benchmark: outcomes [items] or [seeds, items] in 0 ... 1}, the same
                 items in both; seeds and items are drawn anew, the same for both
    spread       s_g by group, held fixed

    TI is the ratio within each draw: a ratio of averages, no average of ratios. Where
    the lower end of the source's interval is not above 0 a TI is NaN: it would divide
    by what may be nothing or a loss.
    """
    outcomes = {b: _paired(b, base[b], tuned[b]) for g in groups.values() for b in g}
    rng = np.random.default_rng(seed)
    drawn = {b: _resampled(*pair, draws, rng) for b, pair in outcomes.items()}
    points = {b: (pair[0].mean(), pair[1].mean()) for b, pair in outcomes.items()}

    def indices(scores) -> dict[str, np.ndarray]:
        found = {}
        for name, benchmarks in groups.items():
            before = 100.0 * np.stack([scores[b][0] for b in benchmarks], -1)
            after = 100.0 * np.stack([scores[b][1] for b in benchmarks], -1)
            found[name] = domain_index(before, after, spread[name], power)
        return found

    whole, many = indices(points), indices(drawn)
    index = {name: _interval(float(whole[name]), many[name]) for name in groups}
    others = [name for name in groups if name != source]
    if not index[source].low > 0:
        none = Interval(math.nan, math.nan, math.nan)
        return Intervals(index, dict.fromkeys(others, none), not_positive(source))
    ratio = {
        name: _interval(
            float(100.0 * whole[name] / whole[source]),
            100.0 * many[name] / many[source],
        )
        for name in others
    }
    return Intervals(index, ratio, "")


def _paired(name: str, base: ArrayLike, tuned: ArrayLike):
    one, other = (np.atleast_2d(np.asarray(x, float)) for x in (base, tuned))
    if one.shape[1] != other.shape[1] or not one.size:
        raise ValueError(
            f"{name}: {one.shape[1]} items of the base and {other.shape[1]} of the "
            "tuned model; give outcomes of the same items"
        )
    return one, other


def _resampled(one: np.ndarray, other: np.ndarray, draws: int, rng) -> tuple:
    """Means [draws] of both with the same items drawn, and each its own seeds."""
    items = rng.integers(one.shape[1], size=(draws, one.shape[1]))

    def means(x: np.ndarray) -> np.ndarray:
        seeds = rng.integers(len(x), size=(draws, len(x)))
        return np.array([x[s][:, i].mean() for s, i in zip(seeds, items, strict=True)])

    return means(one), means(other)


def _interval(value: float, draws: np.ndarray) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, float(low), float(high))
