"""Arms compared at the accuracy that both have reached, not after equally many steps.

A method whose signal dies out when all is learned stops by itself; one that keeps on
pushing does not. At equal steps the two differ by when they stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Matching(NamedTuple):
    """Values of the arms that reach the threshold, and the names of the others."""

    values: dict[str, float]
    censored: tuple[str, ...]


def at_accuracy(accuracy: ArrayLike, value: ArrayLike, reach: float) -> np.ndarray:
    """`value` [...] where the accuracy first reaches `reach`; NaN where it never does.

    accuracy, value [..., points], in the order of the steps. The first point k with
    accuracy >= reach; between the points k - 1 and k linear in (accuracy, value):

        value_(k-1) + (reach - acc_(k-1)) / (acc_k - acc_(k-1)) (value_k - value_(k-1)),

    the value itself where the first point reaches it already.
    """
    accuracy, value = np.broadcast_arrays(
        np.asarray(accuracy, float), np.asarray(value, float)
    )
    if accuracy.ndim < 1 or not accuracy.shape[-1]:
        raise ValueError("at_accuracy: needs one point of a curve at least")
    above = accuracy >= reach
    place = above.argmax(-1)[..., None]
    before = np.maximum(place - 1, 0)
    high, low = (np.take_along_axis(accuracy, i, -1) for i in (place, before))
    end, start = (np.take_along_axis(value, i, -1) for i in (place, before))
    # at the first point high is low, and the value is its own
    rise = np.where(place > 0, high - low, 1.0)
    share = np.where(place > 0, (reach - low) / rise, 1.0)
    found = start + share * (end - start)
    return np.where(above.any(-1), found[..., 0], np.nan)


def matched(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], reach: float
) -> Matching:
    """`at_accuracy` of every arm of {name: (accuracy [points], value [points])}."""
    found = {name: float(at_accuracy(*c, reach)) for name, c in curves.items()}
    values = {name: x for name, x in found.items() if not np.isnan(x)}
    return Matching(values, tuple(name for name in found if name not in values))
