"""The claims of bf16_weights.py, and how the stored numbers decide them.

All were written before the runs. Those marked E17 have the thresholds of the suite, the
others are controls of ours; the paper prints no numbers that fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unipost.analysis.statistics import bootstrap_mean, verdict
from unipost.analysis.statistics.tests import within

BASE, SAMPLES = "base", 8
CLAIMS: dict[str, dict[str, Any]] = {
    "bf16_sparse": {
        "says": "GRPO at 1e-6 in bfloat16 leaves at least 50% of the weights "
        "bit-unchanged (E17)",
        "of": "unchanged",
        "arms": ["grpo/bfloat16@1e-06"],
        "above": 50,
    },
    "fp32_dense": {
        "says": "GRPO at 1e-6 in float32 leaves less than 1% of them so (E17)",
        "of": "unchanged",
        "arms": ["grpo/float32@1e-06"],
        "below": 1,
    },
    "same_accuracy": {
        "says": "At 1e-6 and 1e-5 GRPO ends within 2 points in both formats (E17)",
        "of": "accuracy",
        "pairs": [
            [f"grpo/bfloat16@{rate}", f"grpo/float32@{rate}"]
            for rate in ("1e-06", "1e-05")
        ],
        "margin": 2,
    },
    "learns": {
        "says": "At 1e-4 GRPO in float32 gains more than 5 points",
        "of": "accuracy",
        "pairs": [["grpo/float32@0.0001", BASE]],
        "above": 5,
    },
    "same_learned": {
        "says": "At 1e-4 too GRPO ends within 2 points in both formats",
        "of": "accuracy",
        "pairs": [["grpo/bfloat16@0.0001", "grpo/float32@0.0001"]],
        "margin": 2,
    },
    "sft_sparse": {
        "says": "SFT at 1e-6 in bfloat16 leaves at least 50% bit-unchanged as well",
        "of": "unchanged",
        "arms": ["sft/bfloat16@1e-06"],
        "above": 50,
    },
    "sft_dense": {
        "says": "SFT at 1e-6 in float32 leaves less than 1% of them so",
        "of": "unchanged",
        "arms": ["sft/float32@1e-06"],
        "below": 1,
    },
    "rl_as_sft": {
        "says": "In bfloat16 GRPO and SFT leave the same share within 10 points, at "
        "1e-6, 1e-5 and 1e-4",
        "of": "unchanged",
        "pairs": [
            [f"grpo/bfloat16@{rate}", f"sft/bfloat16@{rate}"]
            for rate in ("1e-06", "1e-05", "0.0001")
        ],
        "margin": 10,
    },
    "copy_sparse": {
        "says": "GRPO at 1e-6 in float32 seems to leave at least 50% unchanged where "
        "its result is compared in bfloat16",
        "of": "copied",
        "arms": ["grpo/float32@1e-06"],
        "above": 50,
    },
}
ALPHA = 0.05 / len(CLAIMS)
"""Bonferroni: 95% for all claims together; a TOST has two one-sided tests at it."""
ORDER = ("not supported", "inconclusive", "supported")


def values(found: dict[str, Any], arm: str, what: str) -> np.ndarray:
    """Percent of an arm: [seeds], or of accuracy [seeds, items]."""
    own = found["runs"][arm]
    if what != "accuracy":
        return np.asarray(own[what], float)
    return 100 * np.asarray(own["correct"], float) / SAMPLES


def part(found: dict[str, Any], claim: dict[str, Any], asked: Any) -> tuple:
    """(verdict, label, mean, low, high) of one arm, or one pair of arms, of a claim."""
    tost = "margin" in claim
    if "arms" in claim:
        label, table = f"{claim['of']} {asked}", values(found, asked, claim["of"])
    else:
        one, other = (values(found, arm, claim["of"]) for arm in asked)
        label, table = f"{claim['of']} {asked[0]} - {asked[1]}", one - other
    mean, low, high = bootstrap_mean(table, alpha=2 * ALPHA if tost else ALPHA)
    if tost:
        word = within(low, high, claim["margin"])
    elif "above" in claim:
        word = verdict(low, high, claim["above"])
    else:
        word = verdict(-high, -low, -claim["below"])
    return word, label, mean, low, high


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """Every claim with its numbers and the verdict of its weakest part, that first."""
    claims = {}
    for name, claim in CLAIMS.items():
        asked = claim["arms"] if "arms" in claim else claim["pairs"]
        parts = [part(found, claim, x) for x in asked]
        parts.sort(key=lambda p: (ORDER.index(p[0]), -abs(p[2])))
        level = 1 - ALPHA * (1 + ("margin" in claim))
        about = {"verdict": parts[0][0], "effects": [p[1:] for p in parts]}
        about |= {"unit": "%" if "arms" in claim else "points"}
        claims[name] = claim | {"found": about | {"level": round(level, 5)}}
    return claims
