"""Topologies by name: Google's names of TPU slices, and hosts of GPUs.

v4-N and v5p-N count TensorCores, two a chip; v5e-N and v6e-N count chips. libtpu's own
names, `v5p:2x2x4`, say the shape in chips and are understood too. GPUs are
KINDxPER_HOST or KINDxPER_HOSTxHOSTS: h100x8x4 is 4 hosts of 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from unipost.plan.chips import CHIPS, Chip

CORES = {"v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}
"""TensorCores of a chip; libtpu is asked for megacores, one device a chip."""

_FLAT = {
    1: (1, 1),
    4: (2, 2),
    8: (2, 4),
    16: (4, 4),
    32: (4, 8),
    64: (8, 8),
    128: (8, 16),
    256: (16, 16),
}
_SOLID = {
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
    256: (4, 8, 8),
    512: (8, 8, 8),
    1024: (8, 8, 16),
    2048: (8, 16, 16),
    4096: (16, 16, 16),
    6144: (16, 16, 24),
}
SHAPES: dict[str, dict[int, tuple[int, ...]]] = {
    "v4": {chips: shape for chips, shape in _SOLID.items() if chips <= 2048},
    "v5p": _SOLID,
    "v5e": _FLAT,
    "v6e": _FLAT,
}
"""Chips -> the standard shape of a slice (cloud.google.com/tpu/docs/v5p and others)."""

EXAMPLES = "v5p-16, v5e-256, v6e-64, v5p:2x2x4, h100x8x4"


@dataclass(frozen=True)
class Topology:
    """Chips of one kind and how they are joined.

    name    as it was asked for
    shape   chips along each side of a TPU slice; (per host, hosts) of GPUs
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    family: str

    @property
    def is_tpu(self) -> bool:
        """Whether it is compiled for; GPUs are estimated."""
        return self.family in CORES

    @property
    def platform(self) -> str:
        """tpu or gpu."""
        return "tpu" if self.is_tpu else "gpu"

    @property
    def chips(self) -> int:
        """How many chips; a JAX device each."""
        return prod(self.shape)

    @property
    def libtpu(self) -> str:
        """The name that libtpu gives it."""
        return f"{self.family}:{'x'.join(map(str, self.shape))}"

    @property
    def wrapped(self) -> tuple[bool, ...]:
        """Which sides of a TPU slice are closed to a ring.

        Cubes of 4 x 4 x 4 have optical links on every side; in two dimensions only a
        side of 16, that of the whole pod, is a ring.
        """
        if len(self.shape) == 2:
            return tuple(side == 16 for side in self.shape)
        cubes = all(side % 4 == 0 for side in self.shape)
        return tuple(cubes for _ in self.shape)

    def __str__(self) -> str:
        sides = "x".join(map(str, self.shape))
        if self.is_tpu:
            return f"{self.name}: {self.chips} chips {self.chip.kind} ({sides})"
        per_host, hosts = self.shape
        return f"{self.name}: {hosts} x {per_host} {self.chip.kind}"


def parse_topology(name: str) -> Topology:
    """The topology called `name`. ValueError, in one line, for what there is not."""
    text = name.strip().lower()
    if tpu := re.fullmatch(r"(v4|v5e|v5p|v6e)-(\d+)", text):
        return _slice(text, tpu[1], int(tpu[2]))
    if tpu := re.fullmatch(r"(v4|v5e|v5p|v6e):(\d+(?:x\d+)+)", text):
        shape = tuple(map(int, tpu[2].split("x")))
        if len(shape) == len(SHAPES[tpu[1]][4]) and 0 not in shape:
            return Topology(text, CHIPS[tpu[1]], shape, tpu[1])
    if gpu := re.fullmatch(r"(a100|h100|h200|b200)x(\d+)(?:x(\d+))?", text):
        per_host, hosts = int(gpu[2]), int(gpu[3] or 1)
        if not 1 <= per_host <= 8 or hosts < 1 or (hosts > 1 and per_host != 8):
            raise ValueError(
                f"--topology: {name}; write 1 to 8 GPUs of one host ({gpu[1]}x4), or "
                f"hosts of 8 ({gpu[1]}x8x4)"
            )
        return Topology(text, CHIPS[gpu[1]], (per_host, hosts), gpu[1])
    raise ValueError(f"--topology: {name!r} is unknown; write such as {EXAMPLES}")


def _slice(text: str, family: str, count: int) -> Topology:
    shapes, cores = SHAPES[family], CORES[family]
    if count % cores == 0 and count // cores in shapes:
        return Topology(text, CHIPS[family], shapes[count // cores], family)
    sizes = [chips * cores for chips in shapes]
    below = [n for n in sizes if n < count][-1:]
    above = [n for n in sizes if n > count][:1]
    near = " or ".join(f"{family}-{n}" for n in (*below, *above))
    unit = "TensorCores" if cores == 2 else "chips"
    raise ValueError(
        f"--topology: there is no {text} ({family} counts {unit}); write {near}, or "
        f"the shape in chips, {family}:{'x'.join(map(str, shapes[4]))}"
    )
