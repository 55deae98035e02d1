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


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """`x` spread over the mesh that is set: axis names, BATCH or None per dimension.

    Axes that the mesh does not have are left out, those that a `jax.shard_map` around
    cuts by hand, and those of a dimension that they do not divide. Without a mesh, or
    all of its axes by hand, `x` itself.
    """
    if not free_axes():
        return x
    return jax.lax.with_sharding_constraint(x, spec_over(x.shape, *axes))


def spec_over(
    shape: tuple[int, ...], *axes: str | tuple[str, ...] | None
) -> PartitionSpec:
    """The axes that `constrain` spreads an array of this shape over."""
    pairs = zip(shape, axes, strict=True)
    return PartitionSpec(*(over(size, axis) or None for size, axis in pairs))


def over(size: int, axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The axes that `constrain` spreads a dimension over, if they divide it."""
    sizes = free_axes()
    wanted = ROWS if axis == BATCH else (axis,) if isinstance(axis, str) else axis
    there = tuple(n for n in sizes if n in (wanted or ()))
    return there if size % prod(sizes[n] for n in there) == 0 else ()


def free_axes() -> dict[str, int]:
    """{axis: devices along it} of the mesh that is set, in its order; empty without.

    Axes of one device are left out, and those that a `jax.shard_map` around cuts by
    hand.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = (n for n in mesh.axis_names if n not in mesh.manual_axes)
    return {n: mesh.shape[n] for n in names if mesh.shape[n] > 1}


def shards(axis: str) -> int:
    """Parts that `axis`, or BATCH, of the mesh that is set cuts a dimension into."""
    sizes = free_axes()
    return prod(sizes.get(n, 1) for n in (ROWS if axis == BATCH else (axis,)))


def platform() -> str:
    """What is compiled for: the platform of the mesh that is set, else jax's default.

    They differ where a program is compiled ahead of time for devices elsewhere.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


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
