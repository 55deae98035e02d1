"""What a machine has for the runs of a sweep, and which part each process gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

PROBE = "import jax; print(jax.default_backend(), jax.local_device_count())"
SEEN = "CUDA_VISIBLE_DEVICES"
SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
FILLED = 0.9
"""The part of a GPU's memory that processes which share it take in all."""


@dataclass(frozen=True)
class Machine:
    """The backend that a run will have, and how many of its devices are here."""

    backend: str
    devices: int = 1

    @property
    def jobs(self) -> int:
        """Processes at once unless asked otherwise: one per core, of accelerators one.

        A single process takes all accelerators for itself.
        """
        if self.backend != "cpu":
            return 1
        if hasattr(os, "sched_getaffinity"):  # of Linux, where a job has a part of them
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def slots(self, jobs: int, environ: Mapping[str, str]) -> list[dict[str, str]]:
        """What the environment of each of `jobs` processes has beside ours.

        GPUs are dealt out in blocks; of fewer than processes, several share one and
        its memory. Raises ValueError for several processes on one TPU.
        """
        if jobs == 1 or self.backend == "cpu":
            return [{} for _ in range(jobs)]
        if self.backend != "gpu":
            raise ValueError(
                f"--jobs {jobs}: a {self.backend.upper()} belongs to one process; "
                "write --jobs 1"
            )
        seen = [x for x in environ.get(SEEN, "").split(",") if x]
        seen = seen or [str(i) for i in range(self.devices)]
        if jobs <= len(seen):
            ends = [len(seen) * i // jobs for i in range(jobs + 1)]
            blocks = zip(ends, ends[1:], strict=False)
            return [{SEEN: ",".join(seen[a:b])} for a, b in blocks]
        each = -(-jobs // len(seen))
        share = environ.get(SHARE, f"{FILLED / each:.3f}")
        return [{SEEN: seen[i % len(seen)], SHARE: share} for i in range(jobs)]


def find_machine() -> Machine:
    """Ask jax in another process: who has started an accelerator may keep it."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    asked = os.environ.get("JAX_PLATFORMS", "")
    plugins = entry_points(group="jax_plugins") or find_spec("libtpu")
    if asked == "cpu" or not (plugins or asked):
        return Machine("cpu")
    probe = [sys.executable, "-c", PROBE]
    found = subprocess.run(probe, capture_output=True, text=True)
    if found.returncode:
        said = found.stderr.strip().splitlines() or ["no word"]
        raise RuntimeError(f"sweep: jax finds no device: {said[-1]}")
    backend, devices = found.stdout.split()[-2:]
    return Machine(backend, int(devices))
