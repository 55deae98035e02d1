"""Controlled comparisons: the same base, data and budget for every arm and seed.

A study file holds `common`, an experiment without what the arms vary, and `arms`,
each laid over `common`. The claims, the rule by which an arm has improved, and which
arm must fail it are written down there before anything runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from unipost.config import dump_tree, to_tree
from unipost.evaluation import Evaluator
from unipost.loading import laid_out
from unipost.locks import held
from unipost.mesh import Layout, within
from unipost.preemption import check as check_stopped
from unipost.runs import RunError, check_own, open_folder, revision, write_atomic
from unipost.studies.coefficients import coefficients
from unipost.studies.curve import Curve, Measured, means_of
from unipost.studies.diagnostics import named
from unipost.studies.files import is_study as is_study
from unipost.studies.files import load_study as load_study
from unipost.studies.outcomes import compact, expanded
from unipost.studies.registered import late_claims, register
from unipost.studies.settings import Arm as Arm
from unipost.studies.settings import Rule as Rule
from unipost.studies.settings import Study as Study
from unipost.studies.together import train_family, trained_together
from unipost.studies.verdicts import with_verdicts
from unipost.train import Model, load_model, train


def run_study(study: Study, folder: Path) -> dict[str, Any]:
    """Run every arm and seed that is not done yet; returns and writes results.json.

    Each arm and seed is a run directory `folder/ARM/SEED` with its result.json; a
    study that was killed goes on where it stopped. Raises RunError where the folder
    holds something else or is in use.
    """
    layout = None if study.mesh is None else study.mesh.open()
    check_own(folder)
    with within(layout), held(folder):
        results = expanded(compact(_run_study(study, folder, layout)))
        results = with_verdicts(results)
        write_atomic(folder / "results.json", json.dumps(compact(results)) + "\n")
    return results


def _run_study(study: Study, folder: Path, layout: Layout | None) -> dict[str, Any]:
    # claims may be added later, and are then known to be: they are no setting of a run
    settings = dataclasses.replace(study, claims={})
    open_folder(folder, dump_tree(to_tree(settings)))
    register(study.claims, folder)
    base = _base(study, folder)
    model = load_model(base, 0, layout=layout)
    measure = _measure(study, model)
    at_base = _cached(folder / "base.json", lambda: _timed(lambda: _at_base(measure)))
    arms, total = {}, len(study.arms) * len(study.seeds)
    for i, (name, arm) in enumerate(study.arms.items()):
        train_family(study, name, base, folder, measure)
        runs = []
        for j, seed in enumerate(study.seeds):
            title = f"[{i * len(study.seeds) + j + 1}/{total}] {name} seed {seed}"
            path = folder / name / str(seed)
            experiment = study.experiment(name, seed, base, folder)

            def run(e=experiment, p=path, t=title, after=arm.after):
                start = (
                    model if after is None else load_model(e.model, 0, layout=layout)
                )
                return _timed(lambda: _run_arm(study, e, p, t, start, measure))

            runs.append(_cached(path / "result.json", run))
        about = {"title": arm.title, "expected": arm.expected, "steps": arm.steps}
        arms[name] = about | {"runs": runs}
    late = late_claims(study.claims, folder)
    return _header(study, measure, late) | {
        "base": at_base,
        "arms": arms,
        "wall_seconds": _seconds(at_base, arms),
    }


def _header(study: Study, measure: Measured, late: list[str]) -> dict[str, Any]:
    """What results.json says of the study itself."""
    return {
        "study": study.name,
        "claim": study.claim,
        "seeds": list(study.seeds),
        "git": revision(),
        "command": shlex.join(["unipost", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "rule": vars(study.rule),
        "comparisons": [list(pair) for pair in study.comparisons],
        "tasks": {
            name: {
                "items": len(opened.questions),
                "role": opened.task.role,
                "title": opened.task.title or name,
                "samples": opened.task.samples,
                "temperature": opened.task.temperature,
                "pass_at": list(opened.task.pass_at),
            }
            for name, opened in measure.evaluator.tasks.items()
        },
        "groups": {name: list(tasks) for name, tasks in study.groups.items()},
        "curve": list(study.curve),
        "matched": None if study.matched is None else vars(study.matched),
        "claims": {
            name: to_tree(claim)
            | {"registered": "after the run" if name in late else "before the run"}
            for name, claim in study.claims.items()
        },
    }


def _seconds(base: dict[str, Any], arms: dict[str, Any]) -> float:
    """What all parts took, also those of a start before this one.

    A run that was trained with others, or before the study was killed, has its training
    in `train_seconds` alone.
    """
    runs = [run for arm in arms.values() for run in arm["runs"]]
    each = [max(run.get("seconds", 0.0), run["train_seconds"]) for run in runs]
    return base.get("seconds", 0.0) + sum(each)


def _base(study: Study, folder: Path) -> str:
    """The folder of the base model, trained first when the study says so."""
    if study.base != "train":
        return study.base
    if study.recipe is None:
        raise RunError("base: train, but the study has no recipe; write its file")
    from unipost.config import load
    from unipost.train import Experiment

    recipe, final = load(Experiment, study.recipe), folder / "base" / "final"
    # refuses a recipe that has changed; `final` appears when its run is over
    open_folder(folder / "base", dump_tree(to_tree(recipe)))
    if not final.exists():
        train(recipe, folder / "base", title="base")
    return str(final)


def _measure(study: Study, model: Model) -> Measured:
    """The study's evaluation, with the base as its reference."""
    parts = model.policy, model.tokenizer, model.params
    evaluator = Evaluator(study.evaluation, *parts, seed=0)

    def placed(params: Any) -> Any:
        # a run may have the axes of its mesh in another order
        if model.mesh is None:
            return params
        run = dataclasses.replace(model, params=params, mesh=None)
        return laid_out(run, model.mesh).params

    return Measured(evaluator, named(study.diagnostics), study.rule.task, placed)


def _at_base(measure: Measured) -> dict[str, Any]:
    return measure(measure.evaluator.reference)[0]


def _cached(path: Path, make) -> Any:
    if path.exists():
        return json.loads(path.read_text())
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(value) + "\n")
    return value


def _timed(make) -> dict[str, Any]:
    started = time.perf_counter()
    value = make()
    return value | {"seconds": time.perf_counter() - started}


def _run_arm(study, experiment, folder, title, model: Model, measure: Measured):
    steps, objective = experiment.steps, experiment.objective
    curve = Curve(measure, study.curve, folder, objective)
    params = trained_together(study, folder)
    if params is None:
        also = [(curve, curve)]
        trained = train(experiment, folder, model=model, title=title, also=also)
        params = trained.params
    check_stopped()
    point, _ = measure(params, objective)
    times = (folder / "timing.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in times]
    window = means_of(folder, study.metrics, curve.before(steps), steps)
    return {
        "seed": experiment.seed,
        "steps": steps,
        "train_seconds": sum(line["seconds"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        **window,
        **point,
        "curve": curve.points(steps, study.metrics),
        "coefficient": coefficients(experiment, model, measure.placed(params)),
    }
