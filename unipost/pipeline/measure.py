"""The pipeline's evaluation of a stage's model, item by item, kept in report.json."""

from __future__ import annotations

import json
from typing import Any

from unipost.config import to_tree
from unipost.evaluation import Evaluation, Evaluator, Report
from unipost.experiment import Experiment
from unipost.formats import data_hash
from unipost.loading import Model, load_model
from unipost.pipeline.record import Run
from unipost.runs import write_atomic

# of the evaluation's samples: the same draws for every model, whatever its own seed
SEED = 0


def measure(run: Run) -> None:
    """Evaluate what a stage made, unless report.json holds just that already.

    The reference of distances is the model that the first stage of its line began
    from.
    """
    evaluation = run.pipeline.evaluation
    if evaluation is None or not run.stage.measured:
        return
    asked = {
        "evaluation": to_tree(evaluation),
        "data": {t.path: data_hash(t.path) for t in evaluation.tasks.values()},
    }
    path = run.folder / "report.json"
    if path.exists():
        before = json.loads(path.read_text())
        if {key: before[key] for key in asked} == asked:
            return
    values = asked | plain(_evaluate(run, evaluation))
    write_atomic(path, json.dumps(values) + "\n")


def _evaluate(run: Run, evaluation: Evaluation) -> Report:
    settings, objective = run.settings(), None
    if isinstance(settings, Experiment):
        model = load_model(str(run.output), SEED, compute=settings.compute)
        objective = settings.objective
    else:
        model = load_model(settings.model, SEED)
    first = model if evaluation.distance is None else _first(run)
    evaluator = Evaluator(evaluation, model.policy, model.tokenizer, first.params, SEED)
    return evaluator(model.params, objective)


def _first(run: Run) -> Model:
    """The model that the line of stages began from."""
    name = run.stage.reads.get("model")
    if name is not None:
        return _first(run.read(name))
    settings = run.settings()
    return load_model(settings.model, getattr(settings, "seed", SEED))


def plain(report: Report) -> dict[str, Any]:
    """A report as plain data: outcomes per item, and the distances."""
    tasks = {}
    for name, graded in report.tasks.items():
        outcomes = {"greedy": graded.greedy.tolist()}
        if graded.sampled is not None:
            outcomes["sampled"] = graded.sampled.tolist()
        for k, values in graded.pass_at.items():
            outcomes[f"pass@{k}"] = values.tolist()
        tasks[name] = {"outcomes": outcomes, "length": graded.length}
        if graded.style is not None:
            tasks[name]["style"] = graded.style
    return {"tasks": tasks, "distance": dict(report.distance)}
