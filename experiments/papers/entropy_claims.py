"""The claims of entropy_match.py, and how the stored numbers decide them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unipost.analysis import pass_curve
from unipost.analysis.statistics import Interval, bootstrap_mean, verdict

Found = Mapping[str, Any]
SETTINGS = {"plain": "pass_at_k", "hard": "pass_hard"}
"""Settings with the study that trained their models."""
TITLES = {"plain": "Start of 160 steps", "hard": "Start of 120 steps"}
CONDITIONS = ("start", "grpo", "distil", "start_matched", "grpo_matched")
PASSES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
VOTES = (1, 2, 4, 8, 16, 32, 64)

Sum = tuple[tuple[float, str, str], ...]
"""A weighted sum of numbers: (weight, condition, number)."""


def less(a: str, b: str, what: str) -> Sum:
    """The number of a - that of b."""
    return (1.0, a, what), (-1.0, b, what)


def less_at_one(a: str, b: str) -> Sum:
    """pass@256 of a - pass@1 of b (`unipost.analysis.delta_se`, in points)."""
    return (1.0, a, "pass@256"), (-1.0, b, "pass@1")


CLAIMS: dict[str, dict[str, Any]] = {
    "one_at_start_entropy": {
        "says": "at the temperature that gives GRPO the start's entropy its pass@1 is "
        "still above the start's",
        "number": "pass@1, GRPO at equal entropy - start, points",
        "sum": less("grpo_matched", "start", "pass@1"),
    },
    "one_at_grpo_entropy": {
        "says": "at the temperature that gives the start GRPO's entropy its pass@1 is "
        "still below GRPO's",
        "number": "pass@1, GRPO - start at equal entropy, points",
        "sum": less("grpo", "start_matched", "pass@1"),
    },
    "many_at_start_entropy": {
        "says": "at the start's entropy GRPO's pass@256 is still below the start's",
        "number": "pass@256, start - GRPO at equal entropy, points",
        "sum": less("start", "grpo_matched", "pass@256"),
    },
    "shrinks": {
        "says": "at the start's entropy GRPO's pass@256 is higher than at "
        "temperature 1",
        "number": "pass@256, GRPO at equal entropy - GRPO, points",
        "sum": less("grpo_matched", "grpo", "pass@256"),
    },
    "gap": {
        "says": "GRPO's pass@1 closes less than half of the way from the start's "
        "pass@1 to its pass@256",
        "number": "Delta SE - half of that way, points",
        "sum": (
            (0.5, "start", "pass@256"),
            (0.5, "start", "pass@1"),
            (-1.0, "grpo", "pass@1"),
        ),
    },
    "likely": {
        "says": "it finds GRPO's responses likelier than its own (lower PPL)",
        "number": "-log p of a token under the start, own - GRPO's samples, nats",
        "sum": less("start", "grpo", "nll"),
    },
    "votes": {
        "says": "GRPO raises maj@64",
        "number": "maj@64, GRPO - start, points",
        "sum": less("grpo", "start", "maj@64"),
    },
    "passes": {
        "says": "GRPO does not raise pass@64 by a point or more",
        "number": "pass@64, start - GRPO, points",
        "sum": less("start", "grpo", "pass@64"),
        "above": -1.0,
    },
}
"""Sums of numbers, supported above 0 or `above`; each in both settings, at level
1 - 0.05 / their number (Bonferroni)."""


def values(found: Found, setting: str, condition: str, what: str) -> np.ndarray:
    """A number of every seed and item [S, I].

    what  pass@k, verified@k (right answers; those with every running value right), %;
          maj@k, %; nll (nats per token under the start), below (share of the start's
          own responses that are likelier, %)
    """
    runs = found["settings"][setting][condition]
    name, _, k = what.partition("@")
    if name in ("pass", "verified"):
        n = found["samples"]
        counts = np.asarray([run["right" if name == "pass" else name] for run in runs])
        hits = np.arange(n) < counts[..., None]
        return 100 * np.stack([pass_curve(own, [int(k)])[:, 0] for own in hits])
    if name == "maj":
        return np.asarray([run["maj"][k] for run in runs], float) / 10
    return np.asarray([run[what] for run in runs], float)


def summed(found: Found, setting: str, terms: Sum, alpha: float = 0.05) -> Interval:
    """The sum over terms, paired by seed and item, with its interval."""
    tables = [w * values(found, setting, arm, what) for w, arm, what in terms]
    return bootstrap_mean(np.sum(tables, 0), alpha=alpha)


def judged(found: Found) -> dict[str, Any]:
    """Every claim with its number and its verdict, from what is stored."""
    level, out = 0.05 / (len(CLAIMS) * len(SETTINGS)), {}
    for setting in SETTINGS:
        for name, claim in CLAIMS.items():
            mean, low, high = summed(found, setting, claim["sum"], level)
            above = claim.get("above", 0.0)
            about = {
                "verdict": verdict(low, high, above),
                "effects": [[claim["number"], mean, low, high]],
                "level": 1 - level,
                "unit": claim["number"].rpartition(", ")[2],
            }
            says = f"{TITLES[setting]}: {claim['says']}"
            head = {"says": says, "setting": setting, "above": above}
            out[f"{setting}_{name}"] = head | {"found": about}
    return out


def numbers(found: Found) -> list[dict[str, Any]]:
    """Every curve and Delta SE with its 95% interval, for the figure."""
    whats = [f"pass@{k}" for k in PASSES] + [f"maj@{k}" for k in VOTES]
    whats += ["verified@1", "verified@256"]
    rows = []
    for setting in SETTINGS:
        for condition, runs in found["settings"][setting].items():
            likely = ["nll", "below"] if "nll" in runs[0] else []
            for what in whats + likely:
                one = summed(found, setting, ((1.0, condition, what),))
                about = {"setting": setting, "arm": condition, "what": what}
                rows.append(about | one._asdict())
        gap = summed(found, setting, less_at_one("start", "grpo"))
        about = {"setting": setting, "arm": "grpo", "what": "delta_se@256"}
        rows.append(about | gap._asdict())
    return rows
