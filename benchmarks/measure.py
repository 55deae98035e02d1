"""Times of repeated work, as numbers that may be compared on a shared machine."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax


def measure(work: Callable[[], Any], repeats: int, warm: int = 2) -> dict[str, float]:
    """Seconds of `work` in `repeats` repetitions after `warm` of them.

    wall_s and cpu_s are the least of each: what other processes add is not ours.
    cpu_s counts all threads of this process. first_s is the first call with its
    compilation, load the machine's mean number of running processes.
    """
    begin = time.perf_counter()
    jax.block_until_ready(work())
    first = time.perf_counter() - begin
    for _ in range(warm - 1):
        jax.block_until_ready(work())
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(work())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "wall_s": min(walls),
        "cpu_s": min(cpus),
        "median_s": statistics.median(walls),
        "first_s": first,
        "load": os.getloadavg()[0],
    }


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    # Linux counts kilobytes, macOS bytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write(path: str | None, results: dict[str, Any]) -> None:
    """Prints the results, and writes them to `path` if there is one."""
    text = json.dumps(results, indent=1)
    print(text)
    if path:
        with open(path, "w") as file:
            file.write(text + "\n")
