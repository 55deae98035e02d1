"""Scripts and diagnostics of the papers' suite: shifts, weights and tokens of a set."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.papers import shift_claims, shifts, tokens, weights
from unipost.analysis.latent import latent_shift
from unipost.analysis.statistics.bootstrap import Weights
from unipost.loading import load_model

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)


def test_projection_of_one_direction_by_hand():
    """Texts that vary along one axis: only a move along it counts."""
    base = np.zeros((2, 5, 3))
    base[..., 0] = np.arange(5.0)
    base[..., 1] = 0.01 * np.array([1, -1, 0, 1, -1])
    moved = base + np.array([2.0, 0.0, 7.0])
    moved[1] += np.array([2.0, 0.0, 0.0])
    z = shifts.projected(base, moved)
    np.testing.assert_allclose(z[:, 0], 3.0, atol=1e-4)  # mean of 2 and 4
    np.testing.assert_allclose(z[:, 1], 0.0, atol=0.05)


def test_the_mean_of_z_is_the_shift_of_the_papers_code():
    base, tuned = RNG.normal(size=(2, 4, 20, 6))
    found = np.linalg.norm(shifts.projected(base, tuned).mean(0))
    wanted = latent_shift(base, tuned, "paper_code", 2).distance.mean
    assert found == pytest.approx(wanted, rel=1e-9)


def test_mean_rank_of_a_response_and_of_its_end_by_hand():
    shift = np.array([[2, 0, 1, 3, 5], [4, 0, 9, 9, 9], [0, 0, 0, 6, 9]])
    mask = np.arange(5) < np.array([[5], [2], [4]])
    np.testing.assert_allclose(shifts.item_ranks(shift, mask), [11 / 5, 2, 6 / 4])
    np.testing.assert_allclose(shifts.item_ranks(shift, mask, 3), [4, 0, 6])


def test_distances_of_a_resample_are_those_of_its_items():
    z = RNG.normal(size=(2, 6, 2))
    counts = np.array([[1, 1, 1, 1, 1, 1], [0, 3, 0, 1, 2, 0]], float)
    found = shift_claims.distances(z, counts)
    for b, count in enumerate(counts.astype(int)):
        drawn = np.repeat(np.arange(6), count)
        for r in range(2):
            x, y = z[r, drawn].mean(0)
            assert found[b, r] == pytest.approx(np.hypot(x, y))


def test_a_gap_is_paired_and_takes_the_mean_over_tasks():
    """Arms that differ by a constant on each task have an interval of no width."""
    low = {task: RNG.random((3, 8)) for task in "ab"}
    more = {"a": low["a"] + 1.0, "b": low["b"] + 3.0}
    table = {
        "more": {task: {"shift": x} for task, x in more.items()},
        "less": {task: {"shift": x} for task, x in low.items()},
    }
    found = shift_claims.gap(Weights(1, 3, 50), table, "more", "less", "shift", "ab")
    np.testing.assert_allclose(found[:3], 2.0)
    assert found[3] == "supported"
    back = shift_claims.gap(Weights(1, 3, 50), table, "less", "more", "shift", "ab")
    assert back[3] == "not supported"


def test_stored_claims_follow_from_their_parts():
    stored = json.loads((ROOT / "paper_figs/data/shifts.json").read_text())
    assert set(stored["claims"]) == set(shift_claims.CLAIMS)
    for claim in stored["claims"].values():
        words = []
        for _, low, high, word in claim["parts"].values():
            words.append("supported" if low > 0 else "inconclusive")
            words[-1] = "not supported" if high <= 0 else words[-1]
            assert word == words[-1]
        order = ("not supported", "inconclusive", "supported")
        assert claim["verdict"] == min(words, key=order.index)


def test_weights_are_the_slopes_of_the_shaped_probability():
    """d f(p) / d logit = f'(p) p (1 - p), by autodiff in the token's logit."""
    p = np.linspace(0.01, 0.99, 25)
    logit = jnp.asarray(np.log(p / (1 - p)))
    plain = jax.vmap(jax.grad(jax.nn.sigmoid))(logit)

    def shaped(x):
        p = jax.nn.sigmoid(x)
        return p / (p + 0.1)

    np.testing.assert_allclose(weights.plain(p), plain, atol=1e-9)
    np.testing.assert_allclose(weights.shaped(p), jax.vmap(jax.grad(shaped))(logit))
    grid = np.linspace(0.02, 0.4, 3801)
    peak = grid[weights.shaped(grid).argmax()]
    assert peak == pytest.approx(1 / 12, abs=2e-4)  # gamma/(1 + 2 gamma)


@pytest.fixture(scope="module")
def model():
    return load_model(str(ROOT / "experiments/papers/base"), 0)


def probabilities(model, prompts, prompt_masks, responses, masks):
    """Of each response token, one text at a time and without padding."""
    found = []
    for row in zip(prompts, prompt_masks, responses, masks, strict=True):
        prompt, kept, response, there = (np.asarray(x) for x in row)
        text = np.r_[prompt[kept.astype(bool)], response[there.astype(bool)]]
        ids = jnp.asarray(text)[None]
        logits = model.policy.logits(model.params, ids, jnp.ones_like(ids, bool))[0]
        length = int(there.sum())
        probs = jax.nn.softmax(logits[-length - 1 : -1], -1)
        found.extend(np.asarray(probs)[np.arange(length), text[-length:]])
    return np.array(found)


def seen_of(model, opened=None) -> Any:
    decoder = SimpleNamespace(policy=model.policy, tokenizer=model.tokenizer)
    evaluator = SimpleNamespace(decoder=decoder, tasks={"rev": opened})
    return SimpleNamespace(evaluator=evaluator, params=model.params)


def test_tokens_of_a_training_set_by_bin(model, monkeypatch):
    monkeypatch.setattr(tokens, "ITEMS", 6)
    tokens.training_rows.cache_clear()
    seen = seen_of(model)
    rows = tokens.training_rows(model.tokenizer, "many")
    p = probabilities(model, *(np.asarray(x)[:, 0] for x in rows[:4]))
    assert len(p) == int(np.asarray(rows.response_mask).sum()) and (p < 0.1).any()
    edges = np.geomspace(1e-5, 1, 11)
    wanted = np.histogram(np.clip(p, 1.0001e-5, 0.9999), edges)[0] / len(p)
    found = [tokens.token_bin(seen, "many", i) for i in range(10)]
    np.testing.assert_allclose(found, 100 * wanted, atol=1e-6)
    assert tokens.token_ends(seen, "many") == pytest.approx(found[0] + found[-1])
    assert tokens.token_low(seen, "many") == pytest.approx(100 * (p < 0.1).mean())
    tokens.training_rows.cache_clear()


def test_weights_of_the_demonstrations_of_a_task(model, monkeypatch):
    monkeypatch.setattr(tokens, "ITEMS", 6)
    tokens.training_rows.cache_clear()
    rows = tokens.training_rows(model.tokenizer, "verbose")
    whole = [np.asarray(x)[:, 0] for x in rows[:4]]
    seen = seen_of(model, SimpleNamespace(tokens=whole))
    p = probabilities(model, *whole)
    assert weights.plain_weight(seen) == pytest.approx((p - p**2).mean(), rel=1e-4)
    wanted = (0.1 * p * (1 - p) / (p + 0.1) ** 2).mean()
    assert weights.shaped_weight(seen) == pytest.approx(wanted, rel=1e-4)
    assert weights.rare_tokens(seen) == pytest.approx(100 * (p <= 0.1).mean())
    tokens.training_rows.cache_clear()
