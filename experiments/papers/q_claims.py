"""The claims of q_values.py, and how the stored numbers decide them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np

from unipost.analysis.statistics import Weights, percentiles, verdict

CLAIMS: dict[str, dict[str, Any]] = {
    "telescopes": {
        "says": "Both sums over Q and V of the logits are log pi(y|x), in float32",
        "number": "largest error over responses of base, sft, dpo and sft_dpo, nats",
        "below": 1e-5,
    },
    "exact": {
        "says": "What is left of that error is rounding: in float64 it is gone",
        "number": "the same in float64, nats",
        "below": 1e-10,
    },
    "bellman": {
        "says": "The difference of the values is the soft maximum of the difference "
        "of the logits under the reference",
        "number": "largest error by summing over the vocabulary, float64, nats",
        "below": 1e-10,
    },
}
EFFECTS = {
    f"{arm}_{unit}": {
        "says": f"The implicit reward of a {unit} after {title} correlates with its "
        "being right",
        "arm": arm,
        "unit": unit,
        "task": "ch4",
        "above": 0.0,
    }
    for arm, title in (("sft", "SFT"), ("dpo", "DPO"), ("sft_dpo", "SFT and DPO"))
    for unit in ("response", "step")
}
"""Correlations, each judged at level 1 - 0.05 / their number (Bonferroni)."""


def moments(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums [6, S, P] of 1, x, y, xx, yy, xy for x [S, N], y [N] in groups [N]."""
    y = np.broadcast_to(y, x.shape)
    each = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    return each @ np.eye(int(groups.max()) + 1)[groups]


def correlation(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, alpha: float, draws: int = 10_000
) -> tuple[float, float, float]:
    """Pearson's correlation of x [S, N] with y [N], with its interval.

    S seeds and the groups (prompts) are drawn with replacement, as everywhere.
    """
    sums = moments(x, y, groups)
    weights = Weights(1, len(x), draws)
    items = weights.items("prompts", sums.shape[-1])
    n, a, b, aa, bb, ab = (
        np.einsum("bp,bp->b", weights.runs @ table, items) for table in sums
    )
    spread = np.sqrt(np.maximum((n * aa - a * a) * (n * bb - b * b), 0))
    found = np.divide(n * ab - a * b, spread, where=spread > 0, out=spread * np.nan)
    return float(found[0]), *percentiles(found[1:], alpha)


def centred(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """x [..., N] less its mean in each group: without a shift by the prompt."""
    counts = np.bincount(groups)
    flat = x.reshape(-1, x.shape[-1])
    means = [np.bincount(groups, row) / np.maximum(counts, 1) for row in flat]
    return x - np.stack([m[groups] for m in means]).reshape(x.shape)


def without(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """x [..., N] less its least-squares line in `other` [N], row by row."""
    z = other - other.mean()
    flat = x - x.mean(-1, keepdims=True)
    return flat - (flat @ z / (z @ z))[..., None] * z


def arrays(found: dict[str, Any], task: str, arm: str, unit: str):
    """(x [S, N], y [N], prompts [N]) of a correlation; arm base: its log-prob."""
    table = found["tasks"][task]
    groups = np.asarray(table["prompt"])
    given = [table["base_logp"]] if arm == "base" else table["rewards"][arm]
    rewards = np.asarray(given, float)
    if unit == "response":
        return rewards.sum(-1), np.asarray(table["right"], float), groups
    right = np.asarray(table["step_right"], float)
    flat = rewards.reshape(len(rewards), -1)
    return flat, right.ravel(), np.repeat(groups, right.shape[-1])


def cumulated(found: dict[str, Any], task: str, arm: str) -> list[dict[str, float]]:
    """Of the rewards cumulated up to step k: correlation with the response's end."""
    table = found["tasks"][task]
    rewards = np.asarray(table["rewards"][arm], float).cumsum(-1)
    right, groups = np.asarray(table["right"], float), np.asarray(table["prompt"])
    out = []
    for k in range(rewards.shape[-1]):
        mean, low, high = correlation(rewards[..., k], right, groups, 0.05, 2_000)
        out.append({"step": k + 1, "mean": mean, "low": low, "high": high})
    return out


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """Every claim with its number and its verdict, from what is stored."""
    errors = found["errors"]
    numbers = {
        "telescopes": max(errors["float32"].values()),
        "exact": max(errors["float64"].values()),
        "bellman": max(errors["bellman"].values()),
    }
    claims: dict[str, Any] = {}
    for name, claim in CLAIMS.items():
        holds = numbers[name] < claim["below"]
        word = "supported" if holds else "not supported"
        effect = [claim["number"], numbers[name], None, None]
        claims[name] = claim | {"found": {"verdict": word, "effects": [effect]}}
    level = 0.05 / len(EFFECTS)
    for name, claim in EFFECTS.items():
        given = arrays(found, claim["task"], claim["arm"], claim["unit"])
        mean, low, high = correlation(*given, alpha=level)
        effect = [f"correlation, {claim['task']}", mean, low, high]
        word = verdict(low, high, claim["above"])
        about = {"verdict": word, "effects": [effect], "level": 1 - level}
        claims[name] = claim | {"found": about}
    return claims


def explored(found: dict[str, Any], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Correlations beside the claims: of all tasks, within prompts, of log pi_base.

    `given_base` leaves out what log pi_base tells already, in a line.
    """
    rows = []
    for task in tasks:
        for unit in ("response", "step"):
            base = arrays(found, task, "base", unit)[0][0]
            for arm in ("base", "sft", "dpo", "sft_dpo"):
                x, y, groups = arrays(found, task, arm, unit)
                pairs = {"pooled": (x, y)}
                pairs["in_prompt"] = centred(x, groups), centred(y, groups)
                if arm != "base":
                    pairs["given_base"] = without(x, base), without(y, base)
                for how, (a, b) in pairs.items():
                    mean, low, high = correlation(a, b, groups, 0.05, 2_000)
                    about = {"task": task, "arm": arm, "unit": unit, "how": how}
                    rows.append(about | {"mean": mean, "low": low, "high": high})
    return rows


def ran(command: str, seconds: float) -> dict[str, Any]:
    """By which command and commit results were made, and in what time."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    about = {"command": command, "git": done.stdout.strip() or None}
    return about | {"wall_seconds": round(seconds), "cores": os.cpu_count()}


def table(claims: dict[str, Any]) -> str:
    """A line for each claim: its verdict, its number with interval, what it says."""
    lines = []
    for name, claim in claims.items():
        found = claim["found"]
        _, mean, low, high = found["effects"][0][:4]
        ends = "" if low is None else f"[{low:.3g}, {high:.3g}]"
        head = f"{found['verdict']:14} {name:16} {mean:9.3g} {ends:18}"
        lines.append(f"{head} {claim['says']}")
    return "\n".join(lines)
