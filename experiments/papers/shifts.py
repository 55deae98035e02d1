"""Hidden states, token ranks and shifted tokens of the arms of transfer.yaml.

Claims: see shift_claims.py, fixed before it was run; differences of the arms' values,
    paired by seed and item, with a hierarchical bootstrap. The tasks are fixed. Each is
    judged at 99%, which is 95% for the five together. Paper: 2507.00432, Figures 3, 5,
    15, 16 and 20, Table 8. E15.
Before: old_tasks.py had measured KL, the share of shifted tokens at temperature 1 and
    the robust PCA shift of the same models; these measures were new.
Command: python -m experiments.papers.shifts runs/papers_transfer OUT.json
Cost: one minute of a CPU core to itself, six minutes of one that others used too.
Found, 3 seeds of 128 items, one base: supported are both claims on hidden states (d on
    the old tasks: foreign SFT 0.080 [0.070, 0.090] and own style 0.028 [0.019, 0.037]
    above GRPO) and the one on ranks (0.35 [0.18, 0.59] and 0.027 [0.008, 0.050]; nearly
    all of it closed-book facts under foreign SFT). After the third token nearly nothing
    is shifted: own style 0.002 [0, 0.007], inconclusive. Fewer tokens is not supported:
    on the trained task own-style SFT shifts as many as GRPO does: the same first
    digits, where the base's greedy answer has the other format.

Hidden states are those of the prompts, as the paper's code pools and projects them
(`latent_shift` in mode paper_code): z = mean over layers of the shift along the base's
two first principal directions, d = |mean over items of z|. Ranks are those of greedy
responses of the tuned model, so that its own rank is 1 and the shift is the base's
rank - 1.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.papers.shift_claims import ALPHA, judged, told
from unipost.analysis.compare import Compared, compare
from unipost.analysis.inputs import open_models, open_texts
from unipost.analysis.latent import latent_shift, layer_features, principal
from unipost.analysis.responses import Responses, draw
from unipost.analysis.settings import Analysis
from unipost.analysis.statistics.bootstrap import Weights
from unipost.analysis.token_shift import shifted_tokens, shifts
from unipost.config import CHOICES
from unipost.runs import revision
from unipost.sampling.batch import left_padded

BASE = "experiments/papers/base"
ARMS = ("foreign_sft", "own_sft", "on_sft", "grpo")
RATE = "@3e-4"
TASKS = ("ch4", "ch5", "sort", "rep", "look", "fact")
"""In-domain (ch4, ch5), other reasoning (sort), non-reasoning (rep, look, fact)."""
TEXTS = {"reasoning": "ch4", "non-reasoning": "rep"}
LATE = 3
"""Tokens of a response up to which a position is early."""
ASKED = Analysis(response_length=22, limit=128, samples=1, time_limit=None)
DRAWS = 10_000
TOKENS, POSITIONS = 12, 22


class Seen(NamedTuple):
    """One model on one task of N items.

    z        [N 2] shift of each text, mean over layers
    points   [L 2 2] mean (D_1, m_2) of each layer of the base and of the model
    shift    [N] mean rank shift of the response's tokens
    late     [N] the same after the third token, 0 where there is none
    count    [N] tokens of the response with another rank
    """

    z: np.ndarray
    points: np.ndarray
    shift: np.ndarray
    late: np.ndarray
    count: np.ndarray
    compared: Compared
    drawn: Responses


def projected(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """z [N 2] of features [L N D]: (after - before) . c_k, mean over layers."""
    both = zip(before, after, strict=True)
    moved = [(b - a) @ principal(a)[0].T for a, b in both]
    return np.mean(moved, 0)


def item_ranks(shift: np.ndarray, mask: np.ndarray, first: int = 0) -> np.ndarray:
    """Mean shift [N] of the tokens [N T] from position `first` on; 0 without any."""
    kept = mask & (np.arange(mask.shape[1]) >= first)
    total = np.where(kept, shift, 0).sum(1)
    return total / np.maximum(kept.sum(1), 1)


def seen(folder: Path, task: str) -> Seen:
    """The model of `folder` against the base on a task's first 128 items."""
    models = open_models(Path(BASE), folder, ASKED)
    texts = open_texts(f"experiments/papers/data/{task}_test.jsonl", models, ASKED)
    base, tuned = models
    own = draw(tuned, texts, ASKED, 0.0, 1)
    found = compare(tuned.policy, base.params, tuned.params, own.rows)
    rows = [p[m].tolist() for p, m in zip(*texts.tokens[:2], strict=True)]
    padded = left_padded(rows, max(map(len, rows)))
    before, after = (
        layer_features(m.policy, m.params, *padded, over="columns") for m in models
    )
    latent = latent_shift(before, after, "paper_code", 2)
    shift, mask = (np.asarray(x)[:, 0] for x in (shifts(found), found.mask))
    return Seen(
        z=projected(before, after),
        points=np.stack([latent.base, latent.tuned], 1),
        shift=item_ranks(shift, mask),
        late=item_ranks(shift, mask, LATE),
        count=(shift != 0).sum(1).astype(float),
        compared=found,
        drawn=own,
    )


def by_place(runs: list[Seen]) -> list[list[float]]:
    """[mean shift, responses that long] of each position over all runs."""
    tables = [(shifts(r.compared)[:, 0], r.compared.mask[:, 0]) for r in runs]
    total, count = (np.zeros(POSITIONS) for _ in range(2))
    for shift, mask in tables:
        total[: mask.shape[1]] += np.where(mask, shift, 0).sum(0)
        count[: mask.shape[1]] += mask.sum(0)
    return [[float(t / c), int(c)] for t, c in zip(total, count, strict=True) if c]


def moved_tokens(runs: list[Seen], decode) -> list[list[Any]]:
    """[token, times shifted, mean shift] of a task, those of greatest weight first."""
    sums: dict[str, np.ndarray] = {}
    for run in runs:
        for token in shifted_tokens(np.asarray(run.drawn.rows.response), run.compared):
            name = decode(token.token)
            own = np.array([token.count, token.weight])
            sums[name] = sums.get(name, np.zeros(2)) + own
    ranked = sorted(sums.items(), key=lambda x: (-abs(x[1][1]), x[0]))[:TOKENS]
    return [[name, int(count), float(total / count)] for name, (count, total) in ranked]


def case(run: Seen, item: int, decode) -> dict[str, Any]:
    """One response, token by token, with the rank shift of each."""
    mask = np.asarray(run.compared.mask)[item, 0]
    tokens = np.asarray(run.drawn.rows.response)[item, 0][mask]
    shift = shifts(run.compared)[item, 0][mask]
    return {"tokens": [decode(t) for t in tokens], "shift": shift.tolist()}


def first_shifted(count: np.ndarray) -> int:
    """The first item with a shifted token, of counts [N]; 0 where none has one."""
    there = np.flatnonzero(count)
    return int(there[0]) if there.size else 0


def measured(run: Path) -> tuple[dict[str, dict[str, list[Seen]]], list[int]]:
    """{arm: {task: one `Seen` per seed}} and the seeds."""
    found, seeds = {}, []
    for arm in ARMS:
        folders = sorted((run / (arm + RATE)).glob("[0-9]*/final"))
        seeds = [int(folder.parent.name) for folder in folders]
        found[arm] = {task: [seen(f, task) for f in folders] for task in TASKS}
        print(
            arm, {t: round(float(v[0].shift.mean()), 3) for t, v in found[arm].items()}
        )
    return found, seeds


def told_of(runs: dict[str, dict[str, list[Seen]]], seeds: int, decode) -> dict:
    """Everything that the figures draw, and the claims."""
    weights = Weights(1, seeds, DRAWS)
    keys = ("z", "shift", "late", "count")
    table = {
        arm: {
            task: {key: np.stack([getattr(r, key) for r in of]) for key in keys}
            for task, of in tasks.items()
        }
        for arm, tasks in runs.items()
    }
    cells = {}
    for arm, tasks in runs.items():
        for task, of in tasks.items():
            own = table[arm][task]
            cells[f"{arm}/{task}"] = {
                "points": np.mean([r.points for r in of], 0).tolist(),
                "positions": by_place(of),
                "tokens": moved_tokens(of, decode),
                **{key: told(weights, own[key]) for key in keys},
            }
    cases = {}
    for kind, task in TEXTS.items():
        item = first_shifted(runs["foreign_sft"][task][0].count)
        prompt = runs["grpo"][task][0].drawn.given.prompts[item]
        own = {arm: case(tasks[task][0], item, decode) for arm, tasks in runs.items()}
        cases[kind] = {"task": task, "prompt": prompt, "responses": own}
    return {"claims": judged(weights, table), "cells": cells, "cases": cases}


def rounded(value: Any) -> Any:
    """The same tree with five significant digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main(run: Path, target: Path) -> None:
    """Measure the last models at 3e-4, judge, and write both."""
    from unipost.choices import REGISTRIES

    CHOICES.update(REGISTRIES)
    start = time.monotonic()
    runs, seeds = measured(run)
    tokenizer = open_models(Path(BASE), Path(BASE), ASKED)[0].tokenizer

    def decode(token: int) -> str:
        return tokenizer.decode([int(token)]) or "end"

    about = {
        "study": "shifts",
        "command": f"python -m experiments.papers.shifts {run} {target}",
        "git": revision(),
        "seeds": seeds,
        "cores": os.cpu_count(),
        "alpha": ALPHA,
        "items": ASKED.limit,
    }
    found = told_of(runs, len(seeds), decode)
    about["wall_seconds"] = time.monotonic() - start
    target.write_text(json.dumps(rounded(about | found)) + "\n")
    for name, claim in found["claims"].items():
        print(claim["verdict"], name, claim["parts"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
