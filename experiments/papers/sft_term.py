"""The divergence term of SFT: constant where it is plain, kept by other divergences.

Claims: see CLAIMS (2507.00018: the KL term of distribution matching is constant in
    plain SFT), with their thresholds. Exact derivatives in float64.
Command: python -m experiments.papers.sft_term      (writes the file of `--out`)
Cost: two minutes of one CPU core after q_values.py, whose runs it reads.
Found: the gradient of plain SFT's term is zero, in every gauge, while KL(policy||base)
    on the demonstrations grows from 0 to 0.12 nats per token. In the gauge zero the
    kept terms have 0.13 to 0.62 of SFT's gradient from step 5 on and turn to the base
    (cosine 0.17 to 0.99). In lse and lsediff they outgrow SFT's, up to 86,000 times: V
    moves more than r may, and SFT's gradient shrinks as it fits. In lsediff the cosine
    is 0.04 to 0.80, in lse -0.73 to 0.14. Not supported: that total variation at beta 1
    is plain SFT. A token that rises by half a nat meets r < 1/2 and loses its gradient.

Distribution matching under a KL to the base has the loss (`unipost.presets.f_sft`)

    L / beta = mean_t [-log pi(y_t|s_t)]  +  mean_t [log ref(y_t|s_t) + g(r_t) / beta]
    r_t = beta log pi/ref + V(s_t) - V(s_{t+1}),   g(x) = x + f*(-x)

The first part is SFT, the second is the term, all that the base has to do with it. For
total variation g = 0 below its bound r < 1/2, whatever the gauge V is: the term is a
constant. `plain` is total variation at a beta so small that the bound is never reached.
Along the snapshots of plain SFT this measures, on the demonstrations, the term, its
gradient in all parameters, and KL(policy||base), which is no part of the loss.
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

from experiments.papers.q_claims import ran, table
from experiments.papers.q_values import double
from experiments.papers.trajectories import BASE, DEMONSTRATIONS, trajectories
from unipost import DIVERGENCES, Batch, presets
from unipost.classical import ReverseKL
from unipost.config import build
from unipost.loading import load_model, setting_of
from unipost.penalties import exact_divergence
from unipost.sources import Source
from unipost.update import streams_of, with_streams

KEPT = ("pearson_chi2", "squared_hellinger", "reverse_kl")
TERMS = {"plain": ("total_variation", 0.02), "total_variation": ("total_variation", 1)}
TERMS |= {name: (name, 1) for name in KEPT}
"""Divergence and beta of each."""
GAUGES = ("zero", "lse", "lsediff")
LATE = 5
"""Steps from which on a term must have a gradient: at step 0 all of gauge zero is 0."""
ROWS = 128
CLAIMS: dict[str, dict[str, Any]] = {
    "constant": {
        "says": "Along plain SFT the gradient of the term is zero, in every gauge",
        "number": "largest |gradient of the term| / |gradient of SFT|",
        "below": 1e-9,
    },
    "unchanged": {
        "says": "The term itself does not change from one snapshot to another",
        "number": "largest change of the term since step 0, nats per token",
        "below": 1e-9,
    },
    "bounded": {
        "says": "At beta 1 total variation is plain SFT too: its bound is not reached",
        "number": "largest |gradient of the term| / |gradient of SFT|, gauge zero",
        "below": 1e-9,
    },
    "kept": {
        "says": "Pearson, squared Hellinger and reverse KL keep it, in every gauge",
        "number": "smallest |gradient of the term| / |gradient of SFT| from step 5 on",
        "above": 0.01,
    },
    "pulls_back": {
        "says": "In the gauges that are 0 at the base, the kept term pulls towards it",
        "number": "smallest cosine of its gradient with that of KL(policy||base), "
        "from step 5 on",
        "above": 0.0,
    },
}


def flat(tree: Any) -> np.ndarray:
    """All leaves in one vector."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def functions(policy, base: Any, rows, batch: Batch) -> dict[str, Any]:
    """{name: compiled value and gradient in the parameters}: sft, kl, and each term."""
    plain = presets.sft()

    def sft(params):
        return plain(streams_of(policy, params, rows), batch)[0]

    def kl(params):
        new: Any = streams_of(policy, params, rows, ("vocab",)).vocab
        old: Any = streams_of(policy, base, rows, ("vocab",)).vocab
        each = exact_divergence(ReverseKL(), new, old)
        return (each * batch.mask).sum() / batch.mask.sum()

    def term(name, gauge):
        divergence, beta = TERMS[name]
        objective = presets.f_sft(DIVERGENCES[divergence](), beta, gauge)
        given = with_streams(objective, policy, rows, batch, base, base)

        def value(params):
            streams = streams_of(policy, params, rows, ("lse",))
            return objective(streams, given)[0] / beta - sft(params)

        return value

    found = {"sft": sft, "kl": kl}
    found |= {
        f"{name}/{gauge}": term(name, gauge) for name in TERMS for gauge in GAUGES
    }
    return {name: jax.jit(jax.value_and_grad(f)) for name, f in found.items()}


def measured(folder: Path) -> list[dict[str, Any]]:
    """A row for each run, snapshot and term: value, relative gradient, cosine."""
    model = load_model(BASE, 0)
    source = build(Source, DEMONSTRATIONS | {"prompts": ROWS})
    rows, batch = source.open(setting_of(model, 0)).batch(0, model.params)[:2]
    batch = Batch(mask=jnp.asarray(batch.mask, jnp.float64))
    rows = jax.tree.map(jnp.asarray, rows)
    compiled = functions(model.policy, double(model.params), rows, batch)
    found = []
    for seed, run in enumerate(trajectories(folder)["sft"]):
        for step, params in run.items():
            at = {k: f(double(params)) for k, f in compiled.items()}
            slopes = {k: flat(v[1]) for k, v in at.items()}
            sizes = {k: float(np.linalg.norm(v)) for k, v in slopes.items()}
            for name in (n for n in at if n != "sft"):
                both = sizes[name] * sizes["kl"]
                cosine = float(slopes[name] @ slopes["kl"]) / both if both else None
                found.append(
                    {"seed": seed, "step": step, "term": name}
                    | {"value": float(at[name][0]), "cosine": cosine}
                    | {"gradient": sizes[name] / sizes["sft"]}
                )
    return found


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every claim with its number and its verdict, from the stored rows."""

    def of(names, gauges=GAUGES, since=0):
        chosen = {f"{name}/{gauge}" for name in names for gauge in gauges}
        return [r for r in rows if r["term"] in chosen and r["step"] >= since]

    first = {(r["seed"], r["term"]): r["value"] for r in rows if r["step"] == 0}
    changes = [r["value"] - first[r["seed"], r["term"]] for r in of(["plain"])]
    centred = [r["cosine"] for r in of(KEPT, ("zero", "lsediff"), LATE)]
    numbers = {
        "constant": max(r["gradient"] for r in of(["plain"])),
        "unchanged": max(map(abs, changes)),
        "bounded": max(r["gradient"] for r in of(["total_variation"], ("zero",))),
        "kept": min(r["gradient"] for r in of(KEPT, since=LATE)),
        "pulls_back": min(centred),
    }
    claims = {}
    for name, claim in CLAIMS.items():
        number = numbers[name]
        below = claim.get("below", np.inf)
        holds = number < below and number > claim.get("above", -np.inf)
        word = "supported" if holds else "not supported"
        effect = [claim["number"], number, None, None]
        claims[name] = claim | {"found": {"verdict": word, "effects": [effect]}}
    return claims


def main() -> None:
    """Write the results and print what became of the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default="paper_figs/data/sft_term.json")
    text = "folder of the training runs; default: %(default)s"
    parser.add_argument("--runs", type=Path, default="runs/trajectories", help=text)
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    started = time.perf_counter()
    rows = measured(chosen.runs)
    head = ran("python -m experiments.papers.sft_term", time.perf_counter() - started)
    head |= {"study": "sft_term", "claims": judged(rows)}
    keys = "value", "cosine", "gradient"
    for row in rows:
        row |= {k: row[k] and float(f"{row[k]:.4g}") for k in keys}
    tree = head | {"rows": rows}
    chosen.out.write_text(json.dumps(tree, separators=(",", ":")) + "\n")
    print(table(head["claims"]))


if __name__ == "__main__":
    main()
