"""Numbers of a curve of gradient norms.

Table 7 of 2507.00432 prints such indicators and gives no formulas: these are ours, with
the names that fit, and their values cannot be compared with that table's. The norm
depends on how the loss is aggregated (a mean over tokens or a sum over a row), so
compare runs of one aggregation only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Indicators(NamedTuple):
    """Of norms g_1 ... g_S; early and late are the first and the last S // 5 steps.

    early_slope    least-squares slope of g over the early steps, per step
    half           first step t at which g_t <= half of the early mean; NaN if none
    total          sum_t g_t
    late_mean      mean of g over the late steps
    late_variance  variance of g over the late steps, divided by their number
    decay          log(late mean / early mean): below 0 where the norm falls
    oscillation    mean_t |g_{t+1} - g_t| over the late steps, divided by the late mean
    """

    early_slope: float
    half: float
    total: float
    late_mean: float
    late_variance: float
    decay: float
    oscillation: float


def indicators(norms: ArrayLike) -> Indicators:
    """`Indicators` of norms [S], S >= 10, in the order of the steps.

    Raises ValueError for fewer steps and norms that are negative or not finite.
    """
    g = np.asarray(norms, float)
    if g.ndim != 1 or len(g) < 10:
        raise ValueError(f"indicators: norms {g.shape}; give 10 steps or more")
    if not (np.isfinite(g) & (g >= 0)).all():
        raise ValueError("indicators: norms that are negative or not finite")
    w = len(g) // 5
    early, late = g[:w], g[-w:]
    below = np.flatnonzero(g <= early.mean() / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        decay = float(np.log(late.mean() / early.mean()))
        waves = float(np.abs(np.diff(late)).mean() / late.mean())
    return Indicators(
        early_slope=float(np.polyfit(np.arange(w), early, 1)[0]),
        half=float(below[0] + 1) if below.size else float("nan"),
        total=float(g.sum()),
        late_mean=float(late.mean()),
        late_variance=float(late.var()),
        decay=decay,
        oscillation=waves,
    )
