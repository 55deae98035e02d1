"""Trees of R runs as one tree with a leading axis, and functions over that axis.

What is equal in all runs (a shared base model, a number that is not swept) is held
once: only leaves that differ are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Way = Literal["vmap", "map"]
"""All runs at once, or one after the other: see `unipost.vectorised.steps`."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["leaves"],
    meta_fields=["structure", "axes"],
)
@dataclass(frozen=True)
class Stack:
    """The trees of R runs: `leaves` stacked on axis 0 where `axes` has 0, else shared.

    structure  the tree of one run
    """

    leaves: list[Any]
    structure: Any
    axes: tuple[int | None, ...]

    def one(self, leaves: Sequence[Any]) -> Any:
        """The tree of one run from its leaves."""
        return jax.tree.unflatten(self.structure, leaves)


def stack(trees: Sequence[Any]) -> Stack:
    """The trees of R runs, of one structure, with leaves of equal shapes.

    Leaves that are one object, or equal numbers, in all runs are shared. Python numbers
    stay what they are to jax, weakly typed: they widen no array they meet.
    """
    structure = jax.tree.structure(trees[0])
    columns = list(zip(*(jax.tree.leaves(tree) for tree in trees), strict=True))
    axes = tuple(None if _shared(column) else 0 for column in columns)
    leaves = [
        column[0] if axis is None else _array(column)
        for column, axis in zip(columns, axes, strict=True)
    ]
    return Stack(leaves, structure, axes)


def _shared(column: Sequence[Any]) -> bool:
    first = column[0]
    if isinstance(first, int | float):
        return all(isinstance(x, int | float) and x == first for x in column)
    return all(x is first for x in column)


def _array(column: Sequence[Any]) -> Any:
    """One array [R, ...], stacked on the host: to compile it would take longer."""
    if any(isinstance(x, int | float) for x in column):
        return _numbers([float(x) for x in column])
    whole = np.stack([np.asarray(x) for x in column])
    there = any(isinstance(x, jax.Array) for x in column)
    return jax.device_put(whole) if there else whole


@jax.jit
def _numbers(column: list[Any]) -> jax.Array:
    return jnp.stack(column)


def joined(trees: Sequence[Any]) -> Any:
    """The trees of R runs as one, every leaf a new array [R, ...]."""
    return jax.tree.map(lambda *column: jax.device_put(_array(column)), *trees)


def inside(whole: Stack, get: Callable[[Any], Any]) -> Stack:
    """The stack of what `get` takes out of the tree of each run."""
    found = get(whole.one(range(len(whole.leaves))))
    places, structure = jax.tree.flatten(found)
    leaves = [whole.leaves[i] for i in places]
    return Stack(leaves, structure, tuple(whole.axes[i] for i in places))


def stacked(tree: Any) -> Stack:
    """A tree that has the axis of the runs in every leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return Stack(leaves, structure, (0,) * len(leaves))


def parted(tree: Any, runs: int) -> list[Any]:
    """The tree of every run: the inverse of `joined`."""
    host = jax.device_get(tree)

    def of(i: int) -> Any:
        # a copy: the next step overwrites what the host may look into
        return jax.tree.map(lambda x: jax.device_put(np.array(x[i])), host)

    return [of(i) for i in range(runs)]


def over_runs(way: Way, function: Callable[..., Any], *stacks: Stack) -> Any:
    """`function` of the trees of every run; what it gives has the runs on axis 0.

    To be called inside a compiled function.
    """

    def one(*leaves: Sequence[Any]) -> Any:
        pairs = zip(stacks, leaves, strict=True)
        return function(*(each.one(own) for each, own in pairs))

    leaves = [each.leaves for each in stacks]
    if way == "vmap":
        axes = tuple(list(each.axes) for each in stacks)
        return jax.vmap(one, in_axes=axes)(*leaves)
    flat, structure = jax.tree.flatten(leaves)
    axes = [axis for each in stacks for axis in each.axes]
    moving = [x for x, axis in zip(flat, axes, strict=True) if axis is not None]

    def own(moving: Sequence[Any]) -> Any:
        rest = iter(moving)
        pairs = zip(flat, axes, strict=True)
        leaves = [x if axis is None else next(rest) for x, axis in pairs]
        return one(*jax.tree.unflatten(structure, leaves))

    return jax.lax.map(own, moving)


@partial(jax.jit, static_argnums=(0, 1))
def call(way: Way, function: Callable[..., Any], *stacks: Stack) -> Any:
    """`over_runs` compiled; `function` is hashable, equal for equal programs."""
    return over_runs(way, function, *stacks)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def advance(way: Way, function: Callable[..., Any], moved: Any, *stacks: Stack) -> Any:
    """`call` that overwrites its first tree, in which every leaf has the axis."""
    return over_runs(way, function, stacked(moved), *stacks)
