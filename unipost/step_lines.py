"""What a run writes of every step, one step late: the device never waits for us."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from unipost.compilation import CompileClock, Compiling
from unipost.profiling import Phases, phase
from unipost.runs import JsonLines, RunError

CHECKED = ("loss", "grad_norm", "value_loss", "critic_grad_norm")
"""Numbers after which a state is lost when they are not finite."""


def check_finite(where: Path, step: int, numbers: Mapping[str, float]) -> None:
    """Raise RunError naming the file when loss or gradient of a step is not finite."""
    for name in CHECKED:
        if not math.isfinite(numbers.get(name, 0.0)):
            raise RunError(
                f"{where}: {name} of step {step} is {numbers[name]}; lower the "
                "learning rate or look at the step before"
            )


class StepLines:
    """metrics.jsonl and timing.jsonl, a line of each for every step.

    Numbers stay on the device until those of the next step are put, so that the next
    step is on its way before anything waits for this one.
    """

    def __init__(
        self,
        metrics: JsonLines,
        timing: JsonLines,
        clock: CompileClock,
        phases: Phases | None = None,
    ):
        self._metrics, self._timing, self._clock = metrics, timing, clock
        self._phases = phases
        self._pending: tuple[int, dict[str, Any], Any] | None = None
        self._tokens: dict[int, int] = {}
        self._untold: list[tuple[dict[str, Any], float]] = []
        self.shown: dict[str, float] = {}
        self.first: tuple[float, Compiling] | None = None

    def put(self, step: int, numbers: dict[str, Any], tokens: Any) -> None:
        """Take the numbers of `step` and its count of tokens; write the step before."""
        self.flush()
        self._pending = step, numbers, tokens

    def flush(self) -> None:
        """Write what is pending. Raises RunError when loss or gradient is not finite.

        Before the step is saved: a state after such a gradient is lost.
        """
        if self._pending is None:
            return
        step, numbers, tokens = self._pending
        self._pending = None
        with phase("sync"):
            numbers, tokens = jax.device_get((numbers, tokens))
        self.shown = {k: float(v) for k, v in numbers.items()}
        self._tokens[step] = int(tokens)
        self._metrics.write({"step": step} | self.shown)
        check_finite(self._metrics.path, step, self.shown)

    def timed(self, step: int, seconds: float) -> int:
        """Take the wall time of `step`; returns the tokens of the steps now written."""
        compiling, end = self._clock.lap(), time.perf_counter()
        self.first = self.first or (seconds, compiling)
        line = {"step": step, "seconds": seconds}
        self._untold.append((line | {"compile_seconds": compiling.seconds}, end))
        told = [x for x in self._untold if x[0]["step"] in self._tokens]
        self._untold = self._untold[len(told) :]
        tokens = 0
        for line, end in told:
            of = self._tokens.pop(line["step"])
            self._timing.write(line | {"tokens": of} | self._spent(line, end))
            tokens += of
        return tokens

    def _spent(self, line: dict[str, Any], end: float) -> dict[str, float]:
        """The seconds of a step by phase: all of its work is done by now."""
        if self._phases is None:
            return {}
        return self._phases.between(end - line["seconds"], end)
