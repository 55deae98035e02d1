"""Estimators of a divergence as value and as gradient, by enumeration.

Claims: see CLAIMS; each is a bound on a number that is exact, by enumeration, at every
    one of the problems below. No training.
Command: python experiments/papers/estimators.py          (writes the file of `--out`)
Cost: half a minute of one CPU core.
Found: supported: k1 and k3 are unbiased values, k2 is not; the gradient of the loss is
    D's for k2 and in_reward, zero for k1, the forward KL's for k3; the clip of PPO is
    two hockey sticks. Not supported: that k3 always varies less than k1 (John Schulman,
    "Approximating KL divergence"): near the reference it does by far, at a KL of 1 nat
    and more it varies more.

A problem is a reference and a policy over VOCABULARY tokens, with normal logits; the
policy's distance from the reference is chosen by bisection. For each estimator, on one
sampled token:

    value bias       E[estimate] - D, over D
    value spread     standard deviation of the estimate, over D
    gradient bias    |E[gradient] - grad D| over |grad D|, in the logits
    gradient spread  sqrt(trace of the covariance), over |grad D|

in_reward is its gradient as the policy gradient of the detached f'(u), without baseline
(and `in_reward_baseline`, with the exact mean as baseline).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost import DIVERGENCES
from unipost.penalties import estimate

VOCABULARY = 8
PROBLEMS = 40
DISTANCES = (0.001, 0.01, 0.1, 0.3, 1.0, 2.0)
"""KL(policy || reference) in nats."""
NAMES = ("reverse_kl", "forward_kl", "jensen_shannon", "squared_hellinger",
         "pearson_chi2")  # fmt: skip
VALUES = ("k1", "k2", "k3")
GRADIENTS = ("k1", "k2", "k3", "in_reward", "in_reward_baseline")
CLIPS = ((0.2, 0.2), (0.2, 0.28), (0.1, 0.4))
ROUNDING = 1e-6

# textbook f in u, written apart from the library
F: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reverse_kl": lambda u: u * np.log(u) - u + 1,
    "forward_kl": lambda u: -np.log(u) + u - 1,
    "jensen_shannon": lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2),
    "squared_hellinger": lambda u: (np.sqrt(u) - 1) ** 2,
    "pearson_chi2": lambda u: (u - 1) ** 2,
}

CLAIMS: dict[str, dict[str, Any]] = {
    "values": {
        "says": "k1 and k3 are unbiased values of every divergence",
        "number": "largest |value bias| of k1 for the KL and of k3 for all",
        "below": ROUNDING,
    },
    "k2_value": {
        "says": "k2 is biased as a value of the KL, by more than 1% from 0.3 nats on",
        "number": "smallest median |value bias| of k2 over those distances",
        "above": 0.01,
    },
    "spread": {
        "says": "k3 varies less than k1 as a value of the KL, at every distance",
        "number": "largest ratio of spreads k3/k1, median over problems",
        "below": 1.0,
    },
    "k2_gradient": {
        "says": "k2 in the loss and f' in the reward have the gradient of D",
        "number": "largest gradient bias of k2 and in_reward",
        "below": ROUNDING,
    },
    "k1_gradient": {
        "says": "k1 of the KL in the loss has no gradient in expectation",
        "number": "largest |gradient bias - 1| of k1",
        "below": ROUNDING,
    },
    "k3_gradient": {
        "says": "k3 of the reverse KL in the loss has the gradient of the forward KL",
        "number": "largest relative distance of E[gradient] from grad KL(ref||policy)",
        "below": ROUNDING,
    },
    "clip": {
        "says": "PPO's clip is r A minus |A| times two hockey sticks of r",
        "number": "largest |difference| of value and of gradient in r",
        "below": 1e-12,
    },
}


def log_softmax(x: np.ndarray) -> np.ndarray:
    """log softmax over the last axis."""
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def problems(distance: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """(policy logits, reference log-probs) at this KL, the same directions for all."""
    rng, found = np.random.default_rng(0), []
    for _ in range(PROBLEMS):
        start, step = rng.normal(size=(2, VOCABULARY))
        reference, low, high = log_softmax(start), 0.0, 64.0
        for _ in range(80):
            middle = (low + high) / 2
            policy = log_softmax(start + middle * step)
            kl = np.exp(policy) @ (policy - reference)
            low, high = (middle, high) if kl < distance else (low, middle)
        if high < 63.0:  # a policy of one token may stay nearer than that
            found.append((start + low * step, reference))
    return found


def gradient_of(name: str, z: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """grad D_f(policy || reference) in the logits, by central differences."""

    def value(z):
        return np.exp(reference) @ F[name](np.exp(log_softmax(z) - reference))

    basis = np.eye(len(z)) * 1e-5
    return np.array([(value(z + e) - value(z - e)) / 2e-5 for e in basis])


@partial(jax.jit, static_argnums=(0, 1))
def samples(name: str, estimator: str, z: jax.Array, reference: jax.Array):
    """(values [N, V], gradients [N, V, V]) of one sampled token, for each token."""
    divergence = DIVERGENCES[name]()

    def loss(z, reference, token):
        log_p = jax.nn.log_softmax(z)
        log_u = (log_p - reference)[token]
        if not estimator.startswith("in_reward"):
            return estimate(divergence, estimator, log_u, lambda: jnp.zeros(()))
        cost = divergence.f_prime(log_p - reference)
        mean = jnp.exp(log_p) @ cost if estimator.endswith("baseline") else 0.0
        return jax.lax.stop_gradient(cost[token] - mean) * log_p[token]

    each = jax.vmap(jax.value_and_grad(loss), (None, None, 0))
    return jax.vmap(each, (0, 0, None))(z, reference, jnp.arange(z.shape[-1]))


def measure(name: str, estimator: str, z, reference, values, gradients):
    """The four numbers of the module for one estimator on one problem."""
    log_p = log_softmax(z)
    p = np.exp(log_p)
    true = float(np.exp(reference) @ F[name](np.exp(log_p - reference)))
    slope = gradient_of(name, z, reference)
    size, mean = np.linalg.norm(slope), p @ gradients
    spread = np.sqrt(p @ ((gradients - mean) ** 2).sum(-1))
    found = {
        "gradient_bias": float(np.linalg.norm(mean - slope) / size),
        "gradient_spread": float(spread / size),
    }
    if estimator in VALUES:
        found["value_bias"] = float(p @ values - true) / true
        found["value_spread"] = float(np.sqrt(p @ (values - p @ values) ** 2)) / true
    if (name, estimator) == ("reverse_kl", "k3"):
        forward = gradient_of("forward_kl", z, reference)
        gap = np.linalg.norm(mean - forward) / np.linalg.norm(forward)
        found["from_forward"] = float(gap)
    return found


def clip_error(low: float, high: float) -> float:
    """Largest |min(r A, clip(r) A) - (r A - |A| stick)| of value and slope in r.

    stick = (r - 1 - high)+ for A > 0 and (1 - low - r)+ for A < 0, whose means over the
    old policy's samples are hockey-stick divergences.
    """
    ratios = np.linspace(0.05, 3.0, 1181)
    worst = 0.0
    for advantage in (-2.0, -0.3, 0.7, 1.5):

        def clipped(r, a=advantage):
            return jnp.minimum(r * a, jnp.clip(r, 1 - low, 1 + high) * a)

        value, slope = jax.vmap(jax.value_and_grad(clipped))(ratios)
        over, under = ratios > 1 + high, ratios < 1 - low
        side = over if advantage > 0 else under
        edge = 1 + high if advantage > 0 else 1 - low
        stick = np.where(side, np.abs(ratios - edge), 0.0)
        want = ratios * advantage - abs(advantage) * stick
        want_slope = np.where(side, 0.0, advantage)
        # at the ends of the clip the two branches tie and autodiff takes their mean
        ends = np.array([[1 - low], [1 + high]])
        smooth = (np.abs(ratios - ends) > 1e-9).all(0)
        worst = max(worst, float(np.abs(value - want).max()))
        worst = max(worst, float(np.abs(slope - want_slope)[smooth].max()))
    return worst


def claimed(rows: list[dict[str, Any]], clip: float) -> dict[str, float]:
    """The number of every claim."""

    def where(key, names=NAMES, estimators=VALUES, distances=DISTANCES):
        """That number of these rows, a list for each row."""
        return [
            np.array(row[key])
            for row in rows
            if row["divergence"] in names
            and row["estimator"] in estimators
            and row["distance"] in distances
        ]

    def largest(found):
        return max(float(np.abs(x).max()) for x in found)

    kl, far = ("reverse_kl",), [d for d in DISTANCES if d >= 0.3]
    k1, k3 = (where("value_spread", kl, (e,)) for e in ("k1", "k3"))
    biases = where("value_bias", kl, ("k2",), far)
    unbiased = where("value_bias", kl, ("k1",)) + where("value_bias", NAMES, ("k3",))
    return {
        "values": largest(unbiased),
        "k2_value": min(float(np.median(np.abs(x))) for x in biases),
        "spread": max(float(np.median(b / a)) for a, b in zip(k1, k3, strict=True)),
        "k2_gradient": largest(where("gradient_bias", NAMES, ("k2", "in_reward"))),
        "k1_gradient": largest(x - 1 for x in where("gradient_bias", kl, ("k1",))),
        "k3_gradient": largest(where("from_forward", kl, ("k3",))),
        "clip": clip,
    }


def verdict(claim: dict[str, Any], number: float) -> str:
    """By the bound that the claim names."""
    holds = number < claim["below"] if "below" in claim else number > claim["above"]
    return "supported" if holds else "not supported"


def results() -> dict[str, Any]:
    """Every number, with what it says about the claims."""
    rows = []
    for distance in DISTANCES:
        here = problems(distance)
        for name in NAMES:
            for estimator in dict.fromkeys(VALUES + GRADIENTS):
                drawn = samples(
                    name, estimator, *map(np.stack, zip(*here, strict=True))
                )
                parts = zip(here, *map(np.asarray, drawn), strict=True)
                each = [measure(name, estimator, z, q, v, g) for (z, q), v, g in parts]
                numbers = {k: [one[k] for one in each] for k in each[0]}
                about = {"divergence": name, "estimator": estimator}
                rows.append(about | {"distance": distance} | numbers)
    numbers = claimed(rows, max(clip_error(*clip) for clip in CLIPS))
    claims = {
        key: claim | {"value": numbers[key], "verdict": verdict(claim, numbers[key])}
        for key, claim in CLAIMS.items()
    }
    return {"study": "estimators", "problems": PROBLEMS, "claims": claims, "rows": rows}


def main() -> None:
    """Write the results and print what became of the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="paper_figs/data/estimators.json")
    path = Path(parser.parse_args().out)
    jax.config.update("jax_enable_x64", True)
    found = results()
    path.parent.mkdir(parents=True, exist_ok=True)

    def short(value: Any) -> Any:
        return [float(f"{x:.4g}") for x in value] if isinstance(value, list) else value

    found["rows"] = [{k: short(v) for k, v in row.items()} for row in found["rows"]]
    path.write_text(json.dumps(found) + "\n")
    for key, claim in found["claims"].items():
        print(f"{claim['verdict']:14} {key:12} {claim['value']:9.3g}  {claim['says']}")


if __name__ == "__main__":
    main()
