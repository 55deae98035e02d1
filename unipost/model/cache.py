"""Keys and values as decoding holds them.

Letters in shapes: N rows, S tokens, C cache columns, K key-value heads, E head size.
Keys are [layers N K E C] and values [layers N K C E]: the layout in which both products
of `attention.recall` read them as they lie. On CPU any other is transposed, or read a
few bytes at a time, for every token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unipost.mesh import BATCH, constrain
from unipost.policy import Array, Columns


def cache_columns(key: Array, value: Array) -> tuple[Columns, Columns]:
    """Keys and values [layers N S K E] of S columns in the layout of the cache."""
    return Columns(jnp.moveaxis(key, 2, 4), 4), Columns(jnp.moveaxis(value, 2, 3), 3)


def columns_of(held: tuple[Columns, ...]) -> int:
    """How many columns keys and values have; 0 of none."""
    return held[0].array.shape[held[0].axis] if held else 0


def widened(held: Columns, extra: int) -> Columns:
    """`held` with `extra` empty columns behind."""
    width = [(0, 0)] * held.array.ndim
    width[held.axis] = 0, extra
    return Columns(jnp.pad(held.array, width), held.axis)


def write_column(held: Columns, new: Columns, layer: Array, column: Array) -> Columns:
    """`held` with one column of one layer taken from `new` [1 N ...]."""
    start = [jnp.int32(0)] * held.array.ndim
    start[0], start[held.axis] = jnp.int32(layer), jnp.int32(column)
    array = jax.lax.dynamic_update_slice(held.array, new.array, start)
    return Columns(array, held.axis)


def spread_columns(*held: Columns) -> tuple[Columns, ...]:
    """Keys and values on the mesh that is set: rows over BATCH, heads over tensor."""
    spec = None, BATCH, "tensor", None, None
    return tuple(Columns(constrain(x.array, *spec), x.axis) for x in held)
