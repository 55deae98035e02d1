"""The mesh of a run as its config writes it: `mesh: {data: -1, fsdp: 4, tensor: 2}`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import gcd, prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipost.mesh.layout import Layout

ROWS = ("data", "fsdp", "expert")
"""Axes that the rows of a batch are spread over."""
AXES = (*ROWS, "sequence", "tensor")


@dataclass(frozen=True)
class Mesh:
    """How many devices lie along each axis; one of them may be -1: all that are left.

    data      copies of the model, each with its share of the rows
    fsdp      rows are shared here too, and parameters and optimiser state are spread;
              each layer is gathered when it is computed
    tensor    heads, inner width and vocabulary are spread: every device computes a part
              of every row
    sequence  tokens of a row are spread, for rows too long for one device
    expert    experts of a mixture are spread, and rows too
    rules     parameter -> the axes of its dimensions, before those of
              `unipost.mesh.RULES`: {embedding: [null, fsdp]}
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    expert: int = 1
    rules: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        from unipost.mesh.rules import parse_rules

        for axis in AXES:
            size = getattr(self, axis)
            if not isinstance(size, int) or (size < 1 and size != -1):
                raise ValueError(
                    f"mesh.{axis}: {size!r}; write a number of devices, or -1 for all "
                    "that are left"
                )
        free = [axis for axis in AXES if getattr(self, axis) == -1]
        if len(free) > 1:
            raise ValueError(f"mesh: {' and '.join(free)} are -1; only one can be")
        parse_rules(self.rules, AXES)

    def sizes(self, devices: int) -> dict[str, int]:
        """{axis: size} for so many devices. ValueError where they do not come out."""
        sizes = {axis: getattr(self, axis) for axis in AXES}
        named = prod(size for size in sizes.values() if size > 0)
        free = [axis for axis, size in sizes.items() if size < 0]
        if (free and devices % named) or (not free and devices != named):
            text = " x ".join(f"{a} {n}" for a, n in sizes.items() if n not in (1, -1))
            raise ValueError(
                f"mesh: {text or 'one device'} does not make {devices} devices; write "
                f"sizes that multiply to {devices}, or -1 for one of them"
            )
        return sizes | {axis: devices // named for axis in free}

    def open(
        self,
        devices: Sequence[Any] | None = None,
        *,
        prompts: int | None = None,
        group: int = 1,
    ) -> Layout:
        """The mesh over `devices` (None: all there are), and what lies where on it.

        prompts, group  of the smallest piece that a batch is computed in: its rows must
        come out even. None: rows that do not divide are on every device.

        Raises ValueError for sizes that do not make up the devices, and for pieces that
        do not divide over the axes of rows.
        """
        import jax

        from unipost.mesh.layout import Layout
        from unipost.mesh.rules import RULES, parse_rules

        devices = list(jax.devices() if devices is None else devices)
        sizes = self.sizes(len(devices))
        order = row_order(sizes, prompts, group)
        names = (*order, *(axis for axis in AXES if axis not in ROWS))
        own = parse_rules(self.rules, AXES)
        grid = _grid(sizes, devices).transpose([AXES.index(name) for name in names])
        return Layout(jax.sharding.Mesh(grid, names), (*own, *RULES), len(own))


def row_order(
    sizes: dict[str, int], prompts: int | None, group: int
) -> tuple[str, ...]:
    """An order of the row axes in which the first fill up P and the others G.

    Raises ValueError where there is none.
    """
    if prompts is None:
        return ROWS
    for order in permutations(ROWS):
        left, rest, into = prompts, group, "prompts"
        for axis in order:
            if into == "prompts" and left % sizes[axis] == 0:
                left //= sizes[axis]
            else:
                into = "group" if sizes[axis] > 1 else into
                if rest % sizes[axis]:
                    break
                rest //= sizes[axis]
        else:
            return order
    text = " x ".join(f"{axis} {sizes[axis]}" for axis in ROWS if sizes[axis] > 1)
    shards = prod(sizes[axis] for axis in ROWS)
    first = gcd(prompts, shards)
    instead = (
        "write other data.prompts (or minibatches, microbatches), or fewer devices for "
        "rows and more for tensor or sequence"
    )
    if sizes["expert"] == 1 and first > 1 and group % (shards // first) == 0:
        instead = f"write data: {first}, fsdp: {shards // first}"
    raise ValueError(
        f"mesh: a piece of {prompts} prompts x {group} rows does not divide over "
        f"{text}; {instead}"
    )


def _grid(sizes: dict[str, int], devices: list[Any]) -> Any:
    """The devices as an array in the order of AXES, neighbours where the wires are.

    `data` goes over the slices of a TPU, which only the network connects.
    """
    from jax.experimental import mesh_utils

    shape = tuple(sizes[axis] for axis in AXES)
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    if slices == 1:
        # an axis may take a part of a side: tensor 2 of 16 x 16 chips
        return mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )
    if sizes["data"] % slices:
        raise ValueError(
            f"mesh.data: {sizes['data']} is no multiple of the {slices} slices; write "
            f"data: {slices} or a multiple of it"
        )
    inside = (sizes["data"] // slices, *shape[1:])
    between = (slices, *(1 for _ in shape[1:]))
    return mesh_utils.create_hybrid_device_mesh(inside, between, devices)
