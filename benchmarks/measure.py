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


def measure(work: Callable[[], Any], repeats: int, warm: int = 2) -> dict[str, float]:
    """Seconds of `work` in `repeats` repetitions after `warm` of them.

    `work` returns when it is done, not when it is dispatched. wall_s and cpu_s are the
    least of each: what other processes add is not ours. cpu_s counts all threads of
    this process. first_s is the first call with its compilation, load the machine's
    mean number of running processes.
    """
    begin = time.perf_counter()
    work()
    first = time.perf_counter() - begin
    for _ in range(warm - 1):
        work()
    stamps = [now()]
    for _ in range(repeats):
        work()
        stamps.append(now())
    return {"first_s": first} | between(stamps)


def now() -> tuple[float, float]:
    """(wall, CPU) clocks of this process in seconds."""
    return time.perf_counter(), time.process_time()


def between(stamps: list[tuple[float, float]]) -> dict[str, float]:
    """The same numbers from clocks taken at the end of every step."""
    pairs = list(zip(stamps, stamps[1:], strict=False))
    walls = [b[0] - a[0] for a, b in pairs]
    return {
        "wall_s": min(walls),
        "cpu_s": min(b[1] - a[1] for a, b in pairs),
        "median_s": statistics.median(walls),
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
