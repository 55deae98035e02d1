"""Claims of a pipeline: results in the form of a study's, and the verdicts on them.

With an evaluation the arms are the stages whose models it measures, and `base` is the
stage of that name; what a stage's own evaluation has measured on the way is its curve,
as numbers `during/TASK/METRIC`. Without one they are the rules of the best_of stage
("majority", "best of n, NAME", "weighted vote, NAME", "pass@n"): the points of their
curve are the numbers N of responses, the task is the name of the file, accuracies are
the expected ones of every item, and `base` is a single response. Numbers of a point are
`generated` (tokens per question) and `flops` (forward, of policy and scorer).
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipost.config import to_tree
from unipost.evaluation import Evaluation
from unipost.pipeline.kinds import BestOfStage
from unipost.pipeline.record import Run
from unipost.pipeline.settings import Pipeline
from unipost.runs import revision, write_atomic
from unipost.studies.frame import (
    BASE,
    DISTANCES,
    Frame,
    kept_groups,
    number_names,
)
from unipost.studies.outcomes import compact, expanded
from unipost.studies.registered import late_claims, register
from unipost.studies.verdicts import with_verdicts
from unipost.test_time.cost import flops
from unipost.test_time.curves import rule_names

Point = dict[str, Any]


def check_claims(pipeline: Pipeline) -> None:
    """Raises ValueError, naming the claim, for what the pipeline does not measure."""
    if not pipeline.claims:
        return
    frame = _frame(pipeline)
    for name, claim in pipeline.claims.items():
        try:
            claim.test.check(frame)
        except ValueError as error:
            raise ValueError(f"claims.{name}.test: {error}") from error


def _frame(pipeline: Pipeline) -> Frame:
    evaluation = pipeline.evaluation
    if evaluation is None:
        _, chosen = best_of_stage(pipeline)
        scores, sizes = [*chosen.scores], chosen.points
        rules = rule_names(scores, chosen.voting)
        task, numbers = Path(chosen.path).stem, frozenset({"generated", "flops"})
        families = {rule: (rule,) for rule in rules}
        return Frame(families, {task: 0}, {}, (), (task, "greedy"), sizes, numbers)
    if pipeline.rule is None or BASE not in pipeline.stages:
        raise ValueError(
            "claims: need rule: {task, metric} and a stage `base`, which changes are "
            "measured from"
        )
    tasks = evaluation.tasks
    named = number_names({t: True for t in tasks}, bool(evaluation.distance), (), ())
    roles = {name: task.role for name, task in tasks.items()}
    return Frame(
        families={n: (n,) for n, s in pipeline.stages.items() if s.measured},
        tasks={name: task.samples for name, task in tasks.items()},
        groups={},
        kept=kept_groups({}, roles),
        target=(pipeline.rule.task, pipeline.rule.metric),
        numbers=named,
    )


def best_of_stage(pipeline: Pipeline) -> tuple[str, BestOfStage]:
    """The one stage whose rules claims are about. Raises ValueError for no or two."""
    stages = pipeline.stages.items()
    found = [(n, s.settings) for n, s in stages if isinstance(s.settings, BestOfStage)]
    if len(found) != 1:
        raise ValueError(
            f"claims: {len(found)} stages of kind best_of and no evaluation; write one "
            "of them"
        )
    return found[0]


def register_claims(pipeline: Pipeline, folder: Path) -> None:
    """Note the tests of the claims, as long as no stage is finished."""
    if pipeline.claims:
        register(pipeline.claims, folder, ("*/done.json", "*/*/done.json"))


def write_results(runs: Sequence[Run], folder: Path) -> None:
    """Write results.json with the verdicts, where the pipeline has claims.

    `unipost verdicts` computes them again from it.
    """
    pipeline = runs[0].pipeline
    if not pipeline.claims:
        return
    made = _measured(runs) if pipeline.evaluation else _chosen(runs)
    late = late_claims(pipeline.claims, folder)
    head = {
        "study": folder.name,
        "claim": pipeline.claim,
        "seeds": _seeds(pipeline),
        "git": revision(),
        "command": shlex.join(["unipost", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "comparisons": [],
        "groups": {},
        "matched": None,
        "claims": {
            name: to_tree(claim)
            | {"registered": "after the run" if name in late else "before the run"}
            for name, claim in pipeline.claims.items()
        },
        "wall_seconds": sum(run.seconds for run in runs),
    }
    results = with_verdicts(expanded(compact(head | made)))
    write_atomic(folder / "results.json", json.dumps(compact(results)) + "\n")


def _seeds(pipeline: Pipeline) -> list[int]:
    return [0] if pipeline.seeds is None else list(pipeline.seeds)


def _of(runs: Sequence[Run], name: str) -> list[Run]:
    """The runs of a stage, seed by seed; one that ran once stands for every seed."""
    own = [run for run in runs if run.name == name]
    return own * (len(_seeds(runs[0].pipeline)) // len(own))


def _measured(runs: Sequence[Run]) -> dict[str, Any]:
    """Base, arms, tasks and rule of the models that the evaluation measured."""
    pipeline = runs[0].pipeline
    evaluation, rule = pipeline.evaluation, pipeline.rule
    assert evaluation is not None and rule is not None  # checked when it was read
    arms, names = {}, [n for n, s in pipeline.stages.items() if s.measured]
    for name in names:
        steps = getattr(pipeline.stages[name].settings, "steps", None)
        pairs = zip(_seeds(pipeline), _of(runs, name), strict=True)
        own = [{"seed": s, "steps": steps} | _run(run) for s, run in pairs]
        arms[name] = {"title": name.replace("_", " "), "expected": "learn"}
        arms[name] |= {"steps": steps, "runs": own}
    base = arms.pop(BASE)["runs"][0]
    return {
        "rule": {"task": rule.task, "metric": rule.metric, "above": rule.above},
        "tasks": _tasks(evaluation, base),
        "curve": sorted({p["step"] for run in _runs(arms) for p in run["curve"]}),
        "base": _at_base(base, arms),
        "arms": arms,
    }


def _at_base(base: Point, arms: Mapping[str, Any]) -> Point:
    """The base as a study has it; its accuracies are where every curve begins."""
    names = {k for run in _runs(arms) for point in run["curve"] for k in point}
    starts = {}
    for name, task in base["tasks"].items():
        for metric in ("greedy", "sampled"):
            key = f"during/{name}/{metric}"
            if key in names and metric in task:
                starts[key] = 100 * sum(task[metric]) / len(task[metric])
    return {k: v for k, v in base.items() if k in ("tasks", *DISTANCES)} | starts


def _runs(arms: Mapping[str, Any]) -> list[Point]:
    return [run for arm in arms.values() for run in arm["runs"]]


def _run(run: Run) -> Point:
    """What was measured of a model, with the curve of its training."""
    curve = _during(run)
    last = {k: v for k, v in curve[-1].items() if "/" in k} if curve else {}
    return _report(run) | last | {"curve": curve}


def _during(run: Run) -> list[Point]:
    """What the stage's own evaluation wrote, in percent where it is an accuracy."""
    path = run.folder / "evaluation.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {"step": line["step"], "tasks": {}}
        | {f"during/{k}": _percent(k, v) for k, v in line.items() if "/" in k}
        for line in lines
    ]


def _percent(name: str, value: float) -> float:
    share = name.endswith(("/greedy", "/sampled")) or "/pass@" in name
    return 100 * value if share else value


def _tasks(evaluation: Evaluation, base: Point) -> dict[str, Any]:
    return {
        name: {
            "items": len(base["tasks"][name]["greedy"]),
            "role": task.role,
            "title": task.title or name,
            "samples": task.samples,
            "pass_at": list(task.pass_at),
        }
        for name, task in evaluation.tasks.items()
    }


def _report(run: Run) -> Point:
    """What report.json holds of a model, as a study's run holds it."""
    report = json.loads((run.folder / "report.json").read_text())
    tasks = {}
    for name, own in report["tasks"].items():
        outcomes = own["outcomes"]
        kept = {k: outcomes[k] for k in ("greedy", "sampled") if k in outcomes}
        tasks[name] = kept | {k: v for k, v in own.items() if k != "outcomes"}
    return {"tasks": tasks, **report["distance"]}


def _chosen(runs: Sequence[Run]) -> dict[str, Any]:
    """Base, arms, tasks and rule of the best_of stage."""
    pipeline = runs[0].pipeline
    name, asked = best_of_stage(pipeline)
    task, sizes, seeds = Path(asked.path).stem, asked.points, _seeds(pipeline)
    folders = [run.folder / "items.json" for run in _of(runs, name)]
    found = [json.loads(file.read_text()) for file in folders]
    arms = {}
    for rule in found[0]["rules"]:
        own = [
            _curve(table, rule, task, sizes) | {"seed": seed, "steps": sizes[-1]}
            for seed, table in zip(seeds, found, strict=True)
        ]
        arms[rule] = {"title": rule, "expected": "learn", "steps": sizes[-1]}
        arms[rule]["runs"] = own
    one = [sum(x) / len(x) for x in zip(*(t["one"] for t in found), strict=True)]
    about = {"items": len(one), "role": "target", "title": task, "samples": 0}
    return {
        "rule": {"task": task, "metric": "greedy", "above": 0.0},
        "tasks": {task: about | {"pass_at": []}},
        "curve": list(sizes),
        "base": {"tasks": {task: {"greedy": one}}},
        "arms": arms,
    }


def _curve(table: Point, rule: str, task: str, sizes: Sequence[int]) -> Point:
    """A rule at the largest N, and at every N as its curve."""
    points = [
        {
            "step": size,
            "tasks": {task: {"greedy": table["rules"][rule][str(size)]}},
            "generated": size * table["tokens"],
            "flops": flops(table, rule, size),
        }
        for size in sizes
    ]
    last = {k: v for k, v in points[-1].items() if k != "step"}
    return last | {"curve": points}
