"""A plan: what every program of a step takes on a topology, compiled or estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from unipost.experiment import Experiment
from unipost.mesh import Layout, Mesh
from unipost.plan.abstract import (
    Sizes,
    bytes_of,
    float32,
    held_bytes,
    open_subject,
    sizes_of,
)
from unipost.plan.collectives import by_kind
from unipost.plan.compiled import Measured, Overflow, measure, open_devices
from unipost.plan.estimate import estimate_memory, sampler_bytes, spread_of
from unipost.plan.exchange import estimate_collectives, moved_bytes
from unipost.plan.flops import Work, attention_kernel, packed_sizes, work_of
from unipost.plan.programs import Part, Step, left_out, open_step, parts_of
from unipost.plan.roofline import Time, places_of, time_of
from unipost.plan.topology import Topology

Told = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """One program of a step: bytes of one chip, and its time.

    runs    times that a step runs it
    beside  bytes that stay on the chip while it runs and are no argument of it
    work    FLOPs of all runs on all chips, from the formula
    time    of all runs
    """

    name: str
    runs: int
    beside: int
    held: int
    work: Work
    time: Time
    measured: Measured | None = None
    overflow: Overflow | None = None

    @property
    def total(self) -> int:
        """The most bytes on a chip while it runs."""
        return self.held + self.beside


@dataclass(frozen=True)
class Plan:
    """What a step of an experiment takes on a topology.

    method  compiled, or ESTIMATE
    left    parts of a run that are not in the plan
    parts   bytes of one chip by what they are; temporaries are the update's rest
    items   the programs of a step, the update first
    """

    method: str
    topology: Topology
    mesh: dict[str, int]
    sizes: Sizes
    parameters: int
    attention: str
    dtype: str
    microbatches: int
    left: tuple[str, ...]
    parts: dict[str, float]
    items: tuple[Item, ...]

    @property
    def peak(self) -> int:
        """The most bytes on a chip in any program."""
        return max(item.total for item in self.items)

    @property
    def overflow(self) -> Overflow | None:
        """Why the compiler refused a program, if it did."""
        return next((x.overflow for x in self.items if x.overflow), None)

    @property
    def fits(self) -> bool:
        """Whether every program was compiled and leaves room for what stays."""
        return self.overflow is None and self.peak <= self.topology.chip.memory

    @property
    def time(self) -> Time:
        """The roofline of a whole step."""
        total = Time(0.0, 0.0, 0.0)
        for item in self.items:
            total += item.time
        return total

    @property
    def tokens(self) -> int:
        """Tokens of a step: prompts and responses at full length."""
        return self.sizes.rows * (self.sizes.prompt + self.sizes.response)

    @property
    def model_flops(self) -> float:
        """FLOPs of a step on all chips, nothing computed twice."""
        return sum(item.work.model for item in self.items)

    @property
    def collectives(self) -> dict[str, tuple[float, float]]:
        """{kind: (count, bytes sent per chip)} of a step."""
        whole: dict[str, tuple[float, float]] = {}
        for item in self.items:
            found = item.measured.collectives if item.measured else ()
            for kind, (count, sent) in by_kind(found).items():
                before = whole.get(kind, (0.0, 0.0))
                whole[kind] = (
                    before[0] + item.runs * count,
                    before[1] + item.runs * sent,
                )
        return whole

    def mfu(self, seconds: float) -> float:
        """Model FLOP/s over the peak, in a step of so many seconds."""
        peak = self.topology.chip.peak(self.dtype) * self.topology.chips
        return self.model_flops / (seconds * peak) if seconds else 0.0


def compile_plan(
    experiment: Experiment, topology: Topology, told: Told = lambda _: None
) -> Plan:
    """Compile every program of a step of `experiment` for a TPU that is not there.

    `told` hears of each program before it is compiled. Raises ValueError without
    libtpu, and for an experiment that does not divide over its mesh.
    """
    devices = open_devices(topology)
    layout = layout_of(experiment, devices)
    step = open_step(experiment, layout)
    config, axes = step.subject.config, layout.sizes
    works = work_of(experiment, config, step.sizes, axes, "tpu")
    items = []
    for part in parts_of(step):
        told(f"{topology.name}: compiling {part.name}")
        with jax.set_mesh(layout.mesh):
            lowered = part.lower()
            found = measure(part.name, lowered, topology.chips, part.turns)
        items.append(_item(step, part, found, works[part.name], topology))
        if found.overflow:
            break
    return _plan("compiled", step, topology, tuple(items))


def layout_of(experiment: Experiment, devices: list[Any]) -> Layout:
    """The mesh of an experiment over these devices; fsdp over all without one."""
    mesh = experiment.mesh or Mesh(data=1, fsdp=-1)
    pieces = experiment.minibatches * experiment.microbatches
    prompts = experiment.data.prompts // pieces
    return mesh.open(devices, prompts=prompts, group=experiment.data.rows)


def estimate_plan(experiment: Experiment, topology: Topology) -> Plan:
    """The plan of an update from shapes, nothing compiled: an ESTIMATE.

    The sampler's cache counts as bytes; its time, as scoring's, is that of its FLOPs.
    """
    mesh = experiment.mesh or Mesh(data=1, fsdp=-1)
    spread = spread_of(mesh, topology.chips)
    platform = topology.platform
    found = estimate_memory(experiment, spread, platform)
    subject, sizes = open_subject(experiment), sizes_of(experiment.data)
    works = work_of(experiment, subject.config, sizes, spread.sizes, platform)
    resident = sum(found.resident.values())
    items = []
    for name, work in works.items():
        wires = estimate_collectives(experiment, spread)
        update = name == "update"
        wires = wires if update else ()
        moved = moved_bytes(experiment, spread, platform) if update else 0.0
        flops = work.hardware / topology.chips
        places = places_of(topology)
        time = time_of(topology, flops, moved, wires, places, experiment.compute.dtype)
        beside = sampler_bytes(experiment, spread) if name == "sample" else 0.0
        held = found.temporaries if update else beside
        measured = Measured(name, flops=flops, moved=moved, collectives=wires)
        items.append(Item(name, 1, resident, int(held), work, time, measured))
    parts: dict[str, float] = dict(found.resident)
    parts["temporaries"] = found.temporaries
    parts["of which gradients"] = found.gradients + found.sums
    return Plan(
        "ESTIMATE",
        topology,
        spread.sizes,
        sizes,
        bytes_of(float32(subject.config)) // 4,
        _attention(experiment, topology),
        experiment.compute.dtype,
        experiment.microbatches,
        left_out(experiment),
        parts,
        tuple(items),
    )


def _attention(experiment: Experiment, topology: Topology) -> str:
    sizes, config = sizes_of(experiment.data), open_subject(experiment).config
    length = packed_sizes(experiment, sizes)[1]
    return attention_kernel(experiment, config, length, topology.platform)


def _item(
    step: Step, part: Part, found: Measured, work: Work, topology: Topology
) -> Item:
    """A compiled program with its roofline; kernels come from the formula."""
    held = found.memory.total if found.memory else 0
    arguments = found.memory.arguments if found.memory else 0
    # what stays and is no argument; the batch, which is one and small, counts as state
    stays = max(0, sum(step.resident.values()) - arguments)
    inside = work.kernel / topology.chips if found.kernels else 0.0
    flops = found.flops * part.runs + inside
    places = places_of(topology, list(step.layout.mesh.devices.flat))
    time = time_of(
        topology,
        flops / part.runs,
        found.moved,
        found.collectives,
        places,
        step.experiment.compute.dtype,
    )
    return Item(
        part.name, part.runs, stays, held, work, time * part.runs, found, found.overflow
    )


def _plan(method: str, step: Step, topology: Topology, items: tuple[Item, ...]) -> Plan:
    parts: dict[str, float] = dict(step.resident)
    memory = items[0].measured.memory if items[0].measured else None
    batch = held_bytes((step.rows, step.scored, step.signal))
    if memory is not None:
        named = sum(parts[name] for name in ("parameters", "optimiser"))
        parts["batch and padding"] = memory.arguments - named
        parts["temporaries"] = memory.total - memory.arguments
        pieces = 2 if step.experiment.microbatches > 1 else 1
        parts["of which gradients"] = pieces * held_bytes(step.state.params)
    else:
        parts["batch"] = batch
    experiment = step.experiment
    return Plan(
        method,
        topology,
        dict(step.layout.mesh.shape),
        step.sizes,
        bytes_of(float32(step.subject.config)) // 4,
        _attention(experiment, topology),
        experiment.compute.dtype,
        experiment.microbatches,
        left_out(experiment),
        parts,
        items,
    )
