"""Measures of the papers' scripts: against enumeration, closed forms, known slips."""

import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import MEAN, rows_and_batch

from experiments.papers import f_dpo_claims, q_claims, sft_term, subspace
from experiments.papers.f_dpo_measures import mixture_divergence
from experiments.papers.q_values import step_right, step_sums
from experiments.papers.tasks import steps, written
from experiments.papers.teacher import slipped
from experiments.papers.trajectories import is_chain
from unipost import DIVERGENCES, Batch
from unipost.analysis import ece
from unipost.analysis.statistics import Weights
from unipost.paper_figures import parts
from unipost.update import streams_of

DATA = Path(__file__).parents[1] / "paper_figs" / "data"
PROMPT = "M4*1-0+7="


def test_a_slip_is_the_one_step_that_does_not_follow():
    """Of a chain that is carried on from a slip, the other steps are right."""
    rng = random.Random(0)
    for _ in range(30):
        wrong = written(slipped(PROMPT, rng), "cot")
        assert is_chain(wrong, PROMPT)
        assert step_right(wrong, PROMPT).count(False) == 1
    right = written(steps(PROMPT), "cot")
    assert right == "4,4,1" and all(step_right(right, PROMPT))
    for text in ("4,4", "w1", "4,4,1,1", "4,4,x", "4,4,11"):
        assert not is_chain(text, PROMPT)


def test_the_reward_of_a_step_is_that_of_a_digit_and_what_follows():
    tokens = np.arange(1.0, 9.0).reshape(1, 1, 8)
    assert step_sums(tokens, 3).tolist() == [[3.0, 7.0, 11.0]]


def test_correlation_and_its_replicates():
    """The sample's is numpy's; a replicate's is that of the runs and groups drawn."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(3, 40)), rng.integers(0, 2, 40).astype(float)
    groups = np.sort(rng.integers(0, 12, 40))
    _, groups = np.unique(groups, return_inverse=True)
    mean, low, high = q_claims.correlation(x + 0.5 * y, y, groups, 0.05, 500)
    flat = (x + 0.5 * y).ravel(), np.tile(y, 3)
    assert mean == pytest.approx(np.corrcoef(*flat)[0, 1])
    weights = Weights(1, 3, 500)
    items, found = weights.items("prompts", groups.max() + 1), []
    for runs, own in zip(weights.runs[1:], items[1:], strict=True):
        seeds = np.repeat(np.arange(3), runs.astype(int))
        kept = np.concatenate(
            [
                np.flatnonzero(groups == g)
                for g in range(len(own))
                for _ in range(own[g])
            ]
        )
        drawn = (x + 0.5 * y)[seeds][:, kept].ravel(), np.tile(y[kept], len(seeds))
        found.append(np.corrcoef(*drawn)[0, 1])
    np.testing.assert_allclose([low, high], np.quantile(found, [0.025, 0.975]))


def test_what_is_left_out_is_left_out():
    """Means of groups, and the line in another number."""
    rng = np.random.default_rng(2)
    groups, x = np.repeat([0, 1, 2], 4), rng.normal(size=(2, 12))
    shifted = x + np.array([5.0, -3.0, 2.0])[groups]
    found = q_claims.centred(shifted, groups)
    np.testing.assert_allclose(found, q_claims.centred(x, groups), atol=1e-12)
    np.testing.assert_allclose(found.reshape(2, 3, 4).sum(-1), 0, atol=1e-12)
    line = rng.normal(size=12)
    rest = q_claims.without(2 * line + 1 + x, line)
    np.testing.assert_allclose(rest @ (line - line.mean()), 0, atol=1e-12)
    np.testing.assert_allclose(rest, q_claims.without(x, line), atol=1e-12)


def test_terms_of_sft_by_their_formulas():
    """mean log ref + g(r) of Pearson and Hellinger; of plain SFT mean log ref alone."""
    rows, given = rows_and_batch("sft")
    batch = Batch(mask=jnp.asarray(given.mask, jnp.float64))
    policy, base, tuned = MEAN.policy, MEAN.reference, MEAN.params
    found = sft_term.functions(policy, base, rows, batch)
    mask = np.asarray(batch.mask)
    streams = [streams_of(policy, p, rows, ("vocab",)) for p in (tuned, base)]
    new, old = (np.asarray(s.policy) for s in streams)
    r, count = new - old, mask.sum()

    def mean(values):
        return float(np.where(mask > 0, values, 0.0).sum() / count)

    value, slope = found["plain/lse"](tuned)
    assert float(value) == pytest.approx(mean(old), abs=1e-12)
    assert float(np.abs(sft_term.flat(slope)).max()) < 1e-12
    value, slope = found["pearson_chi2/zero"](tuned)
    pearson = np.where(r <= 2, r * r / 4, r - 1)
    assert float(value) == pytest.approx(mean(old + pearson), abs=1e-12)
    assert float(np.abs(sft_term.flat(slope)).max()) > 1e-6
    log_p, log_q = (np.asarray(s.vocab) for s in streams)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    assert float(found["kl"](tuned)[0]) == pytest.approx(mean(kl), abs=1e-12)


def test_the_optimum_is_the_base_tilted_by_the_reward():
    rng = np.random.default_rng(3)
    base = np.array(jax.nn.log_softmax(rng.normal(size=30)))
    reward = rng.normal(size=30)
    tilted = base + reward / 0.5
    want = np.exp(tilted - np.logaddexp.reduce(tilted))
    np.testing.assert_allclose(subspace.optimum(reward, base, 0.5), want, atol=1e-6)


def test_planes():
    """A vector in the plane of the other seeds' runs, and one at a right angle."""
    e, last = np.eye(6), subspace.STEPS[-1]
    vectors = {
        ("sft", s, step): step * e[0] + s * e[1] for s in (0, 1) for step in (1, last)
    }
    vectors["dpo", 0, last] = 3 * e[0] + 4 * e[1]
    vectors["dpo", 1, last] = e[0] + e[5]
    np.testing.assert_allclose(subspace.in_plane(vectors, 2), [1.0, 0.5], atol=1e-12)
    places, shares = subspace.projected({k: v for k, v in vectors.items() if k[1] == 0})
    assert sum(shares) == pytest.approx(1.0) and places["sft", 0, last][0] > 0
    lengths = [np.linalg.norm(p) * np.sqrt(6) for p in places.values()]
    np.testing.assert_allclose(lengths, [1, last, 5], atol=1e-9)


@pytest.mark.parametrize("name", f_dpo_claims.FORMS)
def test_a_divergence_from_samples_of_both(name):
    """Samples in the very shares of the two: the sum over outcomes, exactly."""
    counts = np.array([[8, 4, 2, 1, 1], [1, 3, 4, 4, 4]])
    p, q = counts / 16
    own, base = (np.repeat(np.log(p / q), n) for n in counts)
    f = f_dpo_claims.FORMS[name]
    u = p / q
    a = {"alpha_0.3": 0.3, "alpha_0.5": 0.5, "alpha_0.7": 0.7}.get(name)
    textbook = {
        "reverse_kl": u * np.log(u),
        "forward_kl": -np.log(u),
        "jensen_shannon": u * np.log(u) - (1 + u) * np.log((1 + u) / 2),
    }
    want = textbook[name] if a is None else (u ** (1 - a) - 1) / (a * (a - 1))
    assert mixture_divergence(f, own, base) == pytest.approx(float((q * want).sum()))


def made_up(rng):
    """Results of f_dpo_measures with random numbers."""

    def one():
        return {
            "confidence": rng.integers(1, 1000, 50).tolist(),
            "ranked": "".join(rng.choice(["0", "1"], 50)),
            "divergences": dict.fromkeys(f_dpo_claims.FORMS, float(rng.random())),
            "different": rng.integers(1, 64, 20).tolist(),
            "self_bleu": rng.random(20).tolist(),
            "distinct_2": rng.random(20).tolist(),
            "right": rng.integers(0, 64, 20).tolist(),
            "entropy": float(rng.random()),
            "clamped": 0.0,
        }

    arms = [f"{a}@{b}" for a in f_dpo_claims.ARMS for b in f_dpo_claims.BETAS]
    return {"samples": 64, "runs": {arm: [one() for _ in range(3)] for arm in arms}}


def test_calibration_is_that_of_all_seeds_together():
    found = made_up(np.random.default_rng(4))
    runs = found["runs"]["alpha_5@1"]
    confidence = np.array([r["confidence"] for r in runs]) / 1000
    right = [c == "1" for r in runs for c in r["ranked"]]
    weights = f_dpo_claims.new_weights(found)
    drawn = f_dpo_claims.draws_of(found, "alpha_5@1", "ece", weights)
    assert drawn[0] == pytest.approx(ece(confidence.ravel(), right))
    assert f_dpo_claims.judged(found)["clamp"]["found"]["verdict"] == "not supported"
    # seeds and items of one replicate, drawn out
    seeds = np.repeat(np.arange(3), weights.runs[7].astype(int))
    items = np.repeat(np.arange(50), weights.items("pairs", 50)[7])
    own = confidence[seeds][:, items], np.reshape(right, (3, 50))[seeds][:, items]
    assert drawn[7] == pytest.approx(ece(own[0].ravel(), own[1].ravel()))


def test_figures_of_f_dpo_are_drawn_from_a_results_file(tmp_path):
    drawing, _ = parts(DATA.parent)
    found = made_up(np.random.default_rng(5))
    told = {"table": f_dpo_claims.numbers(found), "bins": f_dpo_claims.reliable(found)}
    tree = found | told | {"claims": f_dpo_claims.judged(found)}
    file = tmp_path / "results.json"
    file.write_text(json.dumps(tree))
    for name in ("f_dpo_calibration", "f_dpo_own_measure"):
        module = drawing.script(name)
        said = drawing.write(module, tmp_path, drawing.Stored(file), ("png",), 60)
        assert said.split()[0].isdigit() and (tmp_path / f"{name}.png").exists()
        assert said.count(";") == 3
    right = [100 * np.mean(r["right"]) / 64 for r in found["runs"]["alpha_3@0.1"]]
    (row,) = (r for r in told["table"] if (r["arm"], r["what"]) == KEY)
    assert row["mean"] == pytest.approx(np.mean(right)) and row["low"] < row["high"]


KEY = ("alpha_3@0.1", "right")
JUDGES = {
    "q_values": q_claims.judged,
    "sft_term": lambda tree: sft_term.judged(tree["rows"]),
    "subspace": subspace.judged,
    "f_dpo_measures": f_dpo_claims.judged,
}


@pytest.mark.parametrize("name", [n for n in JUDGES if (DATA / f"{n}.json").exists()])
def test_stored_verdicts_follow_from_what_is_stored(name):
    tree = json.loads((DATA / f"{name}.json").read_text())
    again = JUDGES[name](tree)
    assert set(again) == set(tree["claims"])
    for claim, about in tree["claims"].items():
        assert again[claim]["found"]["verdict"] == about["found"]["verdict"], claim
        _, mean, *ends = about["found"]["effects"][0]
        assert again[claim]["found"]["effects"][0][1] == pytest.approx(
            mean, rel=1e-3, abs=1e-9
        )
        assert again[claim]["says"] == about["says"]
    assert tree["command"].startswith("python -m experiments.papers.")


def test_every_form_is_a_divergence_of_the_library():
    assert {type(f) for f in f_dpo_claims.FORMS.values()} <= {
        DIVERGENCES[n] for n in ("reverse_kl", "forward_kl", "jensen_shannon", "alpha")
    }
