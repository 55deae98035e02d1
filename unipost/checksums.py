"""Checksums of arrays on devices: damage on disk is noticed whatever it hits.

    c(x) = sum_i (2 i + 1) bits(x_i)  mod 2^32

i is the row-major position and bits(x_i) the entry as an unsigned number (one of 8
bytes counts as two entries). Weights are odd, so a change of any one entry changes the
sum; sums of integers do not depend on how an array is spread over devices.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def checksums(tree: Any) -> dict[str, int]:
    """{path of the leaf, state.params.x: its checksum} of a tree of arrays."""

    def name(path: Any) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".")

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # all are on their way before one is waited for
    found = {name(path): _checksum(x) for path, x in leaves}
    return {name: int(value) for name, value in jax.device_get(found).items()}


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    unsigned = _UNSIGNED[np.dtype(x.dtype).itemsize]
    bits = lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    place, size = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        along = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place + along * jnp.uint32(size % 2**32)
        size *= bits.shape[axis]
    return jnp.sum((2 * place + 1) * bits, dtype=jnp.uint32)
