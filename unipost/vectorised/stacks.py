"""Trees of R runs as one tree with a leading axis, and functions over that axis.

What is equal in all runs (a shared base model, a number that is not swept) is held
once: only leaves that differ are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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
    return np.stack([np.asarray(x) for x in column])


@jax.jit
def _numbers(column: list[Any]) -> jax.Array:
    return jnp.stack(column)


def joined(trees: Sequence[Any]) -> Any:
    """The trees of R runs as one, every leaf a new array [R, ...]."""
    return jax.tree.map(lambda *column: jax.device_put(_array(column)), *trees)


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


def over_runs(function: Callable[..., Any], *stacks: Stack) -> Any:
    """`function` of the trees of every run, vmapped; what it gives has axis 0 of runs.

    To be called inside a compiled function.
    """

    def one(*leaves: Sequence[Any]) -> Any:
        pairs = zip(stacks, leaves, strict=True)
        return function(*(each.one(own) for each, own in pairs))

    axes = tuple(list(each.axes) for each in stacks)
    return jax.vmap(one, in_axes=axes)(*(each.leaves for each in stacks))


@partial(jax.jit, static_argnums=0)
def call(function: Callable[..., Any], *stacks: Stack) -> Any:
    """`over_runs` compiled; `function` is hashable, equal for equal programs."""
    return over_runs(function, *stacks)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def advance(function: Callable[..., Any], moved: Any, *stacks: Stack) -> Any:
    """`call` that overwrites its first tree, in which every leaf has the axis."""
    return over_runs(function, stacked(moved), *stacks)
