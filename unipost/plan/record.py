"""A plan as plain data, for JSON: what docs/ are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from unipost.plan.collectives import by_kind
from unipost.plan.plan import Item, Plan


def record(plan: Plan, file: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The numbers of a plan: bytes and FLOPs of one chip, seconds of a step."""
    time = plan.time
    return {
        "experiment": file,
        "overrides": list(overrides),
        "method": plan.method,
        "topology": plan.topology.name,
        "chips": plan.topology.chips,
        "chip": plan.topology.chip.kind,
        "memory_there": plan.topology.chip.memory,
        "mesh": {axis: size for axis, size in plan.mesh.items() if size > 1},
        "parameters": plan.parameters,
        "prompts": plan.sizes.prompts,
        "group": plan.sizes.group,
        "tokens": plan.tokens,
        "microbatches": plan.microbatches,
        "attention": plan.attention,
        "left_out": list(plan.left),
        "fits": plan.fits,
        "peak": plan.peak,
        "parts": plan.parts,
        "model_flops": plan.model_flops / plan.topology.chips,
        "collectives": plan.collectives,
        "seconds": {"least": time.least, "most": time.most} | asdict(time),
        "bound": time.bound,
        "mfu": [plan.mfu(time.most), plan.mfu(time.least)],
        "programs": [_program(item) for item in plan.items],
    }


def _program(item: Item) -> dict[str, Any]:
    found = item.measured
    return {
        "name": item.name,
        "runs": item.runs,
        "beside": item.beside,
        "total": item.total,
        "memory": asdict(found.memory) if found and found.memory else None,
        "overflow": asdict(item.overflow) if item.overflow else None,
        "flops": found.flops if found else 0.0,
        "hardware_flops": item.work.hardware,
        "kernel_flops": item.work.kernel,
        "moved": found.moved if found else 0.0,
        "collectives": by_kind(found.collectives) if found else {},
        "compile_seconds": found.seconds if found else 0.0,
        "seconds": asdict(item.time),
    }
