"""Gradient clipping: by value, by the size of the weights, by the global norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from unipost.optimizers.leaves import is_matrix, map_named
from unipost.parts import Scalar

Array = jax.Array
SMALLEST = 1e-3
"""The norm that a unit of weights counts with at least, so that zeros can move."""


def global_norm(tree: Any) -> Array:
    """sqrt of the sum of squares over all leaves: a scalar."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def clip_by_norm(grads: Any, norm: Array, bound: Scalar) -> Any:
    """`grads`, of this global `norm`, scaled down to `bound` where they exceed it."""
    scale = jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * scale, grads)


def clip_by_value(grads: Any, bound: Scalar) -> Any:
    """Every entry into [-bound, bound]."""
    return jax.tree.map(lambda g: jnp.clip(g, -bound, bound), grads)


def clip_by_ratio(grads: Any, params: Any, ratio: Scalar) -> Any:
    """Adaptive clipping: |g| <= ratio * max(|w|, 1e-3) for every unit (2102.06171).

    A unit is a column of a matrix [in, out], the weights into one output, or a vector.
    """

    def clip(name: str, g: Array, w: Array) -> Array:
        axes = (-2 if is_matrix(name, g) else -1) if g.ndim else None
        size, weight = (_norm(x, axes) for x in (g, w))
        most = ratio * jnp.maximum(weight, SMALLEST)
        return g * jnp.minimum(1.0, most / jnp.maximum(size, 1e-12))

    return map_named(clip, grads, params)


def _norm(x: Array, axis: int | None) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axis, keepdims=True))
