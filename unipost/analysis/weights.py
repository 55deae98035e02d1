"""How far the weights moved: norms of the difference, and weights that did not move.

Of two trees of arrays of the same shapes, one array after the other on the host in
float64. A matrix is the
last two axes of an array, so the layers of a stacked block and the experts of a layer
are matrices of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from unipost.adapters import Adapted, merge
from unipost.policy import Params

STACKED = "blocks"
"""Leaves below this name have a first axis of layers."""
DENSE = 512
"""Matrices with no side above this are decomposed whole."""


class WeightDistance(NamedTuple):
    """Norms of dtheta = tuned - base.

    l1, l2     sum |dtheta|, sqrt(sum dtheta^2) over all weights
    relative   l2 over the L2 norm of the base
    spectral   the largest singular value of dtheta in any matrix: the spectral norm of
               all matrices side by side; biases and scales of norms are left out
    unchanged  share of weights with the same value, compared in the narrower of their
               two dtypes. Of weights that are trained in bfloat16 it says what
               rounding swallowed (2509.04259 section 6)
    """

    l1: float
    l2: float
    relative: float
    spectral: float
    unchanged: float


def weight_distance(base_params: Params, params: Params) -> WeightDistance:
    """`WeightDistance` of two sets of parameters; an adapter counts as merged in.

    Raises ValueError where the arrays or their shapes differ, naming the first.
    """
    one = two = size = spectral = 0.0
    same = total = 0
    for path, x, y in _leaves(base_params, params):
        same, total = same + _same(x, y), total + x.size
        x, difference = x.astype(float), y.astype(float) - x.astype(float)
        one += float(np.abs(difference).sum())
        two += float((difference**2).sum())
        size += float((x**2).sum())
        norms = (_spectral(m) for m in _matrices(path, difference))
        spectral = max(spectral, *norms, 0.0)
    return WeightDistance(
        l1=one,
        l2=two**0.5,
        relative=(two / size) ** 0.5 if size > 0 else float("nan"),
        spectral=spectral,
        unchanged=same / total,
    )


def unchanged(base_params: Params, params: Params) -> float:
    """Share of weights with the same value in both, as `WeightDistance` has it."""
    pairs = [(_same(x, y), x.size) for _, x, y in _leaves(base_params, params)]
    return sum(same for same, _ in pairs) / sum(size for _, size in pairs)


def _same(x: np.ndarray, y: np.ndarray) -> int:
    """Equal entries, compared in the narrower dtype: a copy in bfloat16 is equal."""
    narrow = min(x.dtype, y.dtype, key=lambda d: d.itemsize)
    return int((x.astype(narrow) == y.astype(narrow)).sum())


def _spectral(matrix: np.ndarray) -> float:
    """The largest singular value; by Lanczos where all of them would take long."""
    if min(matrix.shape) <= DENSE or not matrix.any():
        return float(np.linalg.norm(matrix, 2))
    from scipy.sparse.linalg import svds

    # a fixed start, so that the same weights give the same number
    start = np.ones(min(matrix.shape))
    found: Any = svds(matrix, k=1, v0=start, return_singular_vectors=False)
    return float(found[0])


def _leaves(
    base: Params, tuned: Params
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(path, base, tuned) of every array."""
    base, tuned = (merge(p) if isinstance(p, Adapted) else p for p in (base, tuned))
    before = {jax.tree_util.keystr(k): x for k, x in _flat(base)}
    after = {jax.tree_util.keystr(k): x for k, x in _flat(tuned)}
    odd = sorted(before.keys() ^ after.keys())
    if odd:
        raise ValueError(f"weight_distance: {odd[0]} is in one of the models only")
    for path, x in before.items():
        if x.shape != after[path].shape:
            raise ValueError(
                f"weight_distance: {path} is {x.shape} in the base and "
                f"{after[path].shape} in the tuned model"
            )
        yield path, np.asarray(x), np.asarray(after[path])


def _flat(params: Params):
    return jax.tree_util.tree_leaves_with_path(params)


def _matrices(path: str, x: np.ndarray) -> Iterator[np.ndarray]:
    """The matrices of an array; none of a vector or a stack of vectors."""
    own = x.ndim - (STACKED in path)
    if own >= 2:
        yield from x.reshape(-1, *x.shape[-2:])
