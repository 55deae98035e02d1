"""Weights that training leaves bit-unchanged, in float32 and in bfloat16 (E17).

Claims: see bf16_claims.py (2509.04259 section 6: that RL updates few weights is an
    artefact of bfloat16, and float32 is as good without it), with their thresholds.
Command: python -m experiments.papers.bf16_weights      (writes the file of `--out`)
Cost: half an hour of one CPU core that two or three other programs used too.
Before: four steps of one seed were run to time them; no claim's number was looked at.
Found, 3 seeds, one base, 512 items: seven claims of nine supported. At 1e-6 bfloat16
    leaves 99.8% of the weights unchanged and float32 0.01%, and SFT is no different,
    99.6% and 0.001%. Not supported: equal accuracy of GRPO. What is rounded away is not
    learned, -0.8 points [-1.4, -0.3] at 1e-6, -5.9 [-6.8, -4.9] at 1e-5, where bfloat16
    stays at the base's accuracy, and -11.6 [-13.3, -10.0] at 1e-4; at 3e-4 -0.5. So
    float32 is not as good, it is better, at the same rate and steps.
Explored, after the verdicts: weights trained in float32 and rounded at the end keep
    their accuracy within 0.8 points, and look 94%, 57%, 12% and 6% unchanged, from rate
    to rate; after SFT 80%, 14%, 3% and 2%. In such copies GRPO does look sparser than
    SFT, though in float32 both have changed nearly every weight. `copy_correct` was
    added for this and measured on the same final models.

One base, its weights rounded to bfloat16, is trained on chains of four numbers by GRPO
and by SFT on the teacher's running values, at RATES, for STEPS steps of 128 responses.
In `float32` the weights are float32, in `bfloat16` AdamW rounds them after every step
and keeps no master copy (`rounded.py`); all else is float32 in both. Measured are

    unchanged  percent of weights with the value that they started with
    copied     the same of weights that are rounded to bfloat16 when they are compared,
               as those of released checkpoints are
    correct    samples at temperature 1 that are right, of SAMPLES to every item of the
               task's test, with the same keys for every arm of a seed; copy_correct
               those of the float32 weights rounded after the last step
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.papers.bf16_claims import BASE, SAMPLES, judged
from experiments.papers.q_claims import ran, table
from experiments.papers.rounded import rounded
from experiments.papers.trajectories import ASKED, DATA, DEMONSTRATIONS, REWARD
from unipost.analysis.inputs import open_texts
from unipost.analysis.responses import draw
from unipost.analysis.settings import Analysis
from unipost.analysis.weights import unchanged
from unipost.config import build
from unipost.experiment import Experiment
from unipost.loading import Model, load_model
from unipost.vectorised import train_together

STEPS = 80
AT = (1, 2, 5, 10, 20, 40, STEPS)
"""Steps after which the weights are compared."""
SEEDS = (0, 1, 2)
RATES = (1e-6, 1e-5, 1e-4, 3e-4)
FORMATS = {"float32": "adamw", "bfloat16": "experiments.papers.rounded:Rounded"}
"""Formats of the weights with their optimisers."""
ROLLOUTS = {
    "name": "rollouts",
    "path": f"{DATA}/ch4_train.jsonl",
    "prompts": 16,
    "prompt_length": 16,
    "group": 8,
    "sampling": {"max_tokens": 22},
    "reward": REWARD,
    "time_limit": None,
}
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"objective": {"name": "grpo", "kl": None}, "data": ROLLOUTS},
    "sft": {"objective": "sft", "data": DEMONSTRATIONS | {"prompts": 128}},
}


@dataclass(frozen=True)
class Unchanged:
    """Compares a run's weights with those at its start, at the steps AT."""

    start: Any
    found: list[tuple[int, float, float]]

    def due(self, step: int, last: int) -> bool:
        """Whether they are compared after `step`."""
        return step in AT

    def __call__(self, params: Any, step: int) -> dict[str, float]:
        copy = jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16), params)
        same, copied = (100 * unchanged(self.start, p) for p in (params, copy))
        self.found.append((step, round(same, 4), round(copied, 4)))
        return {}


def experiment(
    method: str, form: str, rate: float, seed: int, model: str
) -> Experiment:
    """The run of a method in a format of the weights."""
    tree = METHODS[method] | {"model": model, "seed": seed, "steps": STEPS}
    optimizer = {"name": FORMATS[form], "learning_rate": rate, "warmup": 5, "b2": 0.99}
    return build(Experiment, tree | {"optimizer": optimizer})


def write_base(folder: Path) -> str:
    """The folder of the base with its weights rounded to bfloat16."""
    base = load_model("experiments/papers/base", 0)
    base.save(folder, rounded(base.params))
    return str(folder / "final")


def correct(model: Model, params: Any, seed: int) -> list[int]:
    """How many of SAMPLES responses to every item of the test are right."""
    trained = dataclasses.replace(model, params=params)
    tree = ASKED | {"limit": None, "samples": SAMPLES, "seed": seed, "rows": 512}
    asked = build(Analysis, tree | {"reward": REWARD, "time_limit": None})
    texts = open_texts(f"{DATA}/ch4_test.jsonl", [trained], asked)
    right: Any = draw(trained, texts, asked, 1.0, SAMPLES).correct
    return right.sum(-1).tolist()


def trained(method: str, form: str, model: Model, place: str, folder: Path):
    """{arm: its numbers, each a list over seeds} of all rates."""
    cells = [(rate, seed) for rate in RATES for seed in SEEDS]
    runs = [experiment(method, form, rate, seed, place) for rate, seed in cells]
    start = jax.tree.map(np.array, model.params)
    kept = [Unchanged(start, []) for _ in runs]
    title = f"{method}/{form}"
    folders = [folder / title / f"{rate:g}" / str(seed) for rate, seed in cells]
    results = train_together(runs, folders, title, also=[[(k, k)] for k in kept])
    arms: dict[str, Any] = {}
    for (rate, seed), one, done in zip(cells, kept, results, strict=True):
        own = arms.setdefault(f"{title}@{rate:g}", {"rate": rate})
        _, same, copied = one.found[-1]
        numbers = {"unchanged": same, "copied": copied, "curve": one.found}
        numbers["correct"] = correct(model, done.params, seed)
        if form == "float32":
            numbers["copy_correct"] = correct(model, rounded(done.params), seed)
        for name, value in numbers.items():
            own.setdefault(name, []).append(value)
    return arms


def measured(folder: Path) -> dict[str, Any]:
    """Every arm's numbers, those of the base among them."""
    place = write_base(folder / BASE)
    model = load_model(place, 0)
    right = [correct(model, model.params, seed) for seed in SEEDS]
    arms: dict[str, Any] = {BASE: {"rate": 0.0, "correct": right}}
    for method in METHODS:
        for form in FORMATS:
            arms |= trained(method, form, model, place, folder)
    return {"runs": arms}


def main() -> None:
    """Write the results and print what became of the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = "paper_figs/data/bf16_weights.json"
    parser.add_argument("--out", type=Path, default=default)
    text = "new folder of the training runs; default: %(default)s"
    parser.add_argument("--runs", type=Path, default="runs/bf16_weights", help=text)
    chosen = parser.parse_args()
    started = time.perf_counter()
    found = measured(chosen.runs)
    command = "python -m experiments.papers.bf16_weights"
    head = ran(command, time.perf_counter() - started)
    head |= {"study": "bf16_weights", "seeds": list(SEEDS), "steps": STEPS}
    head |= {"samples": SAMPLES, "claims": judged(found)}
    chosen.out.write_text(json.dumps(head | found, separators=(",", ":")) + "\n")
    print(table(head["claims"]))


if __name__ == "__main__":
    main()
