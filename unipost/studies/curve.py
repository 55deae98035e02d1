"""The points of a run's curve: outcomes of every item at steps before the last."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unipost.evaluation import Evaluator, Report
from unipost.model import Params
from unipost.objectives import Trainable
from unipost.runs import RunError, write_atomic
from unipost.studies.diagnostics import Diagnostic, Seen
from unipost.studies.frame import DISTANCES


@dataclass(frozen=True)
class Measured:
    """What is measured of parameters: an evaluation and diagnostics.

    task     whose length and style a run reports as its own
    placed   puts parameters of a run where the evaluation expects them
    """

    evaluator: Evaluator
    diagnostics: Mapping[str, Diagnostic]
    task: str
    placed: Callable[[Any], Any]

    def __call__(
        self, params: Params, objective: Trainable | None = None
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """(a point as results.json holds it, its means for evaluation.jsonl)."""
        params = self.placed(params)
        report = self.evaluator(params, objective)
        seen = Seen(params, self.evaluator.reference, self.evaluator, report)
        found = {name: float(of(seen)) for name, of in self.diagnostics.items()}
        return _point(report, self.task) | found, report.numbers() | found


@dataclass(frozen=True)
class Curve:
    """Measures a run at `steps` into FOLDER/curve/STEP.json.

    A step that is taken again, after a kill, is measured again.
    """

    measure: Measured
    steps: Sequence[int]
    folder: Path
    objective: Trainable | None = None
    name: str = field(default="curve")

    def due(self, step: int, last: int) -> bool:
        """Whether `step` is a point of the curve before the last step."""
        return step in self.steps and step != last

    def __call__(self, params: Any, step: int) -> dict[str, float]:
        """Measure, write the point, and give its means."""
        point, means = self.measure(params, self.objective)
        place = self.folder / self.name
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / f"{step}.json", json.dumps(point) + "\n")
        return means

    def points(self, last: int, metrics: Sequence[str]) -> list[dict[str, Any]]:
        """All points before `last`, with the means of the training metrics so far.

        Raises RunError naming a point that is missing.
        """
        found = []
        for step in (s for s in self.steps if s != last):
            path = self.folder / self.name / f"{step}.json"
            if not path.exists():
                raise RunError(f"{path}: missing; remove {self.folder}, and run again")
            point = {"step": step} | json.loads(path.read_text())
            found.append(
                point | means_of(self.folder, metrics, self.before(step), step)
            )
        return found

    def before(self, step: int) -> int:
        """The point of the curve before `step`."""
        return max((s for s in self.steps if s < step), default=0)


def means_of(
    folder: Path, metrics: Sequence[str], since: int, until: int
) -> dict[str, float]:
    """Means of training metrics: train/NAME up to step `until`, window/NAME of those
    after step `since` alone.

    Steps without a finite number of that name do not count.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines() if metrics else ()
    steps = [json.loads(line) for line in lines]
    means = {}
    for over, first in (("train", 0), ("window", since)):
        for name in metrics:
            kept = (s for s in steps if first < s["step"] <= until)
            values = [s.get(name) for s in kept]
            finite = [x for x in values if isinstance(x, int | float)]
            if finite:
                means[f"{over}/{name}"] = float(np.mean(finite))
    return means


def _point(report: Report, task: str) -> dict[str, Any]:
    """A report as plain data: per-item outcomes, and the distances."""
    tasks = {}
    for name, graded in report.tasks.items():
        own: dict[str, Any] = {"greedy": graded.greedy.tolist()}
        if graded.sampled is not None:
            own["sampled"] = graded.sampled.tolist()
            own["pass_at"] = {str(k): v.tolist() for k, v in graded.pass_at.items()}
        own |= {"length": graded.length, "length_wrong": graded.length_wrong}
        if graded.style is not None:
            own["style"] = graded.style
        tasks[name] = own
    target = report.tasks[task]
    return {
        "tasks": tasks,
        "length": target.length,
        "style": target.style,
        **{name: report.distance.get(name) for name in DISTANCES},
    }
