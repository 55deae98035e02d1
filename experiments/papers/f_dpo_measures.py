"""f-DPO measured as its paper does: calibration, own-measure distance, diversity (E12).

Claims: see f_dpo_claims.py (2309.16240: its calibration errors, frontiers and table of
    diversity), with their thresholds.
Command: unipost run experiments/papers/f_dpo.yaml --out runs/f_dpo
    python -m experiments.papers.f_dpo_measures --runs runs/f_dpo
Cost: ten seconds of one CPU core for each of 54 models, without the training.
Found, 3 seeds, beta 0.1, 0.3 and 1: measured in reverse KL, training in reverse KL
stays nearer than in forward KL by 0.18 [0.15, 0.21]: supported; measured in forward KL
it stays nearer too, by 0.127 [0.125, 0.131]: that each divergence is nearest in its own
measure is not supported. Calibration error, different samples of 64 and self-BLEU:
inconclusive. The clamp of forward KL never binds: not supported.

On the models of f_dpo.yaml, six divergences times three beta, the first three seeds:

    calibration   confidence exp(mean_t log pi(y_t)) of the chosen response, right where
                  the chosen one has the higher mean log-prob; pairs of unseen problems,
                  the solution over a wrong sample of the base
    distance      D_f(policy || base) of whole responses for each of the six f, by
                  `mixture_divergence` from samples of both
    diversity     of 64 samples of a problem: different responses, distinct-2,
                  self-BLEU of the first 16, entropy of a token
    reward        share of these samples that are right
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.papers.f_dpo_claims import (
    ARMS,
    BETAS,
    FORMS,
    judged,
    numbers,
    reliable,
)
from experiments.papers.q_claims import ran, table
from unipost.analysis import (
    compare,
    confidences,
    distinct_answers,
    distinct_n,
    self_bleu,
)
from unipost.analysis.inputs import Texts, open_texts
from unipost.analysis.responses import Responses, draw
from unipost.analysis.settings import Analysis
from unipost.divergence import Divergence
from unipost.loading import Model, load_model
from unipost.runs import RunError
from unipost.update import Rows, annotate

BASE = "experiments/base"
TEST = "experiments/data/equations_test.jsonl"
SEEDS = (0, 1, 2)
PROMPTS, SAMPLES, PAIRS = 32, 64, 256
BLEU_OF = 16


def mixture_divergence(f: Divergence, own: np.ndarray, base: np.ndarray) -> float:
    """D_f(policy || base) from log u of samples of the policy [N] and of the base [N].

    mean over all 2 N samples of f(u) / ((1 + u) / 2), u = policy/base: the samples are
    of (policy + base) / 2. Unbiased for every f, and the weight never above 2 u or 2.
    """
    log_u = np.concatenate([own, base])
    # f(u) and f(u)/u by the one that does not overflow
    high = log_u > 0
    up = np.asarray(f.k3(jnp.asarray(np.where(high, log_u, 0.0))))
    down = np.asarray(f.f(jnp.asarray(np.where(high, 0.0, log_u))))
    weight = 2.0 / (1.0 + np.exp(-np.abs(log_u)))
    return float((np.where(high, up, down) * weight).mean())


def sums(logps: Any, mask: Any) -> np.ndarray:
    """log pi(y|x) [...] of responses [... T]."""
    return np.where(np.asarray(mask), np.asarray(logps, float), 0.0).sum(-1)


def held_out_pairs(model: Model, asked: Analysis) -> Rows:
    """Pairs [P, 2]: the solution, then a wrong one of four samples of the base."""
    asked = dataclasses.replace(asked, limit=2 * PAIRS)
    solutions = dataclasses.replace(asked, kind="demonstrations")
    texts = open_texts(TEST, [model], solutions)
    drawn = draw(model, open_texts(TEST, [model], asked), asked, 1.0, 4)
    right = drawn.correct
    assert right is not None
    kept = np.flatnonzero(~right.all(1))[:PAIRS]
    first = right[kept].argmin(1)
    width = max(drawn.rows.response.shape[-1], texts.tokens.response.shape[-1])

    def wide(x):
        return np.pad(x, ((0, 0), (0, width - x.shape[-1])))

    solved = (wide(np.asarray(x)[kept]) for x in texts.tokens[2:4])
    wrong = (wide(np.asarray(x)[kept, first]) for x in drawn.rows[2:4])
    prompts = (np.stack([x[kept]] * 2, 1) for x in texts.tokens[:2])
    both = (np.stack(pair, 1) for pair in zip(solved, wrong, strict=True))
    return Rows(*map(jnp.asarray, (*prompts, *both)), packed=None)


def calibration(model: Model, params: Any, pairs: Rows) -> dict[str, Any]:
    """Confidences of the chosen responses in permille, and 1 or 0 for right pairs."""
    logps, mask = annotate(model.policy, params, pairs).policy, pairs.response_mask
    certain = confidences(logps, mask)
    permille = np.round(1000 * certain[:, 0]).astype(int)
    right = certain[:, 0] > certain[:, 1]
    return {
        "confidence": permille.tolist(),
        "ranked": "".join("01"[int(x)] for x in right),
    }


def diversity(drawn: Responses) -> dict[str, list[float]]:
    """Numbers of every prompt's samples; tokens are n-grams' units."""
    groups = drawn.tokens
    texts = [[tuple(x) for x in group] for group in groups]
    return {
        "different": [distinct_answers(group) for group in texts],
        "distinct_2": [round(distinct_n(group, 2), 4) for group in groups],
        "self_bleu": [round(self_bleu(group[:BLEU_OF]), 4) for group in groups],
    }


def one_model(model: Model, folder: Path, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is measured of one trained model."""
    params = load_model(str(folder / "final"), 0).params
    asked, texts, base = shared["asked"], shared["texts"], shared["drawn"]
    tuned = dataclasses.replace(model, params=params)
    drawn = draw(tuned, texts, asked, 1.0, SAMPLES)
    own = compare(model.policy, model.params, params, drawn.rows)
    moved = sums(
        annotate(model.policy, params, base.rows).policy, base.rows.response_mask
    )
    log_u = own.log_ratio.sum(-1), moved - shared["base_logp"]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    clamped = max(json.loads(line).get("clamp_share", 0.0) for line in lines)
    right = drawn.correct
    assert right is not None
    return {
        "right": right.sum(1).tolist(),
        "entropy": float(own.tuned.entropy[own.mask].mean()),
        "divergences": {
            name: mixture_divergence(f, *(x.ravel() for x in log_u))
            for name, f in FORMS.items()
        },
        "largest": float(max(np.abs(x).max() for x in log_u)),
        "clamped": clamped,
        **calibration(model, params, shared["pairs"]),
        **diversity(drawn),
    }


def opened(model: Model) -> dict[str, Any]:
    """What all models are measured on: problems, the base's samples, pairs."""
    asked = Analysis(
        kind="questions",
        prompt_length=16,
        response_length=15,
        limit=PROMPTS,
        rows=PROMPTS * SAMPLES,
        time_limit=None,
        seed=3,
    )
    texts: Texts = open_texts(TEST, [model], asked)
    drawn = draw(model, texts, asked, 1.0, SAMPLES)
    logps = annotate(model.policy, model.params, drawn.rows).policy
    return {
        "asked": asked,
        "texts": texts,
        "drawn": drawn,
        "base_logp": sums(logps, drawn.rows.response_mask),
        "pairs": held_out_pairs(model, asked),
    }


def results(study: Path) -> dict[str, Any]:
    """The measures of every arm and seed. Raises RunError for a model not there."""
    folders = {
        (f"{arm}@{beta}", seed): study / f"{arm}@{beta}" / str(seed)
        for arm in ARMS
        for beta in BETAS
        for seed in SEEDS
    }
    lacking = [str(f) for f in folders.values() if not (f / "final").exists()]
    if lacking:
        raise RunError(f"{lacking[0]}: no model in it; run f_dpo.yaml to its end")
    started, model = time.perf_counter(), load_model(BASE, 0)
    shared, runs = opened(model), {}
    for (arm, _), folder in folders.items():
        runs.setdefault(arm, []).append(one_model(model, folder, shared))
    command = "python -m experiments.papers.f_dpo_measures --runs runs/f_dpo"
    head = ran(command, time.perf_counter() - started)
    head |= {"study": "f_dpo_measures", "seeds": list(SEEDS)}
    found = {
        "samples": SAMPLES,
        "base": calibration(model, model.params, shared["pairs"])
        | diversity(shared["drawn"])
        | {"right": shared["drawn"].correct.sum(1).tolist()},
        "runs": runs,
    }
    told = {"table": numbers(found), "bins": reliable(found)}
    return head | {"claims": judged(found)} | told | found


def main() -> None:
    """Write the results and print what became of the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    out = "paper_figs/data/f_dpo_measures.json"
    parser.add_argument("--out", type=Path, default=out)
    text = "run directory of f_dpo.yaml; default: %(default)s"
    parser.add_argument("--runs", type=Path, default="runs/f_dpo", help=text)
    chosen = parser.parse_args()
    found = results(chosen.runs)
    chosen.out.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    print(table(found["claims"]))


if __name__ == "__main__":
    main()
