"""Paired tests, equivalence by two one-sided tests, and Holm's correction."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from unipost.analysis.statistics.bootstrap import Interval, Verdict, paired_difference

_EXACT = 14
"""Differences up to which all 2^n signs are tried."""


class Equivalence(NamedTuple):
    """A difference, its interval at 1 - 2 alpha, and whether it is within a margin."""

    interval: Interval
    verdict: Verdict


def equivalence(
    a: ArrayLike,
    b: ArrayLike,
    margin: float,
    alpha: float = 0.05,
    n_boot: int = 10_000,
    seed: int = 0,
) -> Equivalence:
    """TOST: |mean(a - b)| < margin, by the bootstrap interval at 1 - 2 alpha.

    supported where that interval lies within (-margin, margin), which is two one-sided
    tests at alpha; not supported where it lies wholly outside; else inconclusive.
    a, b as in `paired_difference`. Raises ValueError for a margin that is not positive.
    """
    interval = paired_difference(a, b, n_boot, seed, 2 * alpha)
    return Equivalence(interval, within(interval.low, interval.high, margin))


def within(low: float, high: float, margin: float) -> Verdict:
    """The verdict on "the effect is smaller than the margin", from its interval."""
    if not margin > 0:
        raise ValueError(f"equivalence: margin = {margin:g}; write a number above 0")
    if -margin < low and high < margin:
        return "supported"
    outside = low >= margin or high <= -margin
    return "not supported" if outside else "inconclusive"


def holm(p: ArrayLike) -> np.ndarray:
    """Holm's adjusted p: max over ranks j <= k, from 0, of min(1, (m - j) p_(j)).

    A claim holds at level alpha over the whole family where its adjusted p < alpha.
    """
    p = np.asarray(p, float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("holm: needs p-values [m] between 0 and 1")
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1.0, (len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(scaled)
    return adjusted


def wilcoxon(differences: ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of differences [n]; 1 if all are 0."""
    values = _differences(differences, "wilcoxon")
    if not values.any():
        return 1.0
    found: Any = stats.wilcoxon(values)
    return float(found.pvalue)


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p of the t-test that the mean of differences [n], n >= 2, is 0.

    1 where all are 0, 0 where all are the same other number.
    """
    values = _differences(differences, "paired_t")
    if len(values) < 2:
        raise ValueError("paired_t: needs two differences at least")
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    found: Any = stats.ttest_1samp(values, 0.0)
    return float(found.pvalue)


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of McNemar's exact test of right (1) and wrong (0) answers [items].

    Of the items that one of both solves, the share that `a` does is 1/2. 1 without any.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not np.isin(np.stack([a, b]), (0, 1)).all():
        raise ValueError("mcnemar: needs 0 and 1 for the same items of both")
    first, second = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    if first + second == 0:
        return 1.0
    return float(stats.binomtest(first, first + second, 0.5).pvalue)


def sign_flip(differences: ArrayLike, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of the permutation test that differences [n] are symmetric about 0.

    The share of sign patterns whose |mean| is as large as that found: of all 2^n up to
    n = 14, of `draws` random ones and the one found beyond.
    """
    values = _differences(differences, "sign_flip")
    found = abs(values.sum())
    if len(values) <= _EXACT:
        signs = np.array([*itertools.product((1.0, -1.0), repeat=len(values))])
        extra = 0
    else:
        rng = np.random.default_rng(seed)
        signs = rng.choice((1.0, -1.0), size=(draws, len(values)))
        extra = 1
    # rounding must not make a pattern and its mirror image differ
    large = np.abs(signs @ values) >= found - 1e-9 * np.abs(values).sum()
    return float((large.sum() + extra) / (len(signs) + extra))


def _differences(values: ArrayLike, name: str) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name}: needs finite differences [n], got {values.shape}")
    return values
