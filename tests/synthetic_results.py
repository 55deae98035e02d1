"""Results of a study as a run of its file would write them, with made-up outcomes."""

import json
from pathlib import Path

import numpy as np

from unipost.config import to_tree
from unipost.studies.diagnostics import named
from unipost.studies.frame import DISTANCES
from unipost.studies.outcomes import compact
from unipost.study import load_study

ITEMS = 6


def made_up(file: Path, folder: Path, seed: int = 0) -> dict:
    """Results of the study `file`, two seeds; `folder`/results.json is written."""
    study, rng = load_study(file), np.random.default_rng(seed)
    tasks = {}
    for name, task in study.evaluation.tasks.items():
        about = {"items": ITEMS, "role": task.role, "title": task.title or name}
        about |= {"samples": task.samples, "pass_at": []}
        tasks[name] = about
    groups = {name: list(group) for name, group in (study.groups or {}).items()}
    rule = {"task": study.rule.task, "metric": study.rule.metric}
    matched = None if study.matched is None else to_tree(study.matched)
    seeds = [0, 1]

    def point(level: float) -> dict:
        found = {}
        for name, about in tasks.items():
            own = {"greedy": (rng.random(ITEMS) < level).astype(float).tolist()}
            own |= {"length": 5 + 3 * rng.random(), "length_wrong": 6 + rng.random()}
            if about["samples"]:
                counts = rng.binomial(about["samples"], level, ITEMS)
                own["sampled"] = (counts / about["samples"]).tolist()
            found[name] = own
        numbers = {name: float(rng.random()) for name in DISTANCES}
        numbers |= {name: float(rng.random()) for name in named(study.diagnostics)}
        for name in study.metrics:
            for over in ("train", "window"):
                numbers[f"{over}/{name}"] = float(rng.random())
        return {"tasks": found} | numbers

    arms = {}
    for i, (name, arm) in enumerate(study.arms.items()):
        runs = []
        for s in seeds:
            level = 0.55 + 0.35 * i / len(study.arms)
            curve = [
                {"step": step} | point(min(level + 0.01 * step, 0.95))
                for step in study.curve
                if step < arm.steps
            ]
            runs.append({"seed": s, "curve": curve} | point(0.97))
        about = {"title": arm.title, "expected": arm.expected, "steps": arm.steps}
        arms[name] = about | {"runs": runs}
    results = {
        "study": study.name,
        "claim": study.claim,
        "seeds": seeds,
        "rule": rule | {"above": study.rule.above},
        "tasks": tasks,
        "groups": groups,
        "curve": list(study.curve),
        "matched": matched,
        "claims": {name: to_tree(claim) for name, claim in study.claims.items()},
        "base": point(0.5),
        "arms": arms,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(compact(results)))
    return results
