"""Several sandboxes side by side, for large batches of slow rewards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from unipost.rewards.sandbox import Call, Sandbox, Task

MOST = 8
"""Most workers at once; no more than there are cores, and one for every SHARE calls."""
SHARE = 32


class Pool:
    """Sandboxes over which calls are dealt out; more are started for large batches."""

    def __init__(self) -> None:
        self._boxes: list[Sandbox] = []

    def run(self, task: Task, calls: Sequence[Call]) -> list[tuple | str]:
        """Per call its result, or the reason why there is none."""
        count = max(1, min(MOST, _cores(), len(calls) // SHARE))
        while len(self._boxes) < count:
            self._boxes.append(Sandbox())
        if count == 1:
            return self._boxes[0].run(task, calls)
        with ThreadPoolExecutor(count) as threads:
            waiting = [
                threads.submit(box.run, task, calls[k::count])
                for k, box in enumerate(self._boxes[:count])
            ]
            dealt = [one.result() for one in waiting]
        return [dealt[i % count][i // count] for i in range(len(calls))]

    def close(self) -> None:
        """End all workers."""
        while self._boxes:
            self._boxes.pop().close()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
