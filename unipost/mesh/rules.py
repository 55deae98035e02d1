"""The rule table: the name of a parameter -> the mesh axes of its dimensions.

A name is the keys of its path, `blocks.query.kernel`. A rule is a regex that must match
the end of the name, so that it holds for an optimiser's moments too, and one entry for
each dimension of the parameter: the name of an axis, several, or None. An axis written
with a question mark is left out where it does not divide the dimension.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

import jax
from jax.sharding import PartitionSpec

from unipost.optimizers.leaves import names_of

Entry = str | tuple[str, ...] | None
Rule = tuple[str, tuple[Entry, ...]]

# Matrices of blocks have the layers, which are scanned over, on their first axis.
_IN, _OUT = "(query|key|value|gate|up)", "(output|down)"
RULES: tuple[Rule, ...] = (
    ("embedding", ("tensor", "fsdp")),
    ("head.kernel", ("fsdp", "tensor")),
    (f"blocks.{_IN}.kernel", (None, "fsdp", "tensor")),
    (f"blocks.{_OUT}.kernel", (None, "tensor", "fsdp")),
    (f"blocks.{_IN}.bias", (None, "tensor")),
    # experts [layers X D F] and [layers X F D]
    (f"blocks.{_IN}.kernel", (None, "expert", "fsdp", "tensor")),
    (f"blocks.{_OUT}.kernel", (None, "expert", "tensor", "fsdp")),
    # low-rank factors [layers in r] and [layers r out], without layers of the head
    (r"adapter\.[^.]+\.a", (None, "fsdp?", None)),
    (r"adapter\.[^.]+\.b", (None, "fsdp?", "tensor?")),
    (r"adapter\.head\.a", ("fsdp?", None)),
    (r"adapter\.head\.b", ("fsdp?", "tensor?")),
)
"""What holds where `mesh.rules` says nothing."""

LARGE = 2**20
"""Entries from which a parameter that no rule names is spread over fsdp."""


def spec_of(
    name: str, shape: tuple[int, ...], sizes: dict[str, int], rules: tuple[Rule, ...]
) -> PartitionSpec:
    """Which axes a parameter is spread over; `sizes` are those of the mesh.

    The first rule that matches the name and has as many entries as the parameter has
    dimensions. One that no rule names is on every device, or, from LARGE entries on,
    spread over fsdp along the longest dimension that it divides. Raises ValueError with
    the parameter and the dimension that its axes do not divide.
    """
    for pattern, entries in rules:
        if len(entries) == len(shape) and _matches(pattern, name):
            pairs = zip(shape, entries, strict=True)
            found = [_checked(name, i, *pair, sizes) for i, pair in enumerate(pairs)]
            return PartitionSpec(*found)
    count = sizes.get("fsdp", 1)
    if prod(shape) < LARGE or count == 1:
        return PartitionSpec()
    order = sorted(range(len(shape)), key=lambda i: -shape[i])
    chosen = next((i for i in order if shape[i] % count == 0), None)
    return PartitionSpec(*("fsdp" if i == chosen else None for i in range(len(shape))))


def _matches(pattern: str, name: str) -> bool:
    return re.search(rf"(?:^|\.)(?:{pattern})$", name) is not None


def _checked(
    name: str, place: int, size: int, entry: Entry, sizes: dict[str, int]
) -> tuple[str, ...] | None:
    """The axes of one dimension, those of one device left out."""
    axes, left = [], size
    for axis in (entry,) if isinstance(entry, str) else entry or ():
        plain = axis.removesuffix("?")
        count = sizes.get(plain, 1)
        if count == 1:
            continue
        if left % count:
            if plain != axis:
                continue
            raise ValueError(
                f"mesh: parameter {name}, dimension {place} of {size} does not divide "
                f"over {plain}: {count}; write another size, or a rule such as "
                f"mesh.rules: {{{name}: [...]}} with {plain}? to leave it whole"
            )
        axes.append(plain)
        left //= count
    return tuple(axes) or None


def parse_rules(rules: dict[str, Any], axes: tuple[str, ...]) -> tuple[Rule, ...]:
    """Rules as a config writes them, checked. Raises ValueError naming the rule."""
    found = []
    for pattern, entries in rules.items():
        where = f"mesh.rules.{pattern}"
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{where}: is no regex ({error})") from error
        if not isinstance(entries, list | tuple):
            raise ValueError(
                f"{where}: {entries!r}; write a list, an entry a dimension"
            )
        plain = tuple(tuple(x) if isinstance(x, list) else x for x in entries)
        used = [y for x in plain for y in (x if isinstance(x, tuple) else (x,)) if y]
        bare = [str(x).removesuffix("?") for x in used]
        for axis in bare:
            if axis not in axes:
                raise ValueError(
                    f"{where}: {axis!r} is no axis; write {', '.join(axes)} or null"
                )
        for axis in set(bare):
            if bare.count(axis) > 1:
                raise ValueError(f"{where}: {axis} stands twice; write it once")
        found.append((pattern, plain))
    return tuple(found)


def check_rules(rules: tuple[Rule, ...], params: Any) -> None:
    """Refuse a rule of one's own that no parameter goes by. Raises ValueError."""
    names, leaves = names_of(params), jax.tree.leaves(params)
    for pattern, entries in rules:
        alike = [
            (n, x) for n, x in zip(names, leaves, strict=True) if _matches(pattern, n)
        ]
        if not alike:
            raise ValueError(
                f"mesh.rules.{pattern}: matches no parameter; write the end of a name "
                f"such as {names[0]}"
            )
        if not any(len(x.shape) == len(entries) for _, x in alike):
            name, leaf = alike[0]
            raise ValueError(
                f"mesh.rules.{pattern}: has {len(entries)} entries, but {name} has "
                f"{len(leaf.shape)} dimensions {tuple(leaf.shape)}"
            )
