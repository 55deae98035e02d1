"""What a compiled program computes and moves, with the turns of its loops.

XLA's own cost analysis counts the body of a loop once. Here every computation counts as
often as it runs. Products: 2 x entries of the result x entries summed over. Memory: the
bytes that every instruction reads from and writes to HBM; arrays on the core (VMEM) are
free, a slice of an array counts as the slice.
"""

from __future__ import annotations

import re
from math import prod

from unipost.plan.hlo import Computation, Instruction, Program
from unipost.plan.loops import Turns

_FREE = frozenset(
    "parameter constant get-tuple-element tuple bitcast while conditional call "
    "after-all partition-id replica-id opt-barrier optimization-barrier iota "
    "add-dependency copy-done slice-done all-gather-done all-reduce-done "
    "collective-permute-done async-done async-update send-done recv-done".split()
)
_VIEWS = ("bitcast", "reshape")
_SLICES = ("dynamic-slice", "gather", "slice")


def product_flops(program: Program, turns: Turns) -> float:
    """FLOPs of all products that one chip computes; kernels of their own count 0."""
    total = 0.0
    for name, computation in program.computations.items():
        times = turns.runs.get(name, 0.0)
        if times:
            every = computation.instructions
            total += times * sum(_flops(computation, x) for x in every)
    return total


def memory_bytes(program: Program, turns: Turns) -> float:
    """Bytes that one chip reads from and writes to HBM in one run of the program."""
    inner = _fused(program)
    total = 0.0
    for name, computation in program.computations.items():
        times = turns.runs.get(name, 0.0)
        if times and name not in inner:
            every = computation.instructions
            total += times * sum(_moved(program, computation, x) for x in every)
    return total


def kernels(program: Program, turns: Turns) -> float:
    """How many calls of kernels that XLA did not write (Pallas) one run makes."""
    return sum(
        turns.runs.get(name, 0.0)
        for name, computation in program.computations.items()
        for x in computation.instructions
        if x.opcode == "custom-call" and "tpu_custom_call" in x.attributes
    )


def _fused(program: Program) -> set[str]:
    """Computations inside one instruction: what they hold never reaches HBM."""
    return {
        called
        for computation in program.computations.values()
        for x in computation.instructions
        if x.opcode not in ("while", "conditional", "call", "async-start")
        for _, called in x.called
    }


def _flops(computation: Computation, x: Instruction) -> float:
    if x.opcode not in ("dot", "convolution"):
        return 0.0
    left, right = (computation.named[name].shapes[0].sizes for name in x.operands[:2])
    if x.opcode == "dot":
        axes = re.findall(r"\d+", x.attribute("lhs_contracting_dims") or "")
        return 2.0 * x.shapes[0].count * prod(left[int(i)] for i in axes)
    # a product on a TPU is a convolution: batches and sums are windows that slide
    labels = re.search(r"([a-z0-9]+)_([a-z0-9]+)->([a-z0-9]+)", x.attributes)
    if labels is None:
        return 0.0
    given, kernel, out = (
        dict(zip(names, sizes, strict=True))
        for names, sizes in zip(
            labels.groups(), (left, right, x.shapes[0].sizes), strict=True
        )
    )
    spatial = sorted(label for label in out if label.isdigit())
    meets = (_meetings(x, int(d), given[d], out[d]) for d in spatial)
    return 2.0 * out["b"] * out["f"] * kernel["i"] * prod(meets)


def _meetings(x: Instruction, place: int, given: int, out: int) -> int:
    """Pairs of an output and a window position that fall on an entry, along one axis.

    Output o reads position stride o + dilation k - pad of the input, whose entries are
    `base` apart.
    """
    size, stride, pad, base, dilation = (
        _of_window(x, name, place, other)
        for name, other in (
            ("size", 1),
            ("stride", 1),
            ("pad", 0),
            ("lhs_dilate", 1),
            ("rhs_dilate", 1),
        )
    )
    last = (given - 1) * base
    places = (stride * o + dilation * k - pad for o in range(out) for k in range(size))
    if size == 1 and stride == base == 1 and pad == 0:
        return out
    return sum(1 for at in places if 0 <= at <= last and at % base == 0)


def _of_window(x: Instruction, name: str, place: int, other: int) -> int:
    """A number of a convolution's window along one axis; of padding the one before."""
    window = x.attribute("window") or ""
    found = re.search(rf"\b{name}=([-\dx_]+)", window)
    if found is None:
        return other
    return int(found[1].split("x")[place].split("_")[0])


def _moved(program: Program, computation: Computation, x: Instruction) -> float:
    if x.opcode in _FREE:
        return 0.0
    operands = [computation.named[name] for name in x.operands]
    if x.opcode == "fusion":
        return _moved_by_fusion(program, x)
    if x.opcode in _SLICES:
        return 2.0 * _in_memory(x)
    if x.opcode == "dynamic-update-slice":
        return 2.0 * _in_memory(operands[1])
    if x.opcode in ("copy-start", "slice-start"):
        # the result names the operand again, and a mark
        parts = [s.bytes for s in x.shapes[:2] if not s.on_core]
        return float(sum(parts))
    return sum(_in_memory(o) for o in operands) + _in_memory(x)


def _in_memory(x: Instruction) -> float:
    return float(sum(s.bytes for s in x.shapes if not s.on_core))


def _moved_by_fusion(program: Program, x: Instruction) -> float:
    fused = _inside(program, x)
    read = sum(_read(program, fused, p) for p in fused.parameters.values())
    root = fused.named[fused.root]
    names = root.operands if root.opcode == "tuple" else (root.name,)
    outputs = zip(names, x.shapes, strict=False)
    written = sum(
        _written(program, fused, fused.named[name], shape.bytes)
        for name, shape in outputs
        if not shape.on_core
    )
    return read + written


def _inside(program: Program, fusion: Instruction) -> Computation:
    return program.computations[dict(fusion.called)["calls"]]


def _read(program: Program, fused: Computation, parameter: Instruction) -> float:
    """Bytes of a parameter that a fusion reads: slices of it where it only slices."""
    whole = float(sum(s.bytes for s in parameter.shapes))
    if all(s.on_core for s in parameter.shapes):
        return 0.0
    return min(whole, _used(program, fused, parameter, whole))


def _used(program: Program, fused: Computation, x: Instruction, whole: float) -> float:
    """Bytes that everything inside a fusion takes of `x`, its views and its copies."""
    total = 0.0
    for user in fused.users[x.name]:
        if user.opcode in _VIEWS:
            total += _used(program, fused, user, whole)
        elif user.opcode in _SLICES and user.operands[0] == x.name:
            total += user.bytes
        elif user.opcode == "fusion":
            inner = _inside(program, user)
            places = [i for i, name in enumerate(user.operands) if name == x.name]
            given = [inner.parameters[i] for i in places]
            total += sum(_used(program, inner, p, whole) for p in given)
        elif not _untouched(fused, user, x):
            return whole
    return total


def _untouched(fused: Computation, user: Instruction, x: Instruction) -> bool:
    """Whether `user` hands `x` on without reading it."""
    if user.opcode == "dynamic-update-slice":
        return user.operands[0] == x.name and x.name not in user.operands[1:]
    return user.opcode == "tuple" and user.name == fused.root


def _written(program: Program, fused: Computation, x: Instruction, whole: int) -> float:
    while x.opcode in _VIEWS:
        x = fused.named[x.operands[0]]
    if x.opcode == "fusion":
        inner = _inside(program, x)
        return _written(program, inner, inner.named[inner.root], whole)
    if x.opcode == "dynamic-update-slice":
        return float(fused.named[x.operands[1]].bytes)
    return 0.0 if x.opcode == "parameter" else float(whole)
