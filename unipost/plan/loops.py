"""How often every computation of a compiled program runs: the turns of its loops.

A loop of `jax.lax.scan` counts an integer up to a bound. Its turns are read from where
the counter starts, what the body adds and what the condition compares with, wherever
the compiler put these constants.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from unipost.plan.hlo import Computation, Instruction, Program

PASSED = ("copy", "bitcast", "convert", "reshape", "optimization-barrier")
_FLIPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE", "EQ": "EQ"}


@dataclass(frozen=True)
class Turns:
    """Runs of every computation, and the loops whose turns are not in the program.

    runs     computation -> how often it is run; that of a branch is an upper bound
    unknown  names of loops whose turns were given
    """

    runs: dict[str, float]
    unknown: tuple[str, ...]


def count_runs(program: Program, turns: int = 1) -> Turns:
    """How often each computation of `program` runs, once for the whole program.

    `turns` are those of a loop whose end is not in the program, but in the data.
    """
    runs: dict[str, float] = defaultdict(float)
    unknown: list[str] = []

    def enter(name: str, times: float) -> None:
        runs[name] += times
        computation = program.computations[name]
        for instruction in computation.instructions:
            each = 1.0
            if instruction.opcode == "while":
                found = trip_count(program, computation, instruction)
                if found is None:
                    unknown.append(instruction.name)
                each = float(turns if found is None else found)
            for kind, called in instruction.called:
                if kind != "to_apply" or instruction.opcode == "call":
                    enter(called, times * each)

    enter(program.entry, 1.0)
    return Turns(dict(runs), tuple(unknown))


def trip_count(program: Program, outside: Computation, loop: Instruction) -> int | None:
    """Turns of a `while`: the compiler's own figure, or counted; None: not known."""
    known = re.search(r'known_trip_count\D*"?(\d+)', loop.attributes)
    if known:
        return int(known[1])
    called = dict(loop.called)
    body, condition = (program.computations[called[x]] for x in ("body", "condition"))
    found = _comparison(program, condition)
    if found is None:
        return None
    direction, left, right = found
    if not isinstance(left, int):
        direction, left, right = _FLIPPED[direction], right, left
    if not isinstance(left, int):
        return None
    given = outside.named[loop.operands[0]]
    start = _constant(program, outside, given, left)
    step = _step(program, body, left)
    bound = right.value if isinstance(right, _Number) else None
    if isinstance(right, int):
        bound = _constant(program, outside, given, right)
    if start is None or step in (None, 0) or bound is None:
        return None
    return _turns(direction, start, step, bound)


def _turns(direction: str, start: int, step: int, bound: int) -> int | None:
    if direction in ("LE", "GE"):
        bound, direction = bound + (1 if direction == "LE" else -1), direction[0] + "T"
    if direction == "NE":
        direction = "LT" if step > 0 else "GT"
    if (direction, step > 0) not in (("LT", True), ("GT", False)):
        return None
    return max(0, -(-(bound - start) // step))


@dataclass(frozen=True)
class _Number:
    """A constant, in contrast to the number of a place in the loop's tuple."""

    value: int


def _comparison(program: Program, condition: Computation):
    """(direction, left, right) of the root: places of the loop's tuple, or numbers."""
    root = condition.named[condition.root]
    if root.opcode == "compare":
        sides = [_side(condition, condition.named[x]) for x in root.operands]
        return root.attribute("direction") or "", *sides
    inner = dict(root.called).get("calls")
    if root.opcode != "fusion" or inner is None:
        return None
    fused = program.computations[inner]
    compare = fused.named[fused.root]
    if compare.opcode != "compare":
        return None
    sides = []
    for name in compare.operands:
        side = _through(fused, fused.named[name])
        if side.opcode == "parameter":
            outer = root.operands[int(side.literal)]
            sides.append(_side(condition, condition.named[outer]))
        else:
            sides.append(_side(fused, side))
    return compare.attribute("direction") or "", *sides


def _side(computation: Computation, x: Instruction) -> int | _Number | None:
    x = _through(computation, x)
    if x.opcode == "constant":
        return _Number(int(x.literal)) if _whole(x.literal) else None
    if x.opcode == "get-tuple-element":
        return int(x.attribute("index") or -1)
    return None


def _through(computation: Computation, x: Instruction) -> Instruction:
    while x.opcode in PASSED and x.operands:
        x = computation.named[x.operands[0]]
    return x


def _whole(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _constant(
    program: Program, computation: Computation, x: Instruction, place: int
) -> int | None:
    """The number at `place` of a tuple, where it is one."""
    x = _through(computation, x)
    if x.opcode == "while" and not _kept(program, x, place):
        return None
    if x.opcode == "while":
        return _constant(program, computation, _operand(computation, x, 0), place)
    if x.opcode != "tuple":
        return None
    x = _through(computation, _operand(computation, x, place))
    if x.opcode == "get-tuple-element":
        whole, index = _operand(computation, x, 0), int(x.attribute("index") or -1)
        return _constant(program, computation, whole, index)
    return int(x.literal) if x.opcode == "constant" and _whole(x.literal) else None


def _operand(computation: Computation, x: Instruction, number: int) -> Instruction:
    return computation.named[x.operands[number]]


def _kept(program: Program, loop: Instruction, place: int) -> bool:
    """Whether a loop hands on what stands at `place` of its tuple."""
    body = program.computations[dict(loop.called)["body"]]
    root = _through(body, body.named[body.root])
    if root.opcode != "tuple":
        return False
    return _side(body, _operand(body, root, place)) == place


def _step(program: Program, body: Computation, place: int) -> int | None:
    """What a turn adds to the number at `place` of the loop's tuple."""
    root = _through(body, body.named[body.root])
    if root.opcode != "tuple":
        return None
    return _added(program, body, body.named[root.operands[place]], place)


def _added(
    program: Program, body: Computation, x: Instruction, place: int
) -> int | None:
    x = _through(body, x)
    if x.opcode == "fusion":
        return _added_by_fusion(program, body, x, place)
    if x.opcode not in ("add", "subtract"):
        return None
    sides = [_side(body, body.named[name]) for name in x.operands]
    numbers = [side.value for side in sides if isinstance(side, _Number)]
    if place not in sides or len(numbers) != 1:
        return None
    return numbers[0] if x.opcode == "add" else -numbers[0]


def _added_by_fusion(
    program: Program, body: Computation, fusion: Instruction, place: int
) -> int | None:
    fused = program.computations[dict(fusion.called)["calls"]]
    x = _through(fused, fused.named[fused.root])
    if x.opcode not in ("add", "subtract"):
        return None
    found = []
    for name in x.operands:
        side = _through(fused, fused.named[name])
        if side.opcode == "parameter":
            outer = fusion.operands[int(side.literal)]
            found.append(_side(body, body.named[outer]))
        else:
            found.append(_side(fused, side))
    numbers = [side.value for side in found if isinstance(side, _Number)]
    if place not in found or len(numbers) != 1:
        return None
    return numbers[0] if x.opcode == "add" else -numbers[0]
