"""Leaves by name: which are matrices, which are decayed, which are stacks.

A leaf is named by the keys on its path, `blocks.query.kernel`. One called `scale` or
`bias` is a vector and so is one with a single axis; all others are matrices [in, out].
Axes before these count matrices or vectors of equal shape, such as layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import jax

Decay = Literal["all", "matrices"] | tuple[str, ...]
"""Which leaves weight decay acts on.

all       every leaf, as in optax, PyTorch and verl
matrices  no scale of a norm and no bias, as in transformers and TRL
regexes   leaves whose name one of them matches somewhere
"""

VECTORS = "scale", "bias"


def name_of(path: Any) -> str:
    """The keys of a path of `jax.tree_util`, joined by points."""
    parts = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
    return ".".join(str(part) for part in parts)


def names_of(tree: Any) -> list[str]:
    """The names of all leaves, in the order of `jax.tree.leaves`."""
    return [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def own_axes(name: str, leaf: Any) -> int:
    """Axes of one matrix (2) or vector (1, or 0 for a scalar) of the leaf."""
    vector = name.rpartition(".")[2] in VECTORS
    return min(leaf.ndim, 1 if vector else 2)


def is_matrix(name: str, leaf: Any) -> bool:
    """Whether the leaf is a matrix, or a stack of them."""
    return own_axes(name, leaf) == 2


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the regexes is found in the name."""
    return any(re.search(pattern, name) for pattern in patterns)


def decayed(decay: Decay, name: str, leaf: Any) -> bool:
    """Whether weight decay acts on the leaf."""
    if isinstance(decay, tuple):
        return matches(name, decay)
    return decay == "all" or is_matrix(name, leaf)


def mask_of(decay: Decay) -> Callable[[Any], Any] | None:
    """The mask that optax takes for weight decay; None for all leaves."""
    if decay == "all":
        return None
    return lambda tree: map_named(lambda name, x: decayed(decay, name, x), tree)


def map_named(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`jax.tree.map` of a function of the leaf's name and the leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(name_of(path), *leaves), tree, *others
    )


def check_patterns(where: str, patterns: tuple[str, ...], tree: Any) -> None:
    """Refuse a regex that matches no leaf. Raises ValueError with the names."""
    names = names_of(tree)
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"{where}: {pattern!r} matches no leaf (they are {', '.join(names)})"
            )


def compiled(where: str, patterns: tuple[str, ...]) -> None:
    """Refuse text that is not a regex, and an empty list. Raises ValueError."""
    if not patterns:
        raise ValueError(f"{where}: is empty; write regexes of names of leaves")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{where}: {pattern!r} is no regex: {error}") from error
