"""The claims of f_dpo_measures.py, and how the stored numbers decide them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unipost import DIVERGENCES
from unipost.analysis import reliability
from unipost.analysis.statistics import Weights, percentiles, verdict

ARMS = {
    "reverse_kl": "reverse_kl",
    "jensen_shannon": "jensen_shannon",
    "alpha_3": "alpha_0.3",
    "alpha_5": "alpha_0.5",
    "alpha_7": "alpha_0.7",
    "forward_kl": "forward_kl",
}
"""Arms of f_dpo.yaml with the divergence that they are trained in."""
BETAS = ("0.1", "0.3", "1")
FORMS = {
    name: DIVERGENCES["alpha"](float(name[6:]))
    if name.startswith("alpha")
    else DIVERGENCES[name]()
    for name in ARMS.values()
}
ENDS = ("forward_kl", "reverse_kl")
DRAWS = 2_000
CLAIMS: dict[str, dict[str, Any]] = {
    "calibration": {
        "says": "At equal beta forward KL is better calibrated than reverse KL",
        "number": "expected calibration error, reverse minus forward KL",
        "what": "ece",
        "of": ENDS[::-1],
    },
    "own_forward": {
        "says": "At equal beta training in forward KL stays nearer in forward KL",
        "number": "KL(base||policy) of responses, reverse minus forward KL, nats",
        "what": "divergence/forward_kl",
        "of": ENDS[::-1],
    },
    "own_reverse": {
        "says": "At equal beta training in reverse KL stays nearer in reverse KL",
        "number": "KL(policy||base) of responses, forward minus reverse KL, nats",
        "what": "divergence/reverse_kl",
        "of": ENDS,
    },
    "different": {
        "says": "Of 64 samples more differ after forward than after reverse KL",
        "number": "different responses, forward minus reverse KL",
        "what": "different",
        "of": ENDS,
    },
    "self_bleu": {
        "says": "Samples resemble one another less after forward than after reverse KL",
        "number": "self-BLEU, reverse minus forward KL",
        "what": "self_bleu",
        "of": ENDS[::-1],
    },
}
"""Differences of two arms over all beta and seeds, paired; supported above 0, each at
level 1 - 0.05 / their number (Bonferroni)."""
CLAMP = {
    "says": "Forward KL needs the clamp of |log u| at 20: it binds in some run",
    "number": "largest share of clamped ratios in a step of a forward KL run",
    "above": 0.0,
}

Draws = Mapping[str, np.ndarray]


def draws_of(found: Mapping[str, Any], arm: str, what: str, weights: Weights):
    """[1 + B] of a number of an arm at one beta: the sample, then its replicates.

    Calibration and diversity draw seeds and items, distances and entropy seeds alone.
    """
    runs = found["runs"][arm]
    if what == "ece":
        return _ece_draws(runs, weights)
    if what.startswith("divergence/") or what == "entropy":
        name = what.partition("/")[2]
        numbers = [r["divergences"][name] if name else r["entropy"] for r in runs]
        return weights.runs @ np.asarray(numbers) / len(runs)
    table = np.asarray([r[what] for r in runs], float)
    if what == "right":
        table = 100 * table / found["samples"]
    items = weights.items("prompts", table.shape[1])
    return np.einsum("bi,bi->b", weights.runs @ table, items) / table.size


def _ece_draws(runs: list[Mapping[str, Any]], weights: Weights) -> np.ndarray:
    """ECE (10 bins) of all seeds' pairs together, in every replicate."""
    conf = np.asarray([r["confidence"] for r in runs], float) / 1000
    right = np.asarray([[c == "1" for c in r["ranked"]] for r in runs], float)
    place = np.clip(np.ceil(conf * 10) - 1, 0, 9).astype(int)
    items = weights.items("pairs", conf.shape[1]).astype(float)
    total = np.zeros(len(items))
    for b in range(10):
        gap = np.where(place == b, right - conf, 0.0)
        total += np.abs(np.einsum("bi,bi->b", weights.runs @ gap, items))
    return total / conf.size


def over_beta(found: Mapping[str, Any], arm: str, what: str, weights: Weights):
    """[1 + B] of an arm's mean over all beta."""
    return np.mean([draws_of(found, f"{arm}@{b}", what, weights) for b in BETAS], 0)


def new_weights(found: Mapping[str, Any]) -> Weights:
    """The replicates that all arms share."""
    return Weights(1, len(next(iter(found["runs"].values()))), DRAWS)


def number(
    found: Mapping[str, Any], arm: str, what: str, weights: Weights
) -> tuple[float, float, float]:
    """Mean with its 95% interval; `arm` with or without its beta."""
    of: Callable = draws_of if "@" in arm else over_beta
    drawn = of(found, arm, what, weights)
    return float(drawn[0]), *percentiles(drawn[1:])


def numbers(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every number of every arm with its interval, for the figures."""
    weights, rows = new_weights(found), []
    whats = ["ece", "right", "entropy", "different", "distinct_2", "self_bleu"]
    whats += [f"divergence/{name}" for name in FORMS]
    for arm in found["runs"]:
        for what in whats:
            mean, low, high = number(found, arm, what, weights)
            row = {"arm": arm, "what": what, "mean": mean, "low": low, "high": high}
            rows.append(row)
    return rows


def reliable(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bins of reliability of every arm, over all beta and seeds."""
    rows = []
    for arm in ARMS:
        runs = [r for b in BETAS for r in found["runs"][f"{arm}@{b}"]]
        conf = np.asarray([r["confidence"] for r in runs], float).ravel() / 1000
        right = [c == "1" for r in runs for c in r["ranked"]]
        for one in reliability(conf, right):
            if one.count:
                about = {"arm": arm, "count": one.count, "low": round(one.low, 1)}
                means = {"confidence": one.confidence, "ranked": one.accuracy}
                rows.append(about | means)
    return rows


def judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """Every claim with its number and its verdict, from what is stored."""
    weights, claims = new_weights(found), {}
    level = 0.05 / len(CLAIMS)
    for name, claim in CLAIMS.items():
        a, b = (over_beta(found, arm, claim["what"], weights) for arm in claim["of"])
        low, high = percentiles((a - b)[1:], level)
        effect = [claim["number"], float((a - b)[0]), low, high]
        about = {"verdict": verdict(low, high), "effects": [effect], "level": 1 - level}
        claims[name] = claim | {"of": list(claim["of"]), "found": about}
    runs = [r for b in BETAS for r in found["runs"][f"forward_kl@{b}"]]
    most = max(r["clamped"] for r in runs)
    word = "supported" if most > CLAMP["above"] else "not supported"
    effect = [CLAMP["number"], most, None, None]
    claims["clamp"] = CLAMP | {"found": {"verdict": word, "effects": [effect]}}
    return claims
