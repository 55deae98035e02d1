"""The hierarchical percentile bootstrap: bases, then seeds, then items.

One replicate draws, with replacement, base models, seeds within each of them, and
items. The items are the same ones under every seed, so one draw of items serves all
runs of a replicate: their difficulty does not average out over seeds.

Where seeds differ by far more than chance in the items a percentile interval is too
short: of 95% written it covers 80% with three seeds, 87% with five, 90% with eight.
Where they differ as much as 100 items do it covers 95%.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Verdict = Literal["supported", "not supported", "inconclusive"]

_CHUNK = 1_000_000  # resampled weights held at once; a chunk stays in cache


class Interval(NamedTuple):
    """A mean with its interval, 95% unless said otherwise."""

    mean: float
    low: float
    high: float


def wilson(
    successes: ArrayLike, n: ArrayLike, z: float = 1.959963984540054
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval (low, high) of a share successes/n; z = 1.96 is 95%.

    Centre (p + z^2/2n)/(1 + z^2/n); honest at 0 and n, where the normal one is empty.
    """
    s, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    if not ((n >= 1) & (s >= 0) & (s <= n)).all():
        raise ValueError("wilson: needs n >= 1 and 0 <= successes <= n")
    share, scale = s / n, 1.0 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Exact at the ends, where rounding would leave 1e-17.
    low = np.where(s == 0, 0.0, centre - half)
    return low, np.where(s == n, 1.0, centre + half)


def percentiles(draws: ArrayLike, alpha: float = 0.05) -> tuple[float, float]:
    """The alpha/2 and 1 - alpha/2 quantiles of replicates [B]; NaN ones are left out.

    (NaN, NaN) where no replicate has a number. Raises ValueError unless 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"percentiles: alpha = {alpha}; write a share between 0 and 1")
    kept = np.asarray(draws, float)
    kept = kept[~np.isnan(kept)]
    if not kept.size:
        return np.nan, np.nan
    low, high = np.quantile(kept, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike, n_boot: int = 10_000, seed: int = 0, alpha: float = 0.05
) -> Interval:
    """Mean of values [bases, seeds, items], [seeds, items] or [seeds], with interval.

    Every replicate draws bases, seeds and items (see the module); the interval holds
    1 - alpha of the replicates' means. With one seed it is conditional on that seed,
    with one base on that base; of a single number it is (NaN, NaN). Deterministic in
    `seed`. Raises ValueError for values that are not finite.
    """
    table = np.asarray(values, float)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim not in (2, 3) or not table.size or n_boot < 1:
        shape = np.shape(values)
        raise ValueError(
            f"bootstrap_mean: needs [bases, seeds, items], [seeds, items] or [seeds], "
            f"got {shape}"
        )
    bad = int((~np.isfinite(table)).sum())
    if bad:
        raise ValueError(f"bootstrap_mean: {bad} of {table.size} values not finite")
    mean = float(table.mean())
    if table.size == 1:
        return Interval(mean, np.nan, np.nan)
    bases = table.shape[0] if table.ndim == 3 else 1
    flat = table.reshape(-1, table.shape[-1])
    means = np.concatenate([*_means(flat, bases, n_boot, seed)])
    return Interval(mean, *percentiles(means, alpha))


def _means(table: np.ndarray, bases: int, n_boot: int, seed: int) -> Iterator:
    """Resampled means of a table [bases * seeds, items]: sum_ri w_r v_ri w_i / size."""
    rng = np.random.default_rng(seed)
    runs, items = table.shape
    step = max(1, _CHUNK // items)
    for start in range(0, n_boot, step):
        count = min(step, n_boot - start)
        of_runs = run_counts(rng, bases, runs // bases, count)
        of_items = counts(rng, items, count)
        yield np.einsum("bi,bi->b", of_runs @ table, of_items) / table.size


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    n_boot: int = 10_000,
    seed: int = 0,
    alpha: float = 0.05,
) -> Interval:
    """bootstrap_mean of a - b: two arms on the same seeds and items, paired by place.

    Raises ValueError where the shapes differ.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: shapes {a.shape} and {b.shape} differ")
    return bootstrap_mean(a - b, n_boot, seed, alpha)


def verdict(low: float, high: float, threshold: float = 0.0) -> Verdict:
    """The verdict on the claim "the effect is above the threshold", from its interval.

    supported: the interval lies wholly above the threshold; not supported: wholly at
    or below it; inconclusive: anything else, an unknown (NaN) interval included.
    """
    if low > threshold:
        return "supported"
    return "not supported" if high <= threshold else "inconclusive"


def counts(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """How often each of `size` things is drawn in `size` draws: [count, size]."""
    # Counting drawn indices is several times faster than rng.multinomial.
    draws = rng.integers(size, size=(count, size), dtype=np.int32)
    return _counted(draws, size)


def run_counts(
    rng: np.random.Generator, bases: int, seeds: int, count: int
) -> np.ndarray:
    """How often each run is drawn: [count, bases * seeds], seeds of a base together.

    Bases are drawn first, then as many seeds within each base that was drawn.
    """
    if bases == 1:
        return counts(rng, seeds, count)
    base = rng.integers(bases, size=(count, bases, 1), dtype=np.int32)
    seed = rng.integers(seeds, size=(count, bases, seeds), dtype=np.int32)
    return _counted((base * seeds + seed).reshape(count, -1), bases * seeds)


def _counted(draws: np.ndarray, size: int) -> np.ndarray:
    """[count, size] of draws [count, ...] of numbers below `size`."""
    count = len(draws)
    places = draws + size * np.arange(count, dtype=np.int32)[:, None]
    return np.bincount(places.ravel(), minlength=count * size).reshape(count, size)


class Weights:
    """Replicates that several statistics share: row 0 the sample itself, then B draws.

    All arms get the same draws of runs, all tables of one task the same draws of its
    items; tasks are drawn apart, by their name, so that another task changes nothing.
    """

    def __init__(self, bases: int, seeds: int, n_boot: int = 10_000, seed: int = 0):
        self.n_boot, self._seed = n_boot, seed
        drawn = run_counts(np.random.default_rng(seed), bases, seeds, n_boot)
        self.runs = np.concatenate([np.ones((1, bases * seeds)), drawn])
        """[1 + B, runs]: how often each run counts."""
        self._items: dict[str, np.ndarray] = {}

    def items(self, task: str, size: int) -> np.ndarray:
        """[1 + B, items] of a task: how often each item counts, as small integers."""
        if task not in self._items:
            rng = np.random.default_rng([self._seed, *task.encode()])
            step = max(1, _CHUNK // size)
            steps = [min(step, self.n_boot - s) for s in range(0, self.n_boot, step)]
            first = np.ones((1, size), np.uint8)
            drawn = [counts(rng, size, n).astype(np.uint8) for n in steps]
            self._items[task] = np.concatenate([first, *drawn])
        return self._items[task]

    def over_items(self, task: str, table: np.ndarray) -> np.ndarray:
        """Resampled means [1 + B, K] of a table [K, items] of one task."""
        drawn, columns = self.items(task, table.shape[-1]), table.T
        step = max(1, _CHUNK // table.shape[-1])
        parts = range(0, len(drawn), step)
        sums = [drawn[s : s + step].astype(float) @ columns for s in parts]
        return np.concatenate(sums) / table.shape[-1]

    def over_runs(self, values: np.ndarray) -> np.ndarray:
        """Weighted means [1 + B] of values [1 + B, runs], those that are NaN left out.

        NaN where a replicate has drawn no run with a number.
        """
        known = ~np.isnan(values)
        weights = np.where(known, self.runs, 0.0)
        total = weights.sum(1)
        sums = (weights * np.where(known, values, 0.0)).sum(1)
        return np.where(total > 0, sums / np.maximum(total, 1.0), np.nan)
