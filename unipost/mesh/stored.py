"""Arrays that are stored in parts and read whole: gathered over the axis fsdp."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec

from unipost.mesh.activations import constrain, free_axes, over

Array = jax.Array
Axes = tuple[str | None, ...]


@partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["axes"])
@dataclass(frozen=True)
class Stored:
    """An array and the mesh axes that its dimensions are stored over."""

    array: Array
    axes: Axes


def gathered(x: Array, axes: Axes) -> Array:
    """`x`, stored over `axes`, whole over fsdp. Its gradient is stored as it is.

    The gradient is never whole on a device: what is summed over devices is cut at once.
    """
    if not free_axes():
        return x

    def gather(_, x: Array) -> Array:
        return constrain(x, *(None if axis == "fsdp" else axis for axis in axes))

    def cut(_, change: Array) -> Array:
        return constrain(change, *axes)

    return jax.custom_derivatives.linear_call(gather, cut, (), constrain(x, *axes))


def whole(tree: Any) -> Any:
    """`tree` with every `Stored` gathered."""
    return _each(lambda x: gathered(x.array, x.axes), tree)


def bare(tree: Any) -> Any:
    """`tree` with every `Stored` as the array that it is, for its shape."""
    return _each(lambda x: x.array, tree)


def specs_by_hand(tree: Any, axes: Collection[str]) -> Any:
    """How a `jax.shard_map` that cuts `axes` by hand takes the arrays of `tree`.

    A `Stored` over fsdp by its parts, where fsdp is cut by hand, the others whole.
    """

    def spec(x: Any) -> PartitionSpec:
        if not isinstance(x, Stored) or "fsdp" not in axes:
            return PartitionSpec()
        names = zip(x.array.shape, x.axes, strict=True)
        return PartitionSpec(
            *(a if a == "fsdp" and over(n, a) else None for n, a in names)
        )

    return jax.tree.map(spec, tree, is_leaf=_is_stored)


def whole_by_hand(specs: Any, tree: Any) -> Any:
    """`whole` inside that `jax.shard_map`, of the `specs_by_hand` that it was given.

    The gradient of a part is the sum over fsdp of what all devices say of it.
    """

    def one(spec: PartitionSpec, x: Any) -> Array:
        x = x.array if _is_stored(x) else x
        for axis, name in enumerate(spec):
            if name is not None:
                part = _cut_at_once(x)
                x = jax.lax.all_gather(part, name, axis=axis, tiled=True)
        return x

    return jax.tree.map(one, specs, tree, is_leaf=_is_spec)


def _cut_at_once(x: Array) -> Array:
    """`x`, whose gradient is a device's own part before anything else is done.

    XLA for TPU sums the whole and would cut it only where it is read, so that the whole
    would be held until the optimiser runs.
    """

    def cut(_, change: Array) -> Array:
        return jax.lax.optimization_barrier(change)

    return jax.custom_derivatives.linear_call(lambda _, x: x, cut, (), x)


def _each(function: Callable[[Stored], Array], tree: Any) -> Any:
    return jax.tree.map(
        lambda x: function(x) if _is_stored(x) else x, tree, is_leaf=_is_stored
    )


def _is_stored(x: Any) -> bool:
    return isinstance(x, Stored)


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)
