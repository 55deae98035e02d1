"""What is measured of the parameters as a run goes on: evaluation and held-out loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from unipost.evaluation import Evaluator
from unipost.experiment import Experiment
from unipost.loading import Model, setting_of
from unipost.retention import Best
from unipost.runs import RunError

Measure = Callable[[Any, int], dict[str, float]]
"""Numbers of the parameters of a policy after so many steps."""


class When(Protocol):
    """When something is measured."""

    def due(self, step: int, last: int) -> bool:
        """Whether it is after 1-based `step` of `last`."""
        ...


def open_measures(experiment: Experiment, model: Model) -> list[tuple[Measure, When]]:
    """The measures of a run, each with the settings that say when it is due."""
    objective, seed = experiment.objective, experiment.seed
    found: list[tuple[Measure, When]] = []
    tasks, held = experiment.evaluation, experiment.held_out
    if tasks is not None:
        parts = model.policy, model.tokenizer, model.params, seed
        evaluator = Evaluator(tasks, *parts)
        found.append((lambda p, _: evaluator(p, objective).numbers(), tasks))
    if held is not None:
        measure = held.open(objective, model.policy, setting_of(model, seed))
        found.append((lambda p, _: measure(p), held))
    return found


def measured(measures: Iterable[Measure], params: Any, step: int) -> dict[str, float]:
    """The numbers of all `measures` at `params`, those after `step`."""
    return {k: v for measure in measures for k, v in measure(params, step).items()}


def best_number(best: Best | None, found: Mapping[str, float]) -> float | None:
    """The number of `best` among those just measured; None where it was not due.

    Raises RunError, naming what there is, for a name that its part does not measure.
    """
    if best is None or best.metric in found:
        return None if best is None else found[best.metric]
    alike = [name for name in found if _held(name) == _held(best.metric)]
    if not alike:
        return None
    raise RunError(
        f"checkpoints.best.metric: {best.metric!r} is not measured; write one of "
        f"{', '.join(alike)}"
    )


def past_numbers(best: Best | None, path: Path) -> dict[int, float]:
    """{step: the number of `best`} that the lines of evaluation.jsonl hold."""
    if best is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        line["step"]: float(line[best.metric]) for line in lines if best.metric in line
    }


def _held(name: str) -> bool:
    return name.startswith("held_out/")
