"""Results of a study whose truth is known, for claims to be tested on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ITEMS = {"new": 200, "old": 100, "far": 50}
"""Items of every task; `new` is the target, with four samples."""
POINTS = (5, 10, 20)
"""Steps of the curve; the last step is 40."""


def right(share: float, items: int) -> list[int]:
    """The first `share` of the items is right."""
    count = round(share * items)
    return [1] * count + [0] * (items - count)


def point(new: float, old: float, far: float = 0.5, **numbers: float) -> dict[str, Any]:
    """Outcomes with these shares of right answers, the same for every sample."""
    solved = right(new, ITEMS["new"])
    tasks: dict[str, Any] = {
        "new": {"greedy": solved, "sampled": [float(x) for x in solved]},
        "old": {"greedy": right(old, ITEMS["old"])},
        "far": {"greedy": right(far, ITEMS["far"])},
    }
    return {"tasks": tasks, **numbers}


def noisy(made: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The same shares on items drawn anew."""
    for task in made["tasks"].values():
        for key in task:
            task[key] = rng.permutation(task[key]).tolist()
    return made


def results(
    arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    base: Mapping[str, Any],
    claims: Mapping[str, Any] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """Results of {arm: [for each seed: points of the curve and the last]}."""
    made = {
        name: {
            "title": name,
            "expected": "learn",
            "steps": 40,
            "runs": [
                {
                    "seed": seed,
                    "steps": 40,
                    **copy.deepcopy(run[-1]),
                    "curve": [
                        {"step": s, **copy.deepcopy(p)}
                        for s, p in zip(POINTS, run[:-1], strict=True)
                    ],
                }
                for seed, run in enumerate(runs)
            ],
        }
        for name, runs in arms.items()
    }
    tasks = {
        name: {
            "items": size,
            "role": "target" if name == "new" else "retention",
            "title": name,
            "samples": 4 if name == "new" else 0,
            "pass_at": [2] if name == "new" else [],
        }
        for name, size in ITEMS.items()
    }
    return {
        "study": "known",
        "claim": "Known.",
        "seeds": [*range(len(next(iter(arms.values()))))],
        "git": None,
        "rule": {"task": "new", "metric": "sampled", "above": 0.0},
        "comparisons": [],
        "tasks": tasks,
        "groups": {},
        "curve": [*POINTS],
        "matched": {"task": "new", "metric": "sampled", "reach": 70.0},
        "base": copy.deepcopy(dict(base)),
        "arms": made,
        "claims": {
            name: {
                "says": name,
                "paper": "",
                "item": "",
                "published": "",
                "status": "confirmatory",
                "registered": "before the run",
                **claim,
            }
            for name, claim in (claims or {}).items()
        },
        **changed,
    }
