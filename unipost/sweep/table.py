"""The live table of a sweep in a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from unipost.display import SHOWN
from unipost.sweep.record import Folders
from unipost.sweep.settings import Run
from unipost.sweep.watch import numbers_of, seconds_of, shown

if TYPE_CHECKING:
    from unipost.sweep.run import Progress

EVERY = 0.5
"""Seconds between two drawings."""
ORDER = ("failed", "running", "stopped", "elsewhere", "waiting", "finished")
"""Which runs come first where the terminal has no room for all."""
COLOURS = {"failed": "red", "running": "cyan", "finished": "green", "stopped": "yellow"}
GAP = "  "


class Table:
    """One row per run: state, step, loss, reward, accuracy, seconds; redrawn in place.

    Under a run that failed stands why. Where the terminal is too low, the runs at work
    stay and the others are counted; where it is too narrow, names lose their middle.
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
        from rich.text import Text

        self._drawn = time.monotonic()
        size = self._console.size
        text = Text(no_wrap=True, overflow="ellipsis")
        for line, style in self.lines(size.width, size.height):
            text.append(line + "\n", style)
        text.rstrip()
        self._live.update(text, refresh=True)

    def lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """(text, style) of every line in a terminal of this size."""
        state, problem = self._progress.state, self._progress.problem
        chosen = self._chosen(height)
        numbers = {run: self._numbers(run) for run in chosen}
        names = [k for k in SHOWN if any(k in x for x in numbers.values())]
        heads = ["run", "state", "step", *names, "seconds"]
        rows = [heads, *(self._cells(run, numbers[run], names) for run in chosen)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        widths[0] = min(widths[0], max(10, width - sum(w + 2 for w in widths[1:])))
        head, *rest = (_aligned(row, widths) for row in rows)
        found = [(head, "bold")]
        for run, line in zip(chosen, rest, strict=True):
            style = COLOURS.get(state[run], "dim")
            found.append((line, style))
            if run in problem:
                found.append((f"{GAP}{problem[run]}", style))
        found.append((self._counts(len(state) - len(chosen)), "italic"))
        ending = self._progress.ending
        return [*found, (ending, "bold yellow")] if ending else found

    def _cells(self, run: Run, numbers: dict[str, Any], names: list[str]) -> list[str]:
        values, seconds = shown(numbers), seconds_of(self._progress, run)
        return [
            run.name,
            self._progress.state[run],
            f"{numbers.get('step', 0)}/{run.experiment.steps}",
            *(values.get(name, "") for name in names),
            "" if seconds is None else f"{seconds:.0f}",
        ]

    def _chosen(self, height: int) -> list[Run]:
        """The runs that there is room for, in the order of the sweep."""
        state, problem = self._progress.state, self._progress.problem
        room, found = max(height - 4 - bool(self._progress.ending), 3), set()
        for run in sorted(state, key=lambda run: ORDER.index(state[run])):
            room -= 1 + (run in problem)
            if room < 0:
                break
            found.add(run)
        return [run for run in state if run in found]

    def _counts(self, hidden: int) -> str:
        states = [*self._progress.state.values()]
        parts = [f"{states.count(x)} {x}" for x in ORDER if x in states]
        return ", ".join(parts) + (f"; {hidden} not shown" if hidden else "")

    def _numbers(self, run: Run) -> dict[str, Any]:
        state = self._progress.state[run]
        if run not in self._kept or state == "running":
            self._kept[run] = numbers_of(self._folders, run)
        return self._kept[run]


def _aligned(row: list[str], widths: list[int]) -> str:
    """Name and state to the left, numbers to the right."""
    name, state, *numbers = row
    left = [fitted(name, widths[0]).ljust(widths[0]), state.ljust(widths[1])]
    right = [x.rjust(w) for x, w in zip(numbers, widths[2:], strict=True)]
    return GAP.join([*left, *right])


def fitted(name: str, width: int) -> str:
    """`name`, its middle left out where it is longer than `width`."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[-end:]}"
