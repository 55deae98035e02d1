"""Compiling for a TPU that is not there, and reading what the compiler says.

libtpu compiles without a chip (`jax.experimental.topologies`); nothing is allocated.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import jax

from unipost.plan.collectives import Collective, find_collectives
from unipost.plan.hlo import parse_program
from unipost.plan.loops import count_runs
from unipost.plan.topology import CORES, Topology
from unipost.plan.traffic import kernels, memory_bytes, product_flops

QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # no chip is opened, so that others may compile or train meanwhile
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Environment in which libtpu looks for no machine around it."""

_SIZE = re.compile(r"([\d.]+)([KMGT]?)\b")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """What the compiler says of one chip, in bytes (`compiled.memory_analysis()`).

    `aliased` outputs lie where arguments lay (donated state). peak is the most that is
    held at once, arguments included: what it compares with the memory that there is.
    The temporaries are those of the whole program side by side, which may be more.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int
    code: int
    peak: int

    @property
    def total(self) -> int:
        """The most that the program holds: the compiler's peak, or the sum of parts."""
        sum_ = self.arguments + self.outputs + self.temporaries - self.aliased
        return self.peak or sum_


@dataclass(frozen=True)
class Overflow:
    """A program that the compiler refused: bytes wanted and there, of one chip."""

    wanted: int
    there: int
    message: str


@dataclass(frozen=True)
class Measured:
    """One compiled program, or why it was not: numbers of one chip.

    flops   of products in one run; kernels of Pallas are not in it
    moved   bytes read from and written to HBM
    loops   loops whose turns were given, not found in the program
    kernels calls of Pallas kernels
    seconds that compiling took
    """

    name: str
    memory: Memory | None = None
    overflow: Overflow | None = None
    flops: float = 0.0
    moved: float = 0.0
    collectives: tuple[Collective, ...] = ()
    loops: tuple[str, ...] = ()
    kernels: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())

    def tree(self) -> dict[str, Any]:
        """Plain data, for a JSON file."""
        return asdict(self)


def open_devices(topology: Topology) -> list[Any]:
    """The devices of a TPU topology, one a chip. ValueError without libtpu."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    extra: dict[str, Any] = {}
    if CORES[topology.family] == 2 and topology.family == "v4":
        extra["chip_config_name"] = "megacore"
    if topology.chips == 1:
        extra["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.libtpu, **extra
        )
    except Exception as error:
        if has_libtpu():
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"--topology {topology.name}: {reason}") from error
        raise ValueError(
            f"--topology {topology.name}: compiling for a TPU needs libtpu; write "
            "pip install 'unipost[tpu]' (GPU topologies are estimated without it)"
        ) from error
    return list(found.devices)


def has_libtpu() -> bool:
    """Whether libtpu is installed."""
    from importlib.util import find_spec

    return find_spec("libtpu") is not None


def measure(name: str, lowered: Any, devices: int, turns: int = 1) -> Measured:
    """What the compiler makes of a lowered program on `devices` chips.

    turns  of loops whose end is data. A program that needs more memory than there is
    comes back as an `Overflow`. Raises ValueError for what the compiler refuses.
    """
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        overflow = read_overflow(str(error))
        if overflow is None:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{name}: the compiler refuses it: {reason}") from error
        return Measured(name, overflow=overflow, seconds=time.perf_counter() - started)
    return read(name, compiled, devices, turns, time.perf_counter() - started)


def read(
    name: str, compiled: Any, devices: int, turns: int = 1, seconds: float = 0.0
) -> Measured:
    """The numbers of a compiled program."""
    program = parse_program(compiled.as_text())
    runs = count_runs(program, turns)
    return Measured(
        name,
        memory=read_memory(compiled.memory_analysis()),
        flops=product_flops(program, runs),
        moved=memory_bytes(program, runs),
        collectives=find_collectives(program, runs, devices),
        loops=runs.unknown,
        kernels=kernels(program, runs),
        seconds=seconds,
    )


def read_memory(found: Any) -> Memory:
    """`compiled.memory_analysis()` as data."""
    return Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        code=found.generated_code_size_in_bytes,
        peak=getattr(found, "peak_memory_in_bytes", 0),
    )


def read_overflow(message: str) -> Overflow | None:
    """Wanted and available bytes of a RESOURCE_EXHAUSTED message, else None."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    first = " ".join(message.split())
    used = re.search(r"[Uu]sed ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm", first)
    total = re.search(
        r"total memory required[^()]*\(([\d.]+[KMGT]?)\) exceeds available "
        r"HBM \(([\d.]+[KMGT]?)\)",
        first,
    )
    found = used or total
    if found is None:
        return Overflow(0, 0, first[:300])
    return Overflow(_bytes(found[1]), _bytes(found[2]), first[:300])


def _bytes(text: str) -> int:
    found = _SIZE.match(text)
    assert found is not None
    return int(float(found[1]) * _UNITS[found[2]])
