"""Short SFT and DPO runs of the base of `arith-transfer`, with their snapshots.

What q_values.py and subspace.py read. On chains of four numbers, from the base:

    sft      SFT on the teacher's running values
    dpo      DPO, the teacher's running values over the base's own wrong ones
    sft_dpo  the same DPO on the same pairs, from where `sft` ends

At temperature 1 the base's running values are nearly always right, so that mistakes are
drawn at TEMPERATURE. Only responses that list one value for each step are kept: neither
style nor length tells which is right. Runs that are there are not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.papers.tasks import steps, written
from unipost.analysis.inputs import open_texts
from unipost.analysis.responses import Responses, draw
from unipost.analysis.settings import Analysis
from unipost.config import build
from unipost.experiment import Experiment
from unipost.loading import Model, load_model
from unipost.vectorised import train_together

BASE = "experiments/papers/base"
DATA = "experiments/papers/data"
SEEDS = (0, 1, 2)
STEPS = (1, 2, 5, 10, 20, 30, 40)
"""When parameters are kept, beside step 0."""
BETA = 0.3
TEMPERATURE = 2.0
"""Of the base's responses, those of pairs and those that are judged."""
REWARD = "experiments.papers.tasks:chain"
ASKED = {"kind": "questions", "prompt_length": 16, "response_length": 22}
DEMONSTRATIONS = {
    "name": "demonstrations",
    "path": f"{DATA}/ch4_train.jsonl",
    "prompts": 64,
    "prompt_length": 16,
    "response_length": 22,
}
OPTIMIZER = {"name": "adamw", "warmup": 5, "b2": 0.99}

Snapshots = Mapping[int, Any]
"""Parameters by the number of steps taken."""


@dataclass(frozen=True)
class Kept:
    """Keeps a run's parameters in memory at STEPS, a copy of each."""

    found: dict[int, Any]

    def due(self, step: int, last: int) -> bool:
        """Whether they are kept after `step`."""
        return step in STEPS

    def __call__(self, params: Any, step: int) -> dict[str, float]:
        self.found[step] = jax.tree.map(np.array, params)
        return {}


def sampled(model: Model, path: str, limit: int, samples: int, seed: int) -> Responses:
    """`samples` responses at TEMPERATURE to the first `limit` prompts of a file."""
    tree = ASKED | {"limit": limit, "samples": samples, "seed": seed, "rows": 512}
    tree |= {"reward": REWARD, "time_limit": None}
    asked = build(Analysis, tree)
    return draw(model, open_texts(path, [model], asked), asked, TEMPERATURE, samples)


def is_chain(text: str, prompt: str) -> bool:
    """Whether a response lists one digit for each step, right or wrong."""
    values = text.split(",")
    return len(values) == len(steps(prompt)) and all(
        len(v) == 1 and v.isdigit() for v in values
    )


def write_pairs(model: Model, path: Path, limit: int = 2048, samples: int = 6) -> int:
    """Pairs (prompt, chosen, rejected) of the task; returns how many.

    The teacher's running values over the first wrong ones, as many, of the model's
    samples, where one of them is such.
    """
    drawn, found = sampled(model, f"{DATA}/ch4_train.jsonl", limit, samples, 17), []
    for i, prompt in enumerate(drawn.given.prompts):
        chosen = written(steps(prompt), "cot")
        for text in drawn.texts[i * samples : (i + 1) * samples]:
            if is_chain(text, prompt) and text[-1] != chosen[-1]:
                found.append({"prompt": prompt, "chosen": chosen, "rejected": text})
                break
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return len(found)


def experiment(arm: str, seed: int, pairs: Path, model: str) -> Experiment:
    """The run of an arm with a seed."""
    tree: dict[str, Any] = {"model": model, "seed": seed, "steps": STEPS[-1]}
    if arm == "sft":
        tree |= {"objective": "sft", "data": DEMONSTRATIONS}
        tree["optimizer"] = OPTIMIZER | {"learning_rate": 3e-4}
    else:
        lengths = {"prompts": 32, "prompt_length": 16, "response_length": 31}
        tree["data"] = {"name": "preferences", "path": str(pairs)} | lengths
        tree["objective"] = {"name": "dpo", "beta": BETA}
        tree["optimizer"] = OPTIMIZER | {"learning_rate": 1e-4}
    return build(Experiment, tree)


def trajectories(folder: Path) -> dict[str, list[Snapshots]]:
    """{arm: snapshots of each seed}, trained in `folder` where they are not there."""
    base = load_model(BASE, 0)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = folder / "pairs.jsonl"
    if not pairs.exists():
        write_pairs(base, pairs)
    found: dict[str, list[Snapshots]] = {}
    start = jax.tree.map(np.array, base.params)
    found["sft"] = _trained("sft", folder, pairs, {s: BASE for s in SEEDS}, start)
    found["dpo"] = _trained("dpo", folder, pairs, {s: BASE for s in SEEDS}, start)
    for seed in SEEDS:
        model = str(folder / "sft" / str(seed) / "final")
        first = found["sft"][seed][STEPS[-1]]
        found.setdefault("sft_dpo", [])
        found["sft_dpo"] += _trained("sft_dpo", folder, pairs, {seed: model}, first)
    return found


def _trained(
    arm: str, folder: Path, pairs: Path, models: Mapping[int, str], start: Any
) -> list[Snapshots]:
    """The snapshots of an arm's seeds, each with `start` at step 0."""
    places = [folder / arm / str(seed) for seed in models]
    files = [place / "snapshots.npz" for place in places]
    if not all(file.exists() for file in files):
        runs = [experiment(arm, s, pairs, model) for s, model in models.items()]
        kept = [Kept({}) for _ in runs]
        train_together(runs, places, arm, also=[[(one, one)] for one in kept])
        for one, file in zip(kept, files, strict=True):
            leaves = {
                f"{step}/{i}": leaf
                for step, tree in one.found.items()
                for i, leaf in enumerate(jax.tree.leaves(tree))
            }
            np.savez(file, **leaves)
    return [{0: start} | _read(file, start) for file in files]


def _read(file: Path, like: Any) -> dict[int, Any]:
    structure = jax.tree.structure(like)
    with np.load(file) as held:
        return {
            step: jax.tree.unflatten(
                structure, [held[f"{step}/{i}"] for i in range(structure.num_leaves)]
            )
            for step in STEPS
        }
