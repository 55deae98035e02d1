"""SFT and DPO in the policy-reward subspace: trajectories of implicit rewards.

Claims: see CLAIMS (2507.00018: SFT and DPO work within the same optimal policy-reward
    subspace), with their thresholds.
Command: python -m experiments.papers.subspace      (writes the file of `--out`)
Cost: two minutes of one CPU core after q_values.py, whose runs it reads.
Found: by enumeration every policy is the optimum of its own reward, to a total
    variation of 1e-7. SFT's and DPO's rewards correlate within prompts, 0.72 [0.65,
    0.78]; 55% of what DPO changes lies in SFT's plane (54.5 to 55.0% by seed, the same
    chains). Both supported. SFT raises right chains by 0.6 nats and lowers wrong ones
    by 1.5, DPO by 0.4 and 0.7; the first axis has 93% of the variance. Not supported:
    that a foreign reward has an optimum 0.01 away. It is 0.0009 to 0.006, 10^4 times
    an own one's: the base puts all but some hundredths on the right chain already.

The subspace is all pairs (policy, reward) in which the policy maximises

    E_policy[r(x, y)] - beta KL(policy || base):
    r(x, y) = beta log policy/base + beta log Z(x)

Every policy is in it with its own implicit reward, so that to stay there is an identity
and no evidence: `optimal` checks it on all 1000 chains of a prompt (three digits, each
model's probabilities renormalised) with an optimiser that does not know the solution,
`mixed` that it fails for a reward and a policy that do not belong together. What can
fail is that SFT and DPO move alike in it: `alike` and `plane` compare their implicit
rewards of the base's chains, less the mean of each prompt, since log Z(x) is free.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from experiments.papers.q_claims import centred, correlation, ran, table
from experiments.papers.q_values import chains
from experiments.papers.trajectories import BASE, BETA, STEPS, trajectories
from unipost.analysis.statistics import bootstrap_mean, verdict
from unipost.data import encode_rows
from unipost.loading import load_model
from unipost.rows import Demonstration
from unipost.update import Rows, annotate

ENUMERATED = ("M4*1-0+7=", "M6+4-6+6=", "M9-2*3+8=", "M1+7*7-5=")
CHAINS = [",".join(digits) for digits in itertools.product("0123456789", repeat=3)]
END = "sft", STEPS[-1]
CLAIMS: dict[str, dict[str, Any]] = {
    "optimal": {
        "says": "The policy of SFT, of DPO and of both is the optimum of its own "
        "implicit reward under a KL to the base, by enumeration",
        "number": "largest total variation to the optimum found",
        "below": 1e-3,
    },
    "mixed": {
        "says": "SFT's policy is not the optimum of DPO's reward nor DPO's of SFT's",
        "number": "smallest total variation to the optimum found",
        "above": 1e-2,
    },
    "alike": {
        "says": "SFT and DPO, each from the base, learn implicit rewards that "
        "correlate within prompts",
        "number": "correlation",
        "above": 0.0,
    },
    "plane": {
        "says": "Most of what DPO changes lies in the plane in which SFT has moved",
        "number": "share of DPO's squared implicit rewards, by seed",
        "above": 0.5,
    },
}


def log_probs(policy, params: Any, rows: Rows) -> np.ndarray:
    """log pi(y|x) [N] of rows [N, 1, ...], in float64."""
    logps = np.asarray(annotate(policy, params, rows).policy, float)
    return np.where(np.asarray(rows.response_mask), logps, 0.0).sum((-2, -1))


def optimum(reward: np.ndarray, base: np.ndarray, beta: float) -> np.ndarray:
    """argmax E_p[r] - beta KL(p || base) over the simplex [N], by L-BFGS on logits.

    From the base; base holds log-probs that add up to 1.
    """

    def cost(logits):
        log_p = jax.nn.log_softmax(logits)
        return (jnp.exp(log_p) * (beta * (log_p - base) - reward)).sum()

    both = jax.jit(jax.value_and_grad(cost))
    options = {"maxiter": 5_000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(both, base, jac=True, method="L-BFGS-B", options=options)
    return np.asarray(jax.nn.softmax(found.x))


def enumerated(model, tuned: dict[str, Any]) -> list[dict[str, Any]]:
    """Total variation between a policy and the optimum of a reward, on all chains."""
    found = []
    for prompt in ENUMERATED:
        texts = [Demonstration(prompt, text) for text in CHAINS]
        tokens = encode_rows(model.tokenizer, texts, 16, 8)
        rows = Rows(*(jnp.asarray(x)[:, None] for x in tokens[:4]), packed=None)
        held = {"base": model.params} | tuned
        logs = {k: log_probs(model.policy, p, rows) for k, p in held.items()}
        logs = {k: x - np.logaddexp.reduce(x) for k, x in logs.items()}
        for reward in tuned:
            gain = BETA * (logs[reward] - logs["base"])
            best = optimum(gain, logs["base"], BETA)
            for policy in tuned:
                gap = 0.5 * float(np.abs(best - np.exp(logs[policy])).sum())
                about = {"prompt": prompt, "reward": reward, "policy": policy}
                found.append(about | {"variation": float(f"{gap:.4g}")})
    return found


def projected(vectors: dict[tuple, np.ndarray]) -> tuple[dict, list[float]]:
    """({run: its two coordinates}, shares of variance) by PCA of all runs together.

    Around the base, which is 0; the first axis points to where SFT ends.
    """
    names = list(vectors)
    table = np.stack([vectors[name] for name in names])
    _, sizes, axes = np.linalg.svd(table, full_matrices=False)
    ends = [v for (arm, _, step), v in vectors.items() if (arm, step) == END]
    signs = np.where(axes[:2] @ np.mean(ends, 0) < 0, -1.0, 1.0)
    places = table @ axes[:2].T * signs / np.sqrt(table.shape[1])
    shares = sizes**2 / (sizes**2).sum()
    return dict(zip(names, places, strict=True)), shares[:2].tolist()


def in_plane(vectors: dict[tuple, np.ndarray], seeds: int) -> list[float]:
    """Share of each seed's last DPO vector in the plane of SFT's, first two axes.

    The plane is that of the other seeds' SFT runs: no seed is compared with itself.
    """
    found = []
    for seed in range(seeds):
        others = [v for (arm, s, _), v in vectors.items() if arm == "sft" and s != seed]
        axes = np.linalg.svd(np.stack(others), full_matrices=False)[2][:2]
        last = vectors["dpo", seed, STEPS[-1]]
        found.append(float(((axes @ last) ** 2).sum() / (last**2).sum()))
    return found


def measured(folder: Path) -> dict[str, Any]:
    """Trajectories, planes and the enumeration."""
    model, runs = load_model(BASE, 0), trajectories(folder)
    given = chains(model, "ch4")
    right, groups = np.asarray(given["right"], bool), given["prompt"]
    base = log_probs(model.policy, model.params, given["rows"])
    rows, rewards = [], {}
    for arm, seeds in runs.items():
        for seed, run in enumerate(seeds):
            for step, params in run.items():
                gain = log_probs(model.policy, params, given["rows"]) - base
                rewards[arm, seed, step] = gain
                about = {"arm": arm, "seed": seed, "step": step}
                means = {"right": gain[right].mean(), "wrong": gain[~right].mean()}
                rows.append(about | {k: float(v) for k, v in means.items()})
    vectors = {k: centred(v, groups) for k, v in rewards.items()}
    places, shares = projected(vectors)
    for row in rows:
        x, y = places[row["arm"], row["seed"], row["step"]]
        row |= {"first": float(x), "second": float(y)}
    tuned = {arm: seeds[0][STEPS[-1]] for arm, seeds in runs.items()}
    sft, dpo = (
        np.stack([vectors[arm, seed, STEPS[-1]] for seed in range(3)])
        for arm in ("sft", "dpo")
    )
    return {
        "chains": len(right),
        "rows": rows,
        "explained": shares,
        "alike": correlation(sft, dpo, groups, 0.05),
        "plane": in_plane(vectors, 3),
        "pairs": enumerated(model, tuned),
    }


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """Every claim with its number and its verdict, from what is stored."""
    own = [p["variation"] for p in found["pairs"] if p["reward"] == p["policy"]]
    two = {("sft", "dpo"), ("dpo", "sft")}
    other = [
        p["variation"] for p in found["pairs"] if (p["reward"], p["policy"]) in two
    ]
    plane = bootstrap_mean(found["plane"])
    effects = {
        "optimal": (max(own), None, None),
        "mixed": (min(other), None, None),
        "alike": tuple(found["alike"]),
        "plane": tuple(plane),
    }
    claims = {}
    for name, claim in CLAIMS.items():
        mean, low, high = effects[name]
        if low is None:
            below = claim.get("below", np.inf)
            holds = mean < below and mean > claim.get("above", -np.inf)
            word = "supported" if holds else "not supported"
        else:
            word = verdict(low, high, claim["above"])
        effect = [claim["number"], mean, low, high]
        claims[name] = claim | {"found": {"verdict": word, "effects": [effect]}}
    return claims


def main() -> None:
    """Write the results and print what became of the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default="paper_figs/data/subspace.json")
    text = "folder of the training runs; default: %(default)s"
    parser.add_argument("--runs", type=Path, default="runs/trajectories", help=text)
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    started = time.perf_counter()
    found = measured(chosen.runs)
    head = ran("python -m experiments.papers.subspace", time.perf_counter() - started)
    head |= {"study": "subspace", "claims": judged(found)}
    chosen.out.write_text(json.dumps(head | found, separators=(",", ":")) + "\n")
    print(table(head["claims"]))


if __name__ == "__main__":
    main()
