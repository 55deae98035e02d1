"""What a person sees while a run goes on: a live bar, or plain lines in a log."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping

from unipost.processes import is_first

SHOWN = ("loss", "reward", "accuracy")


class Display:
    """Progress of one run: step, loss, reward, tokens/s and time left.

    In a terminal one bar is redrawn in place; elsewhere a line is printed about every
    ten seconds, so that a log stays readable. Of several processes the first shows it.
    """

    def __init__(self, title: str, steps: int, done: int = 0):
        self.title, self.steps, self.first = title, steps, done
        self._start = self._said = time.perf_counter()
        self._tokens = 0
        self._bar = None
        self._stream = sys.stderr if is_first() else io.StringIO()
        if self._stream.isatty():
            self._bar, self._task = _bar(title, steps, done)

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str | None) -> None:
        """A line of its own, above the bar; None says nothing."""
        if text is None:
            return
        if self._bar is not None:
            self._bar.console.print(f"{self.title}: {text}", highlight=False)
        else:
            print(f"{self.title}: {text}", file=self._stream)

    def update(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Show the numbers after `step` steps; `tokens` were trained on since."""
        self._tokens += tokens
        now = time.perf_counter()
        rate = self._tokens / max(now - self._start, 1e-9)
        shown = [f"{k} {metrics[k]:.4g}" for k in SHOWN if k in metrics]
        # the first step's tokens are told with the second's
        shown += [f"{_count(rate)} tok/s"] if self._tokens else []
        numbers = "  ".join(shown)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        elif now - self._said > 10.0 or step == self.steps:
            self._said = now
            left = (self.steps - step) * (now - self._start) / max(step - self.first, 1)
            print(
                f"{self.title}  step {step}/{self.steps}  {numbers}  {left:.0f} s left",
                file=self._stream,
            )


def _count(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def _bar(title: str, steps: int, done: int):
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    return bar, bar.add_task(title, total=steps, completed=done, numbers="")
