"""How hard an objective pushes the tokens of a data set, and how probable they are.

The gradient coefficient GC stands before grad log pi(y_t | s_t)
(`unipost.explain.gradient_coefficient`): > 0 raises a token, < 0 lowers it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from unipost.batch import Batch
from unipost.explain import gradient_coefficient
from unipost.objectives import AnyObjective
from unipost.policy import Params, Policy
from unipost.update import Rows, annotate, with_present, with_streams


class Histogram(NamedTuple):
    """Counts of positive numbers in bins that are equally wide in log.

    What lies beyond the edges [B + 1] is counted in the bins [B] at the ends; `zeros`
    counts what is 0.
    """

    edges: np.ndarray
    counts: np.ndarray
    zeros: int

    @property
    def shares(self) -> np.ndarray:
        """Share [B] of all numbers, zeros included."""
        return self.counts / max(1, self.counts.sum() + self.zeros)


class Coefficients(NamedTuple):
    """Histograms of |GC|, of tokens that are raised and that are lowered."""

    raised: Histogram
    lowered: Histogram


def log_histogram(
    values: ArrayLike, low: float, high: float, bins: int = 10
) -> Histogram:
    """`Histogram` of values >= 0 between low and high > low > 0.

    Raises ValueError for negative values, ends that are none and bins below 1.
    """
    values = np.asarray(values, float).ravel()
    if not 0 < low < high or bins < 1:
        raise ValueError(
            f"log_histogram: {bins} bins from {low} to {high}; write 0 < low < high"
        )
    if not (values >= 0).all():
        raise ValueError("log_histogram: values below 0 or NaN; give sizes")
    edges = np.geomspace(low, high, bins + 1)
    some = values[values > 0]
    place = np.clip(np.searchsorted(edges, some, "right") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    return Histogram(edges, counts, int(values.size - some.size))


def probability_histogram(
    logps: ArrayLike, mask: ArrayLike, bins: int = 10, low: float = 1e-5
) -> Histogram:
    """Token probabilities of a data set in `bins` log bins from `low` to 1.

    logps, mask [...]. The picture of Figure 2 of 2508.05629 (DFT), whose bins are not
    stated: ours are ten of half a decade. exp underflows to a zero: it is counted in
    the first bin.
    """
    mask = np.asarray(mask).astype(bool)
    p = np.exp(np.asarray(logps, float)[mask])
    return log_histogram(np.maximum(p, np.finfo(float).tiny), low, 1.0, bins)


def bimodality(histogram: Histogram) -> float:
    """Share in the two bins at the ends.

    2508.05629 sees DFT move tokens there and SFT out of the low one, and gives no
    number: this one is ours.
    """
    return float(histogram.shares[[0, -1]].sum())


def coefficients(
    objective: AnyObjective,
    policy: Policy,
    params: Params,
    reference: Params,
    rows: Rows,
    batch: Batch,
) -> tuple[np.ndarray, np.ndarray]:
    """(GC, log-probs) [P G T] of every token of `rows` at `params`.

    `batch` has the rewards that the objective reads; log-probs of the reference and
    of the old policy (the same parameters) are computed here. Raises ValueError for
    objectives whose gradient is not one number per token.
    """
    batch = with_streams(objective, policy, rows, batch, params, reference)
    batch = with_present(policy, objective, params, rows, batch)
    logps = annotate(policy, params, rows).policy
    found: Any = gradient_coefficient(objective, logps, batch)
    return np.asarray(found), np.asarray(jnp.asarray(logps))


def coefficient_histogram(
    values: ArrayLike,
    mask: ArrayLike,
    low: float = 1e-4,
    high: float = 1e2,
    bins: int = 12,
) -> Coefficients:
    """Histograms of |GC| of raised and of lowered tokens.

    values, mask [P G T]; tokens with GC = 0 are the `zeros` of both.
    """
    values = np.asarray(values, float)[np.asarray(mask).astype(bool)]
    ends = low, high, bins
    up, down = (np.where(s * values > 0, s * values, 0.0) for s in (1.0, -1.0))
    zeros = int((values == 0).sum())
    found = (log_histogram(x, *ends)._replace(zeros=zeros) for x in (up, down))
    return Coefficients(*found)
