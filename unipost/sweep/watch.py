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

EVERY = 0.5
"""Seconds between two drawings of the table."""
ORDER = ("failed", "running", "stopped", "elsewhere", "waiting", "finished")
"""Which runs come first where the terminal has no room for all."""
COLOURS = {"failed": "red", "running": "cyan", "finished": "green", "stopped": "yellow"}


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
    """The last step's numbers of a run, with the accuracy of its evaluation if any."""
    found = folders.numbers(run)
    evaluated = folders.evaluation(run)
    scores = [v for k, v in evaluated.items() if k.endswith(("/sampled", "/greedy"))]
    return {"accuracy": scores[-1], **found} if scores else found


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
        for name, value in _shown(numbers).items():
            line += f", {name} {value}"
        if run in progress.problem:
            line += f": {progress.problem[run]}"
        print(line, file=sys.stderr, flush=True)


def _shown(numbers: Mapping[str, Any]) -> dict[str, str]:
    found = {name: numbers[name] for name in SHOWN if name in numbers}
    return {
        name: f"{x:.4g}" if isinstance(x, int | float) else str(x)
        for name, x in found.items()
    }


class Table:
    """One row per run: state, step, loss, reward, accuracy, seconds; redrawn in place.

    Where the terminal is too low, the runs at work stay and the others are counted.
    """

    def __init__(self, progress: Progress, folders: Folders):
        from rich.console import Console
        from rich.live import Live

        self._progress, self._folders = progress, folders
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._drawn = 0.0
        # what is over does not change any more: its files are read once
        self._kept: dict[Run, dict[str, Any]] = {}

    def __enter__(self) -> Table:
        self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        self._draw()
        self._live.stop()

    def show(self) -> None:
        """Draw it again if the last drawing is old."""
        if time.monotonic() - self._drawn >= EVERY:
            self._draw()

    def over(self, run: Run) -> None:
        """Its files are read once more."""
        self._kept.pop(run, None)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(self._table(), refresh=True)

    def _table(self):
        from rich.table import Table as Grid
        from rich.text import Text

        state = self._progress.state
        chosen = self._chosen()
        numbers = {run: self._numbers(run) for run in chosen}
        names = [k for k in SHOWN if any(k in x for x in numbers.values())]
        grid = Grid(box=None, pad_edge=False, header_style="bold")
        grid.add_column("run", overflow="ellipsis", no_wrap=True)
        for name in ("state", "step", *names, "seconds"):
            side = "left" if name == "state" else "right"
            grid.add_column(name, justify=side, no_wrap=True, min_width=len(name) + 1)
        for run in chosen:
            shown, seconds = _shown(numbers[run]), seconds_of(self._progress, run)
            style = COLOURS.get(state[run], "dim")
            grid.add_row(
                run.name,
                Text(state[run], style=style),
                f"{numbers[run].get('step', 0)}/{run.experiment.steps}",
                *(shown.get(name, "") for name in names),
                "" if seconds is None else f"{seconds:.0f}",
            )
            if run in self._progress.problem:
                grid.add_row(Text("  " + self._progress.problem[run], style=style))
        grid.caption = self._counts(len(state) - len(chosen))
        grid.caption_justify = "left"
        return grid

    def _chosen(self) -> list[Run]:
        """The runs that there is room for, in the order of the sweep."""
        state, problem = self._progress.state, self._progress.problem
        room, found = max(self._console.height - 5, 3), set()
        for run in sorted(state, key=lambda run: ORDER.index(state[run])):
            room -= 1 + (run in problem)
            if room < 0:
                break
            found.add(run)
        return [run for run in state if run in found]

    def _counts(self, hidden: int) -> str:
        states = [*self._progress.state.values()]
        parts = [f"{states.count(x)} {x}" for x in ORDER if x in states]
        more = f"; {hidden} not shown" if hidden else ""
        ending = f"; {self._progress.ending}" if self._progress.ending else ""
        return ", ".join(parts) + more + ending

    def _numbers(self, run: Run) -> dict[str, Any]:
        state = self._progress.state[run]
        if run not in self._kept or state == "running":
            self._kept[run] = numbers_of(self._folders, run)
        return self._kept[run]
