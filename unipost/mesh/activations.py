"""Where activations lie inside a compiled program: hints that change no number.

They hold for the mesh that is set (`jax.set_mesh`) when a program is traced; without
one a program is traced as if they were not there.
"""

from __future__ import annotations

from math import prod

import jax
from jax.sharding import PartitionSpec

from unipost.mesh.settings import ROWS

BATCH = "batch"
"""The axes that rows are spread over, in the order in which the mesh has them."""


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` spread over the mesh that is set: an axis name, BATCH or None per dimension.

    Axes that the mesh does not have are left out, and so are those of a dimension that
    they do not divide. Without a mesh `x` itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    pairs = zip(x.shape, axes, strict=True)
    spec = PartitionSpec(*(_over(size, axis, mesh.shape) for size, axis in pairs))
    return jax.lax.with_sharding_constraint(x, spec)


def _over(size: int, axis: str | None, sizes) -> tuple[str, ...] | None:
    named = [n for n in sizes if n in ROWS] if axis == BATCH else [axis]
    there = tuple(name for name in named if sizes.get(name, 1) > 1)
    return there if there and size % prod(sizes[name] for name in there) == 0 else None
