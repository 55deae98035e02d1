"""Which part of which array lies on which device of a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from unipost.mesh.rules import Rule, check_rules, spec_of
from unipost.mesh.settings import ROWS
from unipost.optimizers.leaves import map_named


@dataclass(frozen=True)
class Layout:
    """A mesh of devices and the rules of its parameters; hashable, static in a jit.

    All axes are of type Auto: XLA finds what follows from where arguments lie and from
    the constraints inside a program. The first `own` rules are the user's.
    """

    mesh: jax.sharding.Mesh
    rules: tuple[Rule, ...]
    own: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        """{axis: devices along it}."""
        return dict(self.mesh.shape)

    @property
    def row_shards(self) -> int:
        """Parts that the rows of a batch are cut into."""
        return int(np.prod([self.sizes[axis] for axis in ROWS]))

    def sharding(self, name: str, shape: tuple[int, ...]) -> NamedSharding:
        """Of the parameter, or the leaf of an optimiser's state, called `name`.

        Raises ValueError with the parameter and the dimension that does not divide.
        """
        spec = spec_of(name, tuple(shape), self.sizes, self.rules)
        return NamedSharding(self.mesh, spec)

    def shardings(self, tree: Any) -> Any:
        """A sharding for every leaf, by its name."""
        return map_named(lambda name, x: self.sharding(name, x.shape), tree)

    def check(self, params: Any) -> None:
        """Refuse a rule of the user's that no parameter goes by. Raises ValueError."""
        check_rules(self.rules[: self.own], params)

    def keep(self, tree: Any) -> Any:
        """`tree` constrained to its shardings, inside a compiled program."""
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree))

    def spread(self, tree: Any) -> Any:
        """Parameters, each put where its rule says; those that lie there stay."""
        return jax.tree.map(_put, tree, self.shardings(tree))

    def everywhere(self, tree: Any) -> Any:
        """`tree` with every array whole on every device."""
        return jax.tree.map(partial(_put, sharding=self.whole), tree)

    @property
    def whole(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, shape: tuple[int, ...]) -> NamedSharding:
        """Of an array of a batch [P, G, ...]: the row axes fill up P, then G.

        An axis that divides neither is left out: its devices hold the same rows.
        """
        named = [axis for axis in self.mesh.axis_names if axis in ROWS]
        found: list[list[str]] = [[], []]
        left, place = list(shape[:2]), 0
        for axis in named:
            count = self.sizes[axis]
            if count == 1:
                continue
            if place < len(left) and left[place] % count:
                place += 1
            if place >= len(left) or left[place] % count:
                break
            found[place].append(axis)
            left[place] //= count
        spec = [tuple(axes) or None for axes in found[: len(shape)]]
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def place(self, tree: Any) -> Any:
        """Arrays of a batch [P, G, ...] on the mesh; a process puts only its own part.

        Arrays of the host must be equal in every process. Scalars are on every device.
        """
        lead = next((x.shape[:2] for x in jax.tree.leaves(tree) if x.ndim > 1), None)

        def put(x):
            # [P] goes as the P of the others does, whatever may be left for G
            if x.ndim == 0:
                return _put(x, self.whole)
            spec = self.rows(lead if lead and x.shape[:1] == lead[:1] else x.shape).spec
            return _put(x, NamedSharding(self.mesh, PartitionSpec(*spec[: x.ndim])))

        return jax.tree.map(put, tree)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        return x
    if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
        return jax.device_put(x, sharding)
    # `sharding` is over several processes: this one hands over what its devices hold
    host = np.asarray(x)
    bounds = sharding.addressable_devices_indices_map(host.shape).values()
    local = host[np.ix_(*_held(list(bounds), host.shape))]
    return jax.make_array_from_process_local_data(sharding, local, host.shape)


def _held(bounds: list[Any], shape: tuple[int, ...]) -> list[np.ndarray]:
    """For each axis the places, in order, that some of these blocks hold."""
    held = []
    for axis, size in enumerate(shape):
        ranges = {cuts[axis].indices(size)[:2] for cuts in bounds}
        held.append(np.concatenate([np.arange(*ends) for ends in sorted(ranges)]))
    return held
