"""Logits as Q-functions, and implicit rewards against what is right (E14).

Claims: see q_claims.py (2507.00018: logits as Q-functions, SFT as implicit
    reward learning), with their thresholds.
Command: python -m experiments.papers.q_values      (writes the file of `--out`)
Cost: two minutes of one idle CPU core, nine runs of 40 steps among them.
Before: pairs of the base's samples at temperature 1, and chains of seven numbers, were
    given up since DPO learned nothing or length alone; no correlation was seen then. A
    first run had 256 prompts of ch5, which no claim reads; they were cut to store less.
Found, correlations on 932 chains, 3 seeds, of responses and of steps: SFT 0.65 and
    0.69, DPO 0.63 and 0.60, DPO after SFT 0.55 and 0.60, all supported. But log pi of
    the base alone has 0.84 and 0.96. What the rewards say beyond it, in a line, is 0.34
    and 0.66, 0.22 and 0.51, 0.13 and 0.24; of responses of ch5, a step longer, nothing
    (-0.0, 0.1, 0.1, intervals hold 0). Not supported: the identity to 1e-5 nats in
    float32. It is 2e-5 over all samples, with up to 22 tokens, 1.1e-5 over the chains,
    and in float64 6e-14.

Of one model, Q(s_t, y) is the logit of y, V(s_t) = logsumexp of the logits, T the last
token and V(s_{T+1}) = 0 behind it:

    sum_t [Q(s_t, y_t) - V(s_t)]     = log pi(y|x)
    sum_t [Q(s_t, y_t) - V(s_{t+1})] = log pi(y|x) + V(s_1)

Of a model and its reference, with Q = logit - reference's logit (beta = 1):

    V(s) = logsumexp - reference's = log E_{y ~ ref}[exp Q(s, y)]     (soft Bellman)

The implicit reward of a token is log pi/ref, that of a step the sum over its digit and
what follows it, that of a response the sum of all. A step is right where its digit
follows from the digit before, right or wrong; a response where its last digit is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.q_claims import cumulated, explored, judged, ran, table
from experiments.papers.tasks import step, steps
from experiments.papers.trajectories import (
    BASE,
    DATA,
    SEEDS,
    STEPS,
    is_chain,
    sampled,
    trajectories,
)
from unipost.analysis import compare, soft_q, telescoping_error
from unipost.loading import load_model
from unipost.update import Rows, annotate

TASKS = {"ch4": 256, "ch5": 96}
"""Tasks with their number of prompts; ch5 has a step more than what is trained on."""
SAMPLES = 12
ARMS = {"sft": "base", "dpo": "base", "sft_dpo": "sft"}
"""Arms with their reference."""


def step_right(text: str, prompt: str) -> list[bool]:
    """Of a chain's steps, which follow from the digit before them."""
    values, worked = text.split(","), steps(prompt)
    before = [worked[0][0], *values]
    return [
        step(left, sign, right) == value
        for left, (_, sign, right, _), value in zip(
            before, worked, values, strict=False
        )
    ]


def double(tree: Any) -> Any:
    """The parameters in float64."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def identity_errors(policy, base: Any, tuned: Any, rows: Rows) -> tuple[float, float]:
    """(telescoping error, soft Bellman error) of `tuned` along rows, nats."""
    found = compare(policy, base, tuned, rows)
    logps = annotate(policy, tuned, rows).policy
    error = telescoping_error(soft_q(found.tuned, found.mask), logps, found.mask)
    streams = [annotate(policy, p, rows, ("vocab", "lse")) for p in (tuned, base)]
    new, old = ((np.asarray(s.vocab), np.asarray(s.lse)) for s in streams)
    # logits again: the log-probs and V
    q = new[0] + new[1][..., None] - old[0] - old[1][..., None]
    soft = np.log((np.exp(old[0]) * np.exp(q)).sum(-1))
    gap = np.abs(new[1] - old[1] - soft)[np.asarray(found.mask)]
    return error, float(gap.max())


def chains(model, task: str) -> dict[str, Any]:
    """The base's responses that are judged, as rows of tokens, and what is right."""
    path = f"{DATA}/{task}_test.jsonl"
    drawn = sampled(model, path, TASKS[task], SAMPLES, seed=5)
    prompts = drawn.given.prompts
    kept = [
        i
        for i, text in enumerate(drawn.texts)
        if is_chain(text, prompts[i // SAMPLES]) and drawn.finished.ravel()[i]
    ]
    texts = [drawn.texts[i] for i in kept]
    asked = [prompts[i // SAMPLES] for i in kept]
    flat = [np.asarray(x).reshape(-1, 1, x.shape[-1])[kept] for x in drawn.rows[:4]]
    _, groups = np.unique([i // SAMPLES for i in kept], return_inverse=True)
    return {
        "rows": Rows(*(jnp.asarray(x) for x in flat), packed=None),
        "all": drawn.rows,
        "prompt": groups,
        "right": [
            int(t[-1] == steps(p)[-1][-1]) for t, p in zip(texts, asked, strict=True)
        ],
        "step_right": [
            [int(ok) for ok in step_right(t, p)]
            for t, p in zip(texts, asked, strict=True)
        ],
    }


def step_sums(log_ratio: np.ndarray, count: int) -> np.ndarray:
    """Rewards [N, count] of the steps of chains [N, 1, T]: a digit and what follows."""
    tokens = np.asarray(log_ratio, float)[:, 0, : 2 * count]
    return np.round(tokens.reshape(len(tokens), count, 2).sum(-1), 3)


def measured(folder: Path) -> dict[str, Any]:
    """Errors of the identities, and the implicit rewards of every step."""
    model, runs = load_model(BASE, 0), trajectories(folder)
    last = STEPS[-1]
    tuned = {arm: [run[last] for run in runs[arm]] for arm in ARMS}
    start = {"base": [model.params] * len(SEEDS), "sft": tuned["sft"]}
    drawn = {task: chains(model, task) for task in TASKS}
    errors = {"float32": {}, "chains": {}, "float64": {}, "bellman": {}}
    every = [("base", model.params), *((a, tuned[a][0]) for a in ARMS)]
    for name, params in every:
        rows = drawn["ch4"]["all"]
        both = model.params, params
        errors["float32"][name], _ = identity_errors(model.policy, *both, rows)
        own = drawn["ch4"]["rows"]
        errors["chains"][name], _ = identity_errors(model.policy, *both, own)
        both = double(model.params), double(params)
        found = identity_errors(model.policy, *both, rows)
        errors["float64"][name], errors["bellman"][name] = found
    tasks = {}
    for task, given in drawn.items():
        count = len(given["step_right"][0])
        rewards = {}
        for arm, reference in ARMS.items():
            rewards[arm] = []
            for old, new in zip(start[reference], tuned[arm], strict=True):
                found = compare(model.policy, old, new, given["rows"])
                sums = step_sums(found.log_ratio, count)
                rewards[arm].append(sums.tolist())
        base = compare(model.policy, model.params, model.params, given["rows"]).base
        keys = "right", "step_right"
        tasks[task] = {k: given[k] for k in keys} | {
            "prompt": given["prompt"].tolist(),
            "base_logp": step_sums(base.logp, count).tolist(),
            "rewards": rewards,
        }
    return {"errors": errors, "tasks": tasks}


def results(folder: Path) -> dict[str, Any]:
    """Everything that the figure and the verdicts read."""
    started = time.perf_counter()
    found = measured(folder)
    found["correlations"] = explored(found, list(TASKS))
    found["cumulated"] = {
        task: {arm: cumulated(found, task, arm) for arm in ARMS} for task in TASKS
    }
    head = ran("python -m experiments.papers.q_values", time.perf_counter() - started)
    head |= {"study": "q_values", "seeds": list(SEEDS), "claims": judged(found)}
    return head | found


def main() -> None:
    """Write the results and print what became of the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default="paper_figs/data/q_values.json")
    text = "folder of the training runs; default: %(default)s"
    parser.add_argument("--runs", type=Path, default="runs/trajectories", help=text)
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = results(chosen.runs)
    chosen.out.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    print(table(found["claims"]))


if __name__ == "__main__":
    main()
