"""pass@k and maj@k at equal entropy, and what the start thinks of GRPO's samples (E6).

Claims: see entropy_claims.py (2504.13837, Figures 6, 8 and 17; Figure 7 of 2402.03300),
    with their thresholds.
Command: unipost run experiments/papers/pass_at_k.yaml --out runs/pass_at_k
    unipost run experiments/papers/pass_hard.yaml --out runs/pass_hard
    python -m experiments.papers.entropy_match --runs runs
Cost: nine minutes of one busy CPU core, without the training.
Before: pass_at_k.yaml had shown that the start and GRPO both reach 100% of pass@256,
    and GRPO 90.6% of pass@1: for `plain` that decides `gap`, `passes` and the
    two on pass@256. Temperatures, votes and perplexities were new. Of `hard` the
    pass@k of one start and GRPO's rewards in training were known, 1 to 3%.
Found, 3 seeds, one base, intervals of 99.7%. From the start of 160 steps GRPO is above
    the start at k = 1 at either entropy, by 58 points [49, 63] and 72 [54, 87]:
    supported. pass@256 is 100% for all but the cooled start (44%), so the claims on it
    are not supported. GRPO closes 90% of the way: not supported (Delta SE 9.2 points,
    printed 44.0). maj@64 rises by 81 points [72, 89] and pass@64 by 0.3, less than
    one: supported; but pass@16 rises by 17. PPL is that of own samples: inconclusive.
    From the start of 120 steps GRPO learns nothing and loses 67 points of pass@256.
    Entropy explains little of it: 64 points [3, 98] remain, supported; that matching
    it helps (3.6) is inconclusive. Its samples are less likely than the start's own,
    by 2.1 nats a token [0.3, 4.1]: not supported.

Two settings, the models of two studies; the start of `hard` has had fewer steps of SFT:

    start, grpo, distil  256 samples of each of 64 problems at temperature 1
    start_matched        the start at the temperature where the mean token entropy along
                         its own samples is that of grpo
    grpo_matched         grpo at the temperature where it is that of the start

A response is right by its answer; `verified` counts those whose running values are all
right. Votes are for answers. nll is the mean of -log p of a response's tokens under
the start, so that exp(nll) is PPL_start; `below` the share of the start's own responses
to the same problem that are likelier than it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.papers.entropy_claims import (
    CONDITIONS,
    SETTINGS,
    VOTES,
    judged,
    numbers,
)
from experiments.papers.q_claims import ran, table
from experiments.papers.shifts import rounded
from experiments.papers.tasks import chain, judged_values, steps, style_of
from unipost.analysis import maj_curve, matched_temperature, state_entropy
from unipost.analysis.inputs import Texts, open_texts
from unipost.analysis.responses import Responses, draw
from unipost.analysis.settings import Analysis
from unipost.loading import Model, load_model
from unipost.runs import RunError
from unipost.test_time import coded
from unipost.update import annotate

TEST = "experiments/papers/data/v3_test.jsonl"
SEEDS = (0, 1, 2)
PROMPTS, SAMPLES, FEW = 64, 256, 16
"""FEW samples of a prompt give entropies and perplexities."""
ASKED = Analysis(
    kind="questions",
    prompt_length=16,
    response_length=16,
    limit=PROMPTS,
    rows=PROMPTS * 64,
    time_limit=None,
    seed=7,
)


def answer(response: str) -> str | None:
    """What a chain's response votes for: the digits that it ends in, if it is one."""
    if style_of(response) is None:
        return None
    return re.split("[,w!.?]", response)[-1]


@cache
def verified(prompt: str, response: str) -> bool:
    """Whether a response lists one value for each step, every one of them right."""
    found = [ok for _, ok in judged_values(prompt, response)[0]]
    return found == [1.0] * len(steps(prompt))


def counted(drawn: Responses) -> dict[str, Any]:
    """Of every prompt: right and verified samples, and maj@k in permille."""
    given, (n, g) = drawn.given, drawn.shape
    texts = [drawn.texts[i * g : (i + 1) * g] for i in range(n)]
    right = np.array(
        [
            [chain(t, a) == 1.0 for t in own]
            for own, a in zip(texts, given.answers, strict=True)
        ]
    )
    good = [
        sum(verified(p, t) for t in own)
        for own, p in zip(texts, given.prompts, strict=True)
    ]
    codes = coded([[answer(t) for t in own] for own in texts])
    votes = maj_curve(codes, right, VOTES, trials=200)
    majority = np.round(1000 * votes).astype(int).T.tolist()
    return {
        "right": right.sum(1).tolist(),
        "verified": good,
        "maj": dict(zip(map(str, VOTES), majority, strict=True)),
    }


def entropy_of(model: Model, texts: Texts):
    """The mean token entropy along FEW own samples at a temperature, nats."""

    def at(temperature: float) -> float:
        rows = draw(model, texts, ASKED, temperature, FEW).rows
        return state_entropy(model.policy, model.params, rows)(temperature)

    return at


def likelihood(start: Model, drawn: Responses) -> np.ndarray:
    """-log p of a token under the start, mean over each response [N G], nats."""
    logps = annotate(start.policy, start.params, drawn.rows).policy
    mask = np.asarray(drawn.rows.response_mask)
    total = np.where(mask, np.asarray(logps, float), 0.0).sum(-1)
    return -total / np.maximum(mask.sum(-1), 1)


def below(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of `own` [N G] less than each of `other` [N H], ties by half; mean [N], %.

    The mean percentile of `other` among `own`: 50 where both are alike.
    """
    gaps = own[:, :, None] - other[:, None, :]
    return 100 * ((gaps < 0) + 0.5 * (gaps == 0)).mean((1, 2))


def one_seed(models: dict[str, Model], texts: Texts) -> dict[str, dict[str, Any]]:
    """What is measured of one start and its two successors, by condition."""
    entropies = {name: entropy_of(m, texts) for name, m in models.items()}
    plain = {name: entropy(1.0) for name, entropy in entropies.items()}

    def matched(name: str, target: str) -> float:
        ends = {"low": 2e-3, "high": 5.0, "tolerance": 5e-4}
        return matched_temperature(entropies[name], plain[target], **ends)

    heat = dict.fromkeys(models, 1.0) | {
        "start_matched": matched("start", "grpo"),
        "grpo_matched": matched("grpo", "start"),
    }
    own = likelihood(models["start"], draw(models["start"], texts, ASKED, 1.0, FEW))
    out = {}
    for name in CONDITIONS:
        arm, temperature = name.partition("_")[0], heat[name]
        model = models[arm]
        found = counted(draw(model, texts, ASKED, temperature, SAMPLES))
        found["temperature"] = round(temperature, 4)
        found["entropy"] = round(entropies[arm](temperature), 4)
        if name == arm:
            few = draw(model, texts, ASKED, 1.0, FEW)
            nll = likelihood(models["start"], few)
            found["nll"] = np.round(nll.mean(1), 4).tolist()
            found["below"] = np.round(below(own, nll), 2).tolist()
        print(name, found["temperature"], found["entropy"], sum(found["right"]))
        out[name] = found
    return out


def results(runs: Path) -> dict[str, Any]:
    """Both settings and seeds. Raises RunError for a model that is not there."""
    arms = ("start", "grpo", "distil")
    places = {
        (setting, seed, arm): runs / study / arm / str(seed) / "final"
        for setting, study in SETTINGS.items()
        for seed in SEEDS
        for arm in arms
    }
    lacking = [str(place) for place in places.values() if not place.exists()]
    if lacking:
        raise RunError(f"{lacking[0]}: no model there; run both studies to their end")
    started, settings = time.perf_counter(), {}
    first = load_model(str(places["plain", 0, "start"]), 0)
    texts = open_texts(TEST, [first], ASKED)
    for setting in SETTINGS:
        settings[setting] = {name: [] for name in CONDITIONS}
        for seed in SEEDS:
            # one policy: its programs are compiled once
            models = {
                arm: dataclasses.replace(
                    first, params=load_model(str(places[setting, seed, arm]), 0).params
                )
                for arm in arms
            }
            for name, found in one_seed(models, texts).items():
                settings[setting][name].append(found)
    command = "python -m experiments.papers.entropy_match --runs runs"
    head = ran(command, time.perf_counter() - started)
    head |= {"study": "entropy_match", "seeds": list(SEEDS)}
    found = {"samples": SAMPLES, "items": PROMPTS, "settings": settings}
    return head | {"claims": judged(found), "table": numbers(found)} | found


def main() -> None:
    """Write the results and print what became of the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    out = "paper_figs/data/entropy_match.json"
    parser.add_argument("--out", type=Path, default=out)
    text = "folder with the run directories of both studies; default: %(default)s"
    parser.add_argument("--runs", type=Path, default="runs", help=text)
    chosen = parser.parse_args()
    found = results(chosen.runs)
    chosen.out.write_text(json.dumps(rounded(found), separators=(",", ":")) + "\n")
    print(table(found["claims"]))


if __name__ == "__main__":
    main()
