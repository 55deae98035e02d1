"""One run of a group: its parts, its files and checkpoints, and where it stands."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from unipost.adapters import trained_part, with_trained
from unipost.ahead import Ahead
from unipost.compilation import CompileClock, Compiling
from unipost.experiment import Experiment
from unipost.loading import Model, NewModel
from unipost.locks import held
from unipost.loop import Carried, Loop, Records
from unipost.measures import open_measures
from unipost.profiling import Phases
from unipost.runs import JsonLines, RunError, check_own
from unipost.scalar.loading import open_model
from unipost.scalar.objective import ScalarObjective
from unipost.step_lines import StepLines
from unipost.train import checkpoints_of, opened


class Shares:
    """The time of a step of the group, of which every run is told an equal share."""

    def __init__(self, runs: int, clock: CompileClock, phases: Phases):
        self.clock, self.phases = ShareOfClock(self), ShareOfPhases(self)
        self._runs, self._clock, self._phases = runs, clock, phases
        self.compiling = Compiling(0.0, 0, 0)
        self._spans: dict[tuple[float, float], dict[str, float]] = {}

    def took(self, seconds: float) -> float:
        """The share of a step's `seconds`; its compiling is told with the lines."""
        lap = self._clock.lap()
        self.compiling = dataclasses.replace(lap, seconds=lap.seconds / self._runs)
        return seconds / self._runs

    def between(self, start: float, end: float) -> dict[str, float]:
        """The share of the phases of a span: all runs ask for the same spans."""
        span = start, end
        if span not in self._spans:
            found = self._phases.between(start, end)
            shares = {k: round(v / self._runs, 6) for k, v in found.items()}
            # two steps are told at once at most
            self._spans = dict([*self._spans.items()][-1:]) | {span: shares}
        return self._spans[span]
