"""The expected time of a step from what it computes, reads and sends: a roofline.

    compute  FLOPs of a chip / (peak x COMPUTE)
    memory   HBM bytes of a chip / (bandwidth x MEMORY)
    network  sum over collectives of bytes sent / bandwidth of the wires they go over

What overlaps is not known before it runs: a step takes at least the largest of the
three and at most their sum. The shares of the peak that are assumed are those that
well-tuned programs reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from unipost.plan.collectives import Collective
from unipost.plan.topology import Topology

Place = tuple[int, ...]
COMPUTE, MEMORY, NETWORK = 0.75, 0.8, 0.8
"""Assumed shares of the peaks that are reached."""


@dataclass(frozen=True)
class Time:
    """Seconds of a program by what bounds it."""

    compute: float
    memory: float
    network: float

    @property
    def least(self) -> float:
        """If all of it overlaps."""
        return max(self.compute, self.memory, self.network)

    @property
    def most(self) -> float:
        """If none of it does."""
        return self.compute + self.memory + self.network

    @property
    def bound(self) -> str:
        """What takes longest: compute, memory or network."""
        return max(("compute", "memory", "network"), key=lambda x: getattr(self, x))

    def __add__(self, other: Time) -> Time:
        return Time(
            self.compute + other.compute,
            self.memory + other.memory,
            self.network + other.network,
        )

    def __mul__(self, times: float) -> Time:
        return Time(self.compute * times, self.memory * times, self.network * times)


def time_of(
    topology: Topology,
    flops: float,
    moved: float,
    collectives: Sequence[Collective],
    places: Sequence[Place],
    dtype: str,
) -> Time:
    """The roofline of one run of a program on one chip.

    places  of the chips, in the order of the program's numbers (`places_of`)
    """
    chip = topology.chip
    wires = sum(
        x.sent / (NETWORK * _rate(topology, x, [places[i] for i in x.group]))
        for x in collectives
    )
    return Time(
        flops / (chip.peak(dtype) * COMPUTE), moved / (chip.bandwidth * MEMORY), wires
    )


def _rate(topology: Topology, x: Collective, group: Sequence[Place]) -> float:
    """Bytes/s of a collective; the two directions of a ring's steps go at once."""
    both = 2 if topology.is_tpu and x.kind == "collective-permute" else 1
    return both * bandwidth(topology, group)


def places_of(topology: Topology, devices: Sequence[Any] = ()) -> list[Place]:
    """Where each chip is: coordinates in a TPU slice, the number of a GPU.

    Without devices as if they were numbered along the last side first.
    """
    if devices and topology.is_tpu:
        return [tuple(x.coords[: len(topology.shape)]) for x in devices]
    if topology.is_tpu:
        return list(product(*(range(side) for side in topology.shape)))
    return [(i,) for i in range(topology.chips)]


def bandwidth(topology: Topology, group: Sequence[Place]) -> float:
    """Bytes/s that each chip of a group can send to the others of it.

    On a TPU a ring over every side of the slice along which the group extends: two
    links a side where it is closed, one where it is open. Of GPUs NVLink on one host;
    over several, the network of the host's GPUs together for what leaves the host.
    """
    chip = topology.chip
    if topology.is_tpu:
        return _torus(topology, group)
    per_host = topology.shape[0]
    hosts = len({place // per_host for (place,) in group})
    if hosts == 1:
        return chip.link
    # of (n - 1) / n of an array, (hosts - 1) / hosts crosses, shared by the local GPUs
    n, local = len(group), max(1, len(group) // hosts)
    crossing = (hosts - 1) / hosts / local * n / (n - 1)
    outside = (chip.network or chip.link) / crossing
    return min(chip.link, outside)


def _torus(topology: Topology, places: Sequence[Place]) -> float:
    links = 0
    for side, values in enumerate(zip(*places, strict=True)):
        extent = len(set(values))
        if extent == 1:
            continue
        whole = extent == topology.shape[side]
        closed = topology.wrapped[side] and whole and extent > 2
        links += 2 if closed else 1
    return max(1, links) * topology.chip.link
