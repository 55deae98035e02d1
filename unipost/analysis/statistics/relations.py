"""How far one number of a run tells another: quadratic R^2, Spearman, slopes.

Intervals resample runs. What belongs together (the checkpoints of a run, the runs of an
arm) is drawn whole, by its group.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from unipost.analysis.statistics.bootstrap import Interval, percentiles

Relation = Callable[[np.ndarray, np.ndarray], float]
"""A number of x [n] and y [n]."""


def quadratic_r2(x: ArrayLike, y: ArrayLike) -> float:
    """R^2 of the least-squares fit y = a + b x + c x^2: 1 - SS_res / SS_tot.

    NaN for fewer than four points, a constant y, or fewer than three values of x.
    """
    x, y = _pairs(x, y)
    if len(x) < 4 or np.ptp(y) == 0 or len(np.unique(x)) < 3:
        return float("nan")
    # centred and scaled, so that x^2 is no multiple of x in rounding
    z = (x - x.mean()) / x.std()
    design = np.stack([np.ones_like(z), z, z**2], 1)
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1.0 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation, ties by their mean rank; NaN if one is constant.

    The correlation of the ranks of x [n] with those of y [n].
    """
    x, y = _pairs(x, y)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def slope(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Least-squares slope of y [..., n] over x [n]: cov(x, y) / var(x), elementwise.

    Raises ValueError unless x has two different values.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or y.shape[-1:] != x.shape or np.ptp(x) == 0:
        raise ValueError(f"slope: needs x [n] with two values and y [..., n], got {x}")
    centred = x - x.mean()
    return (y @ centred) / (centred @ centred)


def line_r2(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """R^2 of the least-squares line of y [..., n] over x [n]: corr(x, y)^2.

    0 where y does not vary. Raises ValueError as `slope`.
    """
    gradient = slope(x, y)
    x, y = np.asarray(x, float), np.asarray(y, float)
    explained = gradient**2 * ((x - x.mean()) ** 2).sum()
    total = ((y - y.mean(-1, keepdims=True)) ** 2).sum(-1)
    return np.where(total > 0, explained / np.where(total > 0, total, 1.0), 0.0)


def relation(
    of: Relation,
    x: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    n_boot: int = 2_000,
    seed: int = 0,
    alpha: float = 0.05,
) -> Interval:
    """`of`(x, y) for x, y [n], its interval over groups drawn whole with replacement.

    groups [n] names what each point belongs to: its run or its arm. Replicates where
    the number does not exist are left out.
    """
    x, y = _pairs(x, y)
    draws = np.array([of(x[i], y[i]) for i in group_draws(groups, n_boot, seed)])
    return Interval(of(x, y), *percentiles(draws, alpha))


def group_draws(groups: ArrayLike, n_boot: int, seed: int) -> list[np.ndarray]:
    """Places of the points of each replicate, groups [n] drawn whole."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(index == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(names), size=(n_boot, len(names)))
    return [np.concatenate([members[i] for i in draw]) for draw in drawn]


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"needs x [n] and y [n], got {x.shape} and {y.shape}")
    return x, y
