"""Where activations lie inside a compiled program: hints that change no number.

They hold for the mesh that is set (`jax.set_mesh`) when a program is traced; without
one a program is traced as if they were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

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


def _over(
    size: int, axis: str | None, sizes: Mapping[str, int]
) -> tuple[str, ...] | None:
    named = [n for n in sizes if n in ROWS] if axis == BATCH else [axis]
    there = tuple(n for n in named if n is not None and sizes.get(n, 1) > 1)
    return there if there and size % prod(sizes[n] for n in there) == 0 else None


def as_pieces(tree: Any) -> Any:
    """Arrays [pieces, P, G, ...] of a batch with the rows of every piece spread.

    The pieces are computed one after the other, so no device may hold one alone.
    Without a mesh the arrays themselves.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree

    def spread(x):
        spec = PartitionSpec(None, *rows_spec(x.shape[1:], mesh.shape))
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree.map(spread, tree)


def rows_spec(shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """The axes of rows [P, G, ...]: they fill up P, then G, in the order of the mesh.

    An axis that divides neither is left out: its devices hold the same rows.
    """
    found: list[list[str]] = [[], []]
    left, place = list(shape[:2]), 0
    for axis in (name for name in sizes if name in ROWS and sizes[name] > 1):
        if place < len(left) and left[place] % sizes[axis]:
            place += 1
        if place >= len(left) or left[place] % sizes[axis]:
            break
        found[place].append(axis)
        left[place] //= sizes[axis]
    return PartitionSpec(*(tuple(axes) or None for axes in found[: len(shape)]))
