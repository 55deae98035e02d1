"""The text of a compiled XLA program, read as computations of instructions.

Only what is counted is understood: shapes, operands, what calls what, and how often a
loop turns. The format is XLA's own (`jax.stages.Compiled.as_text`); attributes that are
not asked for are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
"""Bits of an entry where the name of a dtype does not end in them."""

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"(calls|body|condition|to_apply|branch_computations|true_computation|"
    r"false_computation|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclass(frozen=True)
class Shape:
    """One array: dtype, sizes, and whether it lies in memory on the core (VMEM)."""

    dtype: str
    sizes: tuple[int, ...]
    on_core: bool = False

    @property
    def count(self) -> int:
        """Its entries."""
        return prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Its size without padding."""
        bits = BITS.get(self.dtype)
        if bits is None:
            found = re.search(r"[a-z](\d+)", self.dtype)
            bits = int(found[1]) if found else 0
        return (self.count * bits + 7) // 8


@dataclass(frozen=True)
class Instruction:
    """One line: its result (several arrays of a tuple), operands by name, the rest."""

    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The arrays of the result, those inside tuples one after the other."""
        return tuple(parse_shapes(self.result))

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, name: str) -> str | None:
        """The value of `name=` up to the next comma outside brackets."""
        found = re.search(rf"(?:^|[ ,]){re.escape(name)}=", self.attributes)
        return _value(self.attributes[found.end() :]) if found else None

    @property
    def called(self) -> Iterator[tuple[str, str]]:
        """(attribute, computation) of everything that it calls."""
        for kind, names in _CALLED.findall(self.attributes):
            for name in re.findall(r"[\w.\-]+", names):
                yield kind, name


@dataclass
class Computation:
    """Instructions in order, and by name; the root is the result."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    root: str = ""

    @cached_property
    def named(self) -> dict[str, Instruction]:
        """Instructions by name."""
        return {x.name: x for x in self.instructions}

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        found = (x for x in self.instructions if x.opcode == "parameter")
        return {int(x.literal): x for x in found}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """What reads the result of each instruction."""
        found: dict[str, list[Instruction]] = {x.name: [] for x in self.instructions}
        for instruction in self.instructions:
            for name in dict.fromkeys(instruction.operands):
                found[name].append(instruction)
        return found


@dataclass(frozen=True)
class Program:
    """The computations of a module by name, and which of them is run."""

    computations: dict[str, Computation]
    entry: str


def parse_shapes(text: str) -> Iterator[Shape]:
    """The arrays of a result as XLA writes it, without the comments of long tuples."""
    for dtype, sizes, layout in _ARRAY.findall(text):
        on_core = re.search(r"S\(\d+\)", layout) is not None
        yield Shape(dtype, tuple(int(n) for n in sizes.split(",") if n), on_core)


def parse_program(text: str) -> Program:
    """The program of `compiled.as_text()`. ValueError where none is found."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" "):
            head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if head:
                current = computations[head[2]] = Computation(head[2])
                entry = head[2] if head[1] else entry
        elif current is not None and (found := _instruction(line)):
            current.instructions.append(found)
            if line.lstrip().startswith("ROOT "):
                current.root = found.name
    if not entry:
        raise ValueError("hlo: no ENTRY computation; give compiled.as_text()")
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = re.sub(r"/\*.*?\*/", "", line[head.end() :])
    end = _close(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    open_ = rest.index("(")
    close = _close(rest, open_)
    inside = rest[open_ + 1 : close]
    names = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(
        head[1], rest[:open_], result, names, inside, rest[close + 1 :].lstrip(", ")
    )


def _close(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in "({[":
            depth += 1
        elif text[place] in ")}]":
            depth -= 1
            if depth == 0:
                return place
    return len(text) - 1


def _value(text: str) -> str:
    depth = 0
    for place, letter in enumerate(text):
        if letter in "({[":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        elif letter == "," and depth == 0:
            return text[:place]
    return text
