"""How far the arms of transfer.yaml have moved on the tasks that they did not train on.

Claims, before it was run: on the old tasks the last models of the arms at 3e-4 are
    kl       foreign SFT > own-style SFT > on-policy SFT > GRPO in KL(policy || base)
    rank     the same order in the share of tokens with another rank
    latent   the same order in the PCA shift of hidden states (the robust form)
Each step of an order is a difference paired by seed and task, with a hierarchical 95%
interval; the verdict is that of its weakest step. Paper: 2507.00432, Figures 3, 4, 17
and Table 2. E15.

    python -m experiments.papers.old_tasks runs/papers_transfer OUT.json

Cost: ten minutes of 2 busy CPU cores. Found, 3 seeds, means over 8 tasks of foreign
SFT, own style, on-policy SFT, GRPO: KL 0.185, 0.054, 0.021, 0.008 nats per token, every
step of the order supported; tokens with another rank 11.1, 5.8, 4.0, 3.0%, inconclusive
(the last step 1.0 [-0.5, 2.3]); PCA shift 0.179, 0.112, 0.103, 0.055, inconclusive (own
style against on-policy SFT 0.009 [-0.015, 0.033]). On-policy SFT is that of
transfer.yaml, which learned less. Not at equal accuracy, and not corrected for three
measures.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from unipost.analysis.compare import compare
from unipost.analysis.inputs import open_models, open_texts
from unipost.analysis.latent import latent_shift, layer_features
from unipost.analysis.responses import draw
from unipost.analysis.settings import Analysis
from unipost.analysis.statistics import paired_difference, verdict
from unipost.analysis.token_shift import shifts
from unipost.config import CHOICES
from unipost.sampling.batch import left_padded

BASE = "experiments/papers/base"
ORDER = ("foreign_sft@3e-4", "own_sft@3e-4", "on_sft@3e-4", "grpo@3e-4")
TASKS = ("sort", "count", "var", "cd", "copy", "rep", "fact", "look")
ASKED = Analysis(response_length=16, limit=64, samples=1, time_limit=None)
MEASURES = ("kl", "rank", "latent")


def measured(folder: Path, task: str) -> tuple[float, float, float]:
    """KL per token (nats), percent of tokens with another rank, PCA shift."""
    models = open_models(Path(BASE), folder, ASKED)
    texts = open_texts(f"experiments/papers/data/{task}_test.jsonl", models, ASKED)
    base, tuned = models
    own = draw(tuned, texts, ASKED, 1.0, 1)
    found = compare(tuned.policy, base.params, tuned.params, own.rows)
    kept = np.asarray(found.mask)
    rows = [p[m].tolist() for p, m in zip(*texts.tokens[:2], strict=True)]
    padded = left_padded(rows, max(map(len, rows)))
    before, after = (layer_features(m.policy, m.params, *padded) for m in models)
    return (
        float(found.reverse[kept].mean()),
        100 * float((shifts(found)[kept] != 0).mean()),
        float(latent_shift(before, after).distance.mean),
    )


def judged(values: dict[str, np.ndarray]) -> dict[str, dict]:
    """The order of every measure, from [seeds, tasks, measures] of every arm."""
    out = {}
    for i, name in enumerate(MEASURES):
        steps = {}
        for more, less in pairwise(ORDER):
            gap = paired_difference(values[more][..., i], values[less][..., i])
            found = verdict(gap.low, gap.high)
            steps[f"{more} - {less}"] = [*map(float, gap), found]
        verdicts = {step[-1] for step in steps.values()}
        whole = "inconclusive"
        if verdicts == {"supported"}:
            whole = "supported"
        elif "not supported" in verdicts:
            whole = "not supported"
        out[name] = {"steps": steps, "verdict": whole}
    return out


def main(run: Path, target: Path) -> None:
    """Measure the last models at 3e-4, judge, and write both."""
    from unipost.choices import REGISTRIES

    CHOICES.update(REGISTRIES)
    values = {}
    for folder in sorted(path for path in run.iterdir() if path.name.endswith("@3e-4")):
        seeds = sorted(folder.glob("[0-9]*/final"))
        if seeds:
            values[folder.name] = np.array(
                [[measured(path, task) for task in TASKS] for path in seeds]
            )
            print(folder.name, values[folder.name].mean((0, 1)).round(3).tolist())
    found = judged(values)
    told = {"tasks": TASKS, "measures": MEASURES, "judged": found}
    told["values"] = {k: v.round(5).tolist() for k, v in values.items()}
    target.write_text(json.dumps(told) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
