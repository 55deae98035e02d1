"""A plan as text for the terminal."""

from __future__ import annotations

from unipost.plan.chips import GIB
from unipost.plan.plan import Item, Plan
from unipost.plan.roofline import COMPUTE, MEMORY, NETWORK
from unipost.plan.search import Candidate

MEBI = 2**20


def page(plan: Plan) -> str:
    """All that a plan says."""
    sections = (_head(plan), _memory(plan), _programs(plan), _costs(plan), _time(plan))
    mark = "" if plan.method == "compiled" else f"\n\n{_estimated(plan)}"
    return "\n\n".join(x for x in sections if x) + mark


def gib(size: float) -> str:
    """Bytes as GiB, or MiB where that is less than a tenth."""
    if abs(size) < GIB / 10:
        return f"{size / MEBI:.1f} MiB"
    return f"{size / GIB:.2f} GiB"


def verdict(plan: Plan) -> str:
    """Whether it fits and by how much."""
    mark = "ESTIMATE: " if plan.method != "compiled" else ""
    there = plan.topology.chip.memory
    over = plan.overflow
    if over is not None:
        if not over.wanted:
            return f"does not fit: {over.message}"
        short = gib(over.wanted - over.there)
        return (
            f"does not fit: the compiler asks for {gib(over.wanted)} of "
            f"{gib(over.there)}, {short} too much"
        )
    if plan.fits:
        return f"{mark}fits: {gib(plan.peak)} of {gib(there)} on each chip"
    return (
        f"{mark}does not fit: {gib(plan.peak)} of {gib(there)}, "
        f"{gib(plan.peak - there)} too much"
    )


def mesh_text(sizes: dict[str, int]) -> str:
    """`fsdp=16,tensor=2`: axes of more than one chip."""
    found = [f"{axis}={size}" for axis, size in sizes.items() if size > 1]
    return ",".join(found) or "one chip"


def _head(plan: Plan) -> str:
    sizes = plan.sizes
    pieces = f", {plan.microbatches} microbatches" if plan.microbatches > 1 else ""
    return "\n".join(
        (
            str(plan.topology),
            f"mesh {mesh_text(plan.mesh)}; {plan.parameters / 1e9:.2f} B parameters",
            f"a step: {sizes.prompts} prompts x {sizes.group} rows of {sizes.prompt} + "
            f"{sizes.response} tokens{pieces}; products in {plan.dtype}, attention "
            f"{plan.attention}",
            *((f"not in the plan: {', '.join(plan.left)}",) if plan.left else ()),
            verdict(plan),
        )
    )


def _memory(plan: Plan) -> str:
    label = "by the compiler" if plan.method == "compiled" else "ESTIMATE"
    lines = [f"memory of one chip ({label})"]
    for name, size in plan.parts.items():
        indent = "    " if name.startswith("of which") else "  "
        lines.append(f"{indent}{name:<20} {gib(size):>12}")
    return "\n".join(lines)


def _programs(plan: Plan) -> str:
    if plan.method != "compiled":
        return ""
    head = (
        f"  {'program':<8} {'runs':>4} {'arguments':>11} {'outputs':>11} "
        f"{'temporary':>11} {'aliased':>11} {'peak':>11} {'+ beside':>11}"
    )
    return "\n".join((head, *(_row(item) for item in plan.items)))


def _row(item: Item) -> str:
    memory = item.measured and item.measured.memory
    if memory is None:
        return f"  {item.name:<8} {item.runs:>4}  does not fit"
    cells = (
        memory.arguments,
        memory.outputs,
        memory.temporaries,
        memory.aliased,
        item.held,
        item.total,
    )
    return f"  {item.name:<8} {item.runs:>4} " + " ".join(
        f"{gib(x):>11}" for x in cells
    )


def _costs(plan: Plan) -> str:
    chips = plan.topology.chips
    hardware = sum(item.work.hardware for item in plan.items) / chips
    ran = sum(i.runs * i.measured.flops for i in plan.items if i.measured)
    moved = sum(i.runs * i.measured.moved for i in plan.items if i.measured)
    known = plan.method == "compiled" and plan.overflow is None
    lines = [
        "a step, of one chip",
        f"  FLOPs     {plan.model_flops / chips / 1e12:.1f} T of the model, "
        f"{hardware / 1e12:.1f} T with what is computed again"
        + (f", {ran / 1e12:.1f} T in XLA's products" if known else ""),
    ]
    if plan.overflow is not None:
        return "\n".join(lines)
    lines.append(f"  HBM       {moved / 1e9:.1f} GB")
    for kind, (count, sent) in plan.collectives.items():
        lines.append(f"  {kind:<19} {count:>8.0f} x {sent / 1e9:>10.3f} GB sent")
    return "\n".join(lines)


def _time(plan: Plan) -> str:
    if plan.overflow is not None:
        return ""
    chip, time = plan.topology.chip, plan.time
    rate = plan.tokens / plan.topology.chips
    return "\n".join(
        (
            f"expected time of a step: {time.least:.3g} s if all overlaps, "
            f"{time.most:.3g} s if nothing does; bound by {time.bound}",
            f"  compute {time.compute:.3g} s, HBM {time.memory:.3g} s, network "
            f"{time.network:.3g} s",
            f"  {rate / time.most:.0f} to {rate / time.least:.0f} tokens/s/chip, MFU "
            f"{plan.mfu(time.most):.0%} to {plan.mfu(time.least):.0%}",
            f"  assumed: {COMPUTE:.0%} of {chip.peak(plan.dtype) / 1e12:.0f} TFLOP/s, "
            f"{MEMORY:.0%} of {chip.bandwidth / 1e9:.0f} GB/s HBM, {NETWORK:.0%} of "
            f"{chip.links} x {chip.link / 1e9:.0f} GB/s {_wires(plan)}; every row full",
        )
    )


def _wires(plan: Plan) -> str:
    chip = plan.topology.chip
    if chip.network is None:
        return "links"
    return f"NVLink and {chip.network / 1e9:.0f} GB/s network"


def _estimated(plan: Plan) -> str:
    return (
        "ESTIMATE from shapes: nothing was compiled, and every figure above but "
        "parameters, optimiser and model FLOPs is a model of what a compiler does"
    )


def suggestion(found: Candidate, how: str) -> str:
    """One line: the mesh, what to change, what a chip would hold, how it is known."""
    change = f"{found.change} " if found.change else ""
    return (
        f"  {change}--mesh {mesh_text(found.sizes)}   "
        f"{gib(found.estimate.total)} ({how})"
    )
