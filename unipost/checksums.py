"""Checksums of arrays on devices: damage on disk is noticed whatever it hits.

    c(x) = sum_i (2 i + 1) bits(x_i)  mod 2^32

i is the row-major position and bits(x_i) the entry as an unsigned number (one of 8
bytes counts as two entries). Weights are odd, so a change of any one entry changes the
sum; sums of integers do not depend on how an array is spread over devices.

Every device sums up its own part and the host adds the parts: programs that wait for
each other's devices could meet in another order in another process.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from unipost.processes import everyones

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
_MODULUS = 2**32


def checksums(tree: Any) -> dict[str, int]:
    """{path of the leaf, state.params.x: its checksum} of a tree of arrays.

    Of several processes all call it, and all get the same.
    """

    def name(path: Any) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".")

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # all are on their way before one is waited for
    parts = [(name(path), x, _parts(x)) for path, x in leaves]
    own = {name: _own(x, part) for name, x, part in parts}
    each = everyones(lambda: own)
    return {name: sum(one[name] for one in each) % _MODULUS for name in own}


def _parts(x: jax.Array) -> jax.Array:
    """One number a device: the sum over its part of `x`."""
    sharding = x.sharding
    if not isinstance(sharding, NamedSharding):
        return _whole(x)
    return _spread(x, sharding.mesh, sharding.spec)


def _own(x: jax.Array, parts: jax.Array) -> int:
    """The sum over what this process has of `x`, what others have too once."""
    first = {s.device for s in x.addressable_shards if s.replica_id == 0}
    numbers = [s for s in parts.addressable_shards if s.device in first]
    return sum(int(np.asarray(s.data).sum()) for s in numbers) % _MODULUS


@jax.jit
def _whole(x: jax.Array) -> jax.Array:
    return _sum(x, (0,) * x.ndim, x.shape)


@partial(jax.jit, static_argnums=(1, 2))
def _spread(x: jax.Array, mesh: jax.sharding.Mesh, spec: PartitionSpec) -> jax.Array:
    axes = (*spec, *(None for _ in range(x.ndim - len(spec))))

    def local(part: jax.Array) -> jax.Array:
        starts = [
            0 if axis is None else size * lax.axis_index(axis)
            for size, axis in zip(part.shape, axes, strict=True)
        ]
        return _sum(part, tuple(starts), x.shape)[None]

    every = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        local, mesh=mesh, in_specs=spec, out_specs=every, check_vma=False
    )(x)


def _sum(part: jax.Array, starts: tuple[Any, ...], shape: tuple[int, ...]) -> jax.Array:
    """The sum over a part that begins at `starts` of an array of `shape`."""
    if part.dtype == jnp.bool_:
        part = part.astype(jnp.uint8)
    width = np.dtype(part.dtype).itemsize
    bits = lax.bitcast_convert_type(part, _UNSIGNED[width]).astype(jnp.uint32)
    if width == 8:
        starts, shape = (*starts, 0), (*shape, 2)
    place = jnp.zeros((), jnp.uint32)
    for axis in range(bits.ndim):
        stride = jnp.uint32(prod(shape[axis + 1 :]) % _MODULUS)
        along = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = place + (along + jnp.asarray(starts[axis]).astype(jnp.uint32)) * stride
    return jnp.sum((2 * place + 1) * bits, dtype=jnp.uint32)
