"""What a person sees while a sweep goes on: a live table, or a line for every run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from unipost.display import SHOWN
from unipost.sweep.record import Folders
from unipost.sweep.settings import Run

if TYPE_CHECKING:
    from unipost.sweep.run import Progress


class View(Protocol):
    """What `run_sweep` tells of its runs; a context manager."""

    def __enter__(self) -> View: ...

    def __exit__(self, *exception) -> None: ...

    def show(self) -> None:
        """Look at the running runs, not too often."""
        ...

    def over(self, run: Run) -> None:
        """A process on this run has ended."""
        ...


def open_view(progress: Progress, folders: Folders) -> View:
    """A live table on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        from unipost.sweep.table import Table

        return Table(progress, folders)
    return Lines(progress, folders)


def seconds_of(progress: Progress, run: Run) -> float | None:
    """Seconds that a run has taken in this start, None before it began."""
    if run in progress.seconds:
        return progress.seconds[run]
    if progress.state[run] != "running":
        return None
    return time.monotonic() - progress.since[run]


def numbers_of(folders: Folders, run: Run) -> dict[str, Any]:
    """The last step's numbers of a run, and as its accuracy the evaluation's if any.

    That of the first task, of samples where there are any.
    """
    found, evaluated = folders.numbers(run), folders.evaluation(run)
    for kind in ("/sampled", "/greedy"):
        scores = [value for key, value in evaluated.items() if key.endswith(kind)]
        if scores:
            return {**found, "accuracy": scores[0]}
    return found


class Lines:
    """A line on stderr for every run that is over."""

    def __init__(self, progress: Progress, folders: Folders):
        self._progress, self._folders = progress, folders
        self._told = False

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception) -> None:
        return None

    def show(self) -> None:
        """A line once it is ending; otherwise nothing: a log stays readable."""
        if self._progress.ending and not self._told:
            print(self._progress.ending, file=sys.stderr, flush=True)
            self._told = True

    def over(self, run: Run) -> None:
        """`[3/16] beta=0.1/0: finished, 100 steps, 12 s, loss 0.31`."""
        progress = self._progress
        states = progress.state.values()
        count = sum(x not in ("waiting", "running") for x in states)
        line = f"[{count}/{len(states)}] {run.name}: {progress.state[run]}"
        numbers = numbers_of(self._folders, run)
        if "step" in numbers:
            line += f", {numbers['step']} steps"
        line += f", {progress.seconds[run]:.0f} s"
        for name, value in shown(numbers).items():
            line += f", {name} {value}"
        if run in progress.problem:
            line += f": {progress.problem[run]}"
        print(line, file=sys.stderr, flush=True)


def shown(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Loss, reward and accuracy as text, those that there are."""
    found = {name: numbers[name] for name in SHOWN if name in numbers}
    return {
        name: f"{x:.4g}" if isinstance(x, int | float) else str(x)
        for name, x in found.items()
    }
