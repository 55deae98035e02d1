"""The claims of shifts.py and how they are decided.

Each is a difference of two arms' values, paired by seed and item, under a hierarchical
bootstrap; the tasks are fixed. ALPHA is 0.05 over the number of claims.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unipost.analysis.statistics import percentiles, verdict
from unipost.analysis.statistics.bootstrap import Weights

OLD = ("sort", "rep", "look", "fact")
COUNTED = ("ch4", "rep")
ALPHA = 0.01

CLAIMS = {
    "pca_old": "On the old tasks the hidden states of GRPO have moved less than those "
    "of SFT on either style (d, mean of four tasks).",
    "pca_every": "They have moved less than those of foreign SFT on each of them.",
    "rank_old": "On the old tasks the mean rank shift of a response of GRPO is below "
    "that of SFT on either style (mean of four tasks).",
    "rank_late": "So it is after the third token of a response (sort and rep).",
    "count": "GRPO shifts fewer tokens of a response than SFT on either style, on the "
    "trained task and on a non-reasoning one (ch4, rep).",
}


def distances(z: np.ndarray, items: np.ndarray) -> np.ndarray:
    """d [B R] of z [R N 2] under weights of items [B N]: |sum_i w_i z_i| / sum w."""
    means = np.einsum("bn,rnk->brk", items, z) / items.sum(1)[:, None, None]
    return np.linalg.norm(means, axis=-1)


def drawn_values(weights: Weights, task: str, values: np.ndarray) -> np.ndarray:
    """[1 + B] values of an arm on a task: d of z [R N 2], or the mean of [R N]."""
    items = weights.items(task, values.shape[1]).astype(float)
    if values.ndim == 3:
        return weights.over_runs(distances(values, items))
    return weights.over_runs(items @ values.T / items.sum(1, keepdims=True))


def gap(weights: Weights, table: dict, more: str, less: str, key: str, tasks) -> list:
    """[mean, low, high, verdict] of more - less > 0, the mean over `tasks`."""
    draws = np.mean(
        [
            drawn_values(weights, task, table[more][task][key])
            - drawn_values(weights, task, table[less][task][key])
            for task in tasks
        ],
        0,
    )
    low, high = percentiles(draws[1:], ALPHA)
    return [float(draws[0]), low, high, verdict(low, high)]


def judged(weights: Weights, table: dict) -> dict[str, Any]:
    """Every claim with its parts and its verdict: that of the weakest part."""
    sft = ("foreign_sft", "own_sft")
    asked = {
        "pca_old": [(arm, "z", OLD) for arm in sft],
        "pca_every": [("foreign_sft", "z", (task,)) for task in OLD],
        "rank_old": [(arm, "shift", OLD) for arm in sft],
        "rank_late": [(arm, "late", ("sort", "rep")) for arm in sft],
        "count": [(arm, "count", (t,)) for arm in sft for t in COUNTED],
    }
    out = {}
    for name, parts in asked.items():
        steps = {
            f"{arm} - grpo, {' '.join(on)}": gap(weights, table, arm, "grpo", key, on)
            for arm, key, on in parts
        }
        words = {step[-1] for step in steps.values()}
        order = ("not supported", "inconclusive", "supported")
        whole = next(word for word in order if word in words)
        out[name] = {"says": CLAIMS[name], "parts": steps, "verdict": whole}
    return out


def told(weights: Weights, values: np.ndarray) -> list[float]:
    """[mean, low, high] at 95% of an arm's values on the task given by its name."""
    draws = drawn_values(weights, "told", values)
    return [float(draws[0]), *percentiles(draws[1:])]
