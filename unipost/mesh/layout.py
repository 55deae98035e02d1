"""Which part of which array lies on which device of a mesh."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from unipost.mesh.activations import rows_spec
from unipost.mesh.rules import Rule, check_rules, spec_of
from unipost.mesh.settings import ROWS
from unipost.optimizers.leaves import map_named
from unipost.placement import put


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

    def placement(self, path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        """`sharding` of a parameter by its path, as `load_pretrained` asks for it."""
        return self.sharding(".".join(path), shape)

    def check(self, params: Any) -> None:
        """Refuse a rule of the user's that no parameter goes by. Raises ValueError."""
        check_rules(self.rules[: self.own], params)

    def keep(self, tree: Any) -> Any:
        """`tree` constrained to its shardings, inside a compiled program."""
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree))

    def spread(self, tree: Any) -> Any:
        """Parameters, each put where its rule says; those that lie there stay."""
        return jax.tree.map(put, tree, self.shardings(tree))

    def everywhere(self, tree: Any) -> Any:
        """`tree` with every array whole on every device."""
        return jax.tree.map(partial(put, sharding=self.whole), tree)

    @property
    def whole(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, shape: tuple[int, ...]) -> NamedSharding:
        """Of an array of a batch [P, G, ...]: the row axes fill up P, then G.

        An axis that divides neither is left out: its devices hold the same rows.
        """
        return NamedSharding(self.mesh, rows_spec(shape, self.sizes))

    def place(self, tree: Any) -> Any:
        """Arrays of a batch [P, G, ...] on the mesh; a process puts only its own part.

        Arrays of the host must be equal in every process. Scalars are on every device.
        """
        return jax.tree.map(put, tree, self.row_shardings(tree))

    def keep_rows(self, tree: Any) -> Any:
        """Arrays of a batch constrained to where `place` puts them, in a program."""
        return jax.lax.with_sharding_constraint(tree, self.row_shardings(tree))

    def row_shardings(self, tree: Any) -> Any:
        """Where each array of a batch [P, G, ...] lies."""
        shapes = [x.shape[:2] for x in jax.tree.leaves(tree) if x.ndim > 1]
        lead = shapes[0] if shapes else ()

        def one(x):
            # [P] goes as the P of the others does, whatever may be left for G
            alike = bool(lead) and x.shape[:1] == lead[:1]
            spec = self.rows(lead if alike else x.shape).spec
            return NamedSharding(self.mesh, PartitionSpec(*spec[: x.ndim]))

        return jax.tree.map(one, tree)

    def place_packed(self, tree: Any) -> Any:
        """Arrays of packed rows [pieces, R, ...]: every piece over all row axes."""
        return jax.tree.map(lambda x: put(x, self.packed), tree)

    @property
    def packed(self) -> NamedSharding:
        """Of arrays of packed rows."""
        axes = tuple(n for n in self.mesh.axis_names if n in ROWS and self.sizes[n] > 1)
        return NamedSharding(self.mesh, PartitionSpec(None, axes or None))


def within(layout: Layout | None) -> AbstractContextManager[Any]:
    """A context in which programs are traced for the mesh; None: for one device."""
    return nullcontext() if layout is None else jax.set_mesh(layout.mesh)
