"""Collectives of a compiled program: which, how many, how many bytes, over which chips.

A collective in a loop counts as often as the loop turns. Bytes are those that one chip
sends over the wires when n chips pass parts around a ring, B being the bytes of the
whole array (of the larger of input and output on one chip):

    all-gather, reduce-scatter, all-to-all   B (n - 1) / n
    all-reduce                               2 B (n - 1) / n
    collective-permute                       B
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from unipost.plan.hlo import Computation, Instruction, Program
from unipost.plan.loops import Turns

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)
_SYNONYMS = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "all-gather"}


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    count   times per run of the program
    bytes   of the whole array, once
    group   chips that take part together, as places in the program's list of devices
    """

    kind: str
    count: float
    bytes: int
    group: tuple[int, ...]
    dtype: str

    @property
    def sent(self) -> float:
        """Bytes that a chip sends in all `count` of them."""
        n = len(self.group)
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}
        return self.count * self.bytes * share.get(self.kind, (n - 1) / n)


def find_collectives(
    program: Program, turns: Turns, devices: int
) -> tuple[Collective, ...]:
    """Every collective of more than one chip that `program` runs on `devices`."""
    found = []
    for name, computation in program.computations.items():
        times = turns.runs.get(name, 0.0)
        for kind, instruction in _of(computation) if times else ():
            group = _group(instruction, kind, devices)
            if len(group) > 1:
                size = _bytes(computation, instruction)
                dtype = instruction.shapes[0].dtype
                found.append(Collective(kind, times, size, group, dtype))
    return tuple(found)


def by_kind(collectives: tuple[Collective, ...]) -> dict[str, tuple[float, float]]:
    """{kind: (count, bytes sent per chip)} of the kinds that there are."""
    totals: dict[str, tuple[float, float]] = {}
    for kind in KINDS:
        some = [x for x in collectives if x.kind == kind]
        if some:
            sums = sum(x.count for x in some), sum(x.sent for x in some)
            totals[kind] = sums
    return totals


def _of(computation: Computation) -> Iterator[tuple[str, Instruction]]:
    """(kind, instruction) of the collectives that begin in a computation."""
    # one that is spread over fusions stands in each of them: its start counts
    if any(_goes_on(x) for x in computation.instructions):
        return
    for instruction in computation.instructions:
        opcode = instruction.opcode.removesuffix("-start")
        kind = _SYNONYMS.get(opcode, opcode)
        if kind in KINDS and not _goes_on_inside(instruction):
            if kind == "all-reduce" and _is_scattered(computation, instruction):
                kind = "reduce-scatter"
            yield kind, instruction


def _goes_on(x: Instruction) -> bool:
    return "AsyncCollectiveDone" in x.attributes


def _goes_on_inside(x: Instruction) -> bool:
    """Whether a fusion carries on a collective that another one began."""
    return re.search(r'"flag_start":"\d', x.attributes) is not None


def _is_scattered(computation: Computation, x: Instruction) -> bool:
    """Whether each chip keeps a slice of the sum only: XLA fuses the two on a TPU."""
    if not computation.name.startswith("all-reduce-scatter"):
        return False
    root = computation.named[computation.root]
    return root.bytes < x.bytes


def _bytes(computation: Computation, x: Instruction) -> int:
    """Bytes of the whole array: the larger of what goes in and what comes out."""
    operands = [computation.named[name] for name in x.operands]
    inside = sum(o.bytes for o in operands)
    if x.opcode.endswith("-start") and x.opcode != "all-reduce-start":
        # its result holds the operand, the output, and marks of the exchange
        arrays = [s.bytes for s in x.shapes]
        return max(inside, max(arrays, default=0))
    return max(inside, x.bytes)


def _group(x: Instruction, kind: str, devices: int) -> tuple[int, ...]:
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", x.attribute("source_target_pairs") or "")
        return next(((int(a), int(b)) for a, b in pairs if a != b), (0,))
    return first_group(_groups(x), devices)


def _groups(x: Instruction) -> str:
    """The text of replica_groups: that of a mesh goes on to the braces of its axes."""
    found = re.search(r"replica_groups=(mesh\[[^\]]*\][^{]*\{[^}]*\})", x.attributes)
    return found[1] if found else x.attribute("replica_groups") or ""


def first_group(text: str, devices: int) -> tuple[int, ...]:
    """The first of the groups of devices, in any of XLA's spellings.

    {{0,1},{2,3}}; [2,2]<=[4] and [2,2]<=[2,2]T(1,0), numbers in an order of axes;
    mesh['a'=2,'b'=2] {'b'}, axes of a mesh, whose devices may stand in another order:
    mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}. Empty: all devices. Raises
    ValueError for any other.
    """
    if text.startswith("mesh["):
        return _mesh_group(text)
    iota = re.match(r"\[([\d,]+)\]<=(.*)$", text)
    if iota:
        shape = tuple(map(int, iota[1].split(",")))
        return tuple(map(int, _order(iota[2]).reshape(shape)[0]))
    inner = re.match(r"\{\{([\d,]+)\}", text)
    if inner:
        return tuple(map(int, inner[1].split(",")))
    if text in ("", "{}"):
        return tuple(range(devices))
    raise ValueError(f"hlo: replica_groups={text[:80]} is not understood")


def _order(text: str) -> np.ndarray:
    """[2,3]T(1,0) as the numbers 0 ... 5 in the order that it says."""
    found = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if found is None:
        raise ValueError(f"hlo: the order {text[:80]} of devices is not understood")
    sides = tuple(map(int, found[1].split(",")))
    axes = map(int, found[2].split(",")) if found[2] else range(len(sides))
    return np.arange(prod(sides)).reshape(sides).transpose(tuple(axes))


def _mesh_group(text: str) -> tuple[int, ...]:
    sizes = {n: int(s) for n, s in re.findall(r"'([^']+)'=(\d+)", text)}
    axes = re.search(r"\{([^}]*)\}$", text)
    if axes is None:
        raise ValueError(f"hlo: replica_groups={text[:80]} names no axes")
    ids = re.search(r"device_ids=\((.*)\) ", text)
    places = _order(ids[1]) if ids else np.arange(prod(sizes.values()))
    places = places.reshape(tuple(sizes.values()))
    cut: list[Any] = [0] * len(sizes)
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes[1]):
        # 'a':(2)4 is the part of axis a with 2 devices before it and 4 inside
        whole, axis = sizes[name], list(sizes).index(name)
        inside = int(size) if size else whole
        after = whole // (inside * int(before or 1))
        cut[axis] = slice(0, inside * after, after)
    return tuple(int(n) for n in np.asarray(places[tuple(cut)]).reshape(-1))
