"""One objective by hand: signals, needs, shapes, clamps, sweeps, clear errors."""

import re
from dataclasses import fields, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from preset_examples import EXAMPLES, streams_and_batch

from unipost import PRESETS, Batch, Objective, Penalty, Streams, presets
from unipost.classical import (
    JensenShannon,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.links import Linear
from unipost.objective import OWN
from unipost.presets import FAMILIES
from unipost.signals import BatchZScore, LeaveOneOut, Mean, Raw, ZScore


def test_advantages_by_hand():
    """Every baseline on one group with an empty and an unscored row."""
    mask = jnp.array([[[1, 1], [1, 0], [1, 1], [0, 0], [1, 1]]])
    batch = Batch(mask=mask, rewards=jnp.array([[1.0, 0.0, 0.5, 7.0, jnp.nan]]))
    kept = np.array([1.0, 0.0, 0.5])
    want = {
        Raw(): kept,
        Mean(): kept - 0.5,
        LeaveOneOut(): kept - np.array([0.25, 0.75, 0.5]),
        ZScore(eps=0.25): (kept - 0.5) / (np.std(kept, ddof=1) + 0.25),
        ZScore(ddof=0, eps=0.0): (kept - 0.5) / np.std(kept),
    }
    for signal, advantage in want.items():
        got = Objective(signal=signal).prepare(batch).signal[0, :, 0]
        np.testing.assert_allclose(got, [*advantage, 0.0, 0.0], atol=1e-15)


def test_batch_z_score_by_hand():
    rewards = np.array([[1.0, 0.0], [1.0, 1.0]])
    batch = Batch(mask=jnp.ones((2, 2, 1)), rewards=jnp.asarray(rewards))
    std = np.std(rewards, ddof=1)
    for center, mean in {"batch": 0.75, "group": rewards.mean(1)[:, None]}.items():
        signal = BatchZScore(center, eps=0.0)
        got = Objective(signal=signal).prepare(batch).signal[..., 0]
        np.testing.assert_allclose(got, (rewards - mean) / std, rtol=1e-12)


def test_process_supervision_by_hand():
    """Pooled z-score of step rewards, then the sum over the steps still to end."""
    steps = jnp.array([[[0, 1, 0, 1], [1, 0, 0, 0]]])
    rewards = jnp.array([[[0, 1.0, 0, 0.0], [0.5, 0, 0, 0]]])
    batch = Batch(mask=jnp.ones((1, 2, 4)), rewards=rewards, steps=steps)
    pool = np.array([1.0, 0.0, 0.5])
    z = (pool - 0.5) / (np.std(pool, ddof=1) + 1e-6)
    signal = Objective(signal=ZScore(supervision="process")).prepare(batch).signal[0]
    want = [[z[0] + z[1], z[0] + z[1], z[1], z[1]], [z[2], 0, 0, 0]]
    np.testing.assert_allclose(signal, want, atol=1e-12)


def result(objective, streams, batch):
    """(loss, gradient in the policy's log-probs)."""
    loss, grads = jax.value_and_grad(lambda s: objective(s, batch)[0])(streams)
    return float(loss), np.array(grads.policy)


def same(got, want, tol=1e-13):
    assert got[0] == pytest.approx(want[0], rel=tol)
    np.testing.assert_allclose(got[1], want[1], rtol=0, atol=tol)


def test_a_tie_compares_nothing():
    streams, batch = streams_and_batch("dpo")
    tied = replace(batch, rewards=batch.rewards.at[2].set(0.5))
    dropped = replace(batch, mask=batch.mask.at[2].set(False))
    same(result(presets.dpo(), streams, tied), result(presets.dpo(), streams, dropped))


REGRESSIONS = [
    name
    for name, o in EXAMPLES.items()
    if isinstance(o, Objective) and getattr(o.link, "regresses", False)
]


@pytest.mark.parametrize("name", REGRESSIONS)
def test_an_unscored_row_is_no_target(name):
    """A row with reward NaN counts as an empty one, where A = 0 would be a target."""
    streams, batch = streams_and_batch(name)
    unscored = replace(batch, rewards=batch.rewards.at[3, 1].set(jnp.nan))
    empty = replace(batch, mask=batch.mask.at[3, 1].set(False))
    got, want = (result(EXAMPLES[name], streams, b) for b in (unscored, empty))
    same(got, want)
    assert abs(got[0] - result(EXAMPLES[name], streams, batch)[0]) > 1e-3


@pytest.mark.parametrize("name", ["sft", "dapo", "gspo", "dpo", "ipo"])
def test_a_weight_multiplies_the_loss_of_its_row_or_pair(name):
    """A pair's weight is the product of its rows'; no denominator sees it."""
    streams, batch = streams_and_batch(name, prompts=3)
    plain = result(EXAMPLES[name], streams, replace(batch, weight=None))[1]
    weighted = result(EXAMPLES[name], streams, batch)[1]
    weight = np.array(batch.weight)
    if plain.shape[1] == 2:
        weight = weight.prod(-1, keepdims=True)
    np.testing.assert_allclose(weighted, weight[..., None] * plain, atol=1e-14)
    assert np.abs(plain).max() > 1e-3


def test_what_is_not_scored_is_not_shifted():
    """AsymRE: A = r - mean - shift for scored rows, 0 for the others."""
    rewards = jnp.array([[1.0, 0.0, jnp.nan]])
    batch = Batch(mask=jnp.ones((1, 3, 1)), rewards=rewards)
    got = presets.asymre(-0.1).advantage(batch)[0, :, 0]
    np.testing.assert_allclose(got, [0.6, -0.4, 0.0], atol=1e-15)


def test_f_sft_with_total_variation_is_sft():
    """Inside |r| < 1/2: beta times the gradient of SFT, in every gauge."""
    streams, batch = streams_and_batch("f_sft")
    want = result(presets.sft(), streams, batch)[1]
    for gauge in ("zero", "lsediff"):
        objective = presets.f_sft(TotalVariation(), 0.05, gauge)
        got = result(objective, streams, batch)[1]
        np.testing.assert_allclose(got, 0.05 * want, atol=1e-15)


def test_f_sft_tends_to_sft_as_beta_vanishes():
    streams, batch = streams_and_batch("f_sft")
    want = result(presets.sft(), streams, batch)[1]
    for divergence in (PearsonChi2(), SquaredHellinger(), ReverseKL()):
        got = result(presets.f_sft(divergence, 1e-6), streams, batch)[1]
        np.testing.assert_allclose(got / 1e-6, want, rtol=1e-5)


@pytest.mark.parametrize("divergence", [SquaredHellinger(), TotalVariation()])
def test_no_token_is_dead_outside_the_dual_domain(divergence):
    """Below the domain phi goes on along its tangent, capped; the share is told."""
    batch = Batch(mask=jnp.ones((1, 1, 3)), reference=jnp.array([[[-1.0, -1.0, -1.0]]]))
    logps = jnp.array([[[-1.0, -4.0, -9.0]]])
    objective = presets.f_sft(divergence, cap=50.0)
    (_, metrics), grad = jax.value_and_grad(objective, has_aux=True)(logps, batch)
    assert float(metrics["dual_capped_share"]) == pytest.approx(2 / 3)
    slope = 1.0 if divergence == TotalVariation() else 50.0
    np.testing.assert_allclose(-3 * grad[0, 0], [1.0, slope, slope], rtol=1e-9)


def test_clamp_reports_its_share_and_is_off_for_the_linear_reward():
    streams, batch = streams_and_batch("dpo")
    far = replace(batch, reference=batch.reference - 30.0)
    _, metrics = presets.f_dpo(JensenShannon())(streams, far)
    assert float(metrics["clamp_share"]) == pytest.approx(1.0)
    assert "clamp_share" not in presets.dpo()(streams, far)[1]


def test_a_sweep_over_numbers_compiles_once_and_vmaps():
    streams, batch = streams_and_batch("grpo")
    traces = []

    @jax.jit
    def loss(objective):
        traces.append(1)
        return objective(streams, batch)[0]

    settings = [(0.2, 0.3, 0.01), (0.1, 0.2, 0.4)]
    got = [float(loss(presets.grpo(low, high, kl))) for low, high, kl in settings]
    assert len(traces) == 1
    low, high, kl = jnp.array(settings).T
    swept = jax.vmap(lambda *a: loss(presets.grpo(*a)))(low, high, kl)
    np.testing.assert_allclose(swept, got, rtol=1e-12)
    assert got[0] != got[1]


def test_needs_names_just_what_is_read():
    needs = {
        "sft": {"policy"},
        "f_sft": {"policy", "reference"},
        "f_sft-lse": {"policy", "reference", "lse"},
        "f_sft-behavior": {"policy", "behavior"},
        "iw_sft": {"policy", "reference"},
        "dpo": {"policy", "reference"},
        "f_dpo-token": {"policy", "reference", "vocab", "reference_vocab"},
        "aot": {"policy", "reference", "current"},
        "wpo": {"policy", "reference", "collision"},
        "simpo": {"policy"},
        "kto": {"policy", "reference", "rewards", "mismatched"},
        "orpo-text": {"policy", "text"},
        "rloo": {"policy", "rewards", "old", "reference"},
        "grpo": {"policy", "rewards", "old", "reference"},
        "grpo-exact": {"policy", "rewards", "old", "vocab", "reference_vocab"},
        "grpo-entropic": {
            *("policy", "rewards", "old", "reference", "current_entropy")
        },
        "dapo": {"policy", "rewards", "old"},
        "dapo-self": {"policy", "rewards"},
        "ppo": {"policy", "rewards", "old", "reference", "values"},
        "tis": {"policy", "rewards", "old", "behavior"},
        "luffy": {"policy", "rewards", "old", "off_policy"},
        "gem": {"policy", "vocab"},
        "gkd": {"policy", "vocab", "reference_vocab"},
    }
    for name, want in needs.items():
        assert EXAMPLES[name].needs == want, name


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_missing_is_named_and_what_is_not_needed_is_not_read(name):
    objective = EXAMPLES[name]
    streams, batch = streams_and_batch(name, prompts=3)
    whole = float(objective(streams, batch)[0])
    optional = {f.name for f in fields(Batch)} - {"mask", "weight"}
    if name.split("-")[0] in FAMILIES["preferences"]:
        optional -= {"rewards"}  # not needed, but they order the pair
    made = {"current": "policy", "current_entropy": "entropy"}
    for field in sorted(objective.needs & optional):
        missing = f"(batch.{field}|streams.{made.get(field)}): missing"
        without = replace(batch, **{field: None})
        bare = Streams(streams.policy) if field in made else streams
        if field != "current":  # which the call makes of the policy
            with pytest.raises(ValueError, match=missing):
                objective(bare, without)
    for field in sorted(objective.needs & (OWN - {"policy"})):
        missing = f"(streams.{field}|batch.current_{field}): missing"
        with pytest.raises(ValueError, match=missing):
            objective(replace(streams, **{field: None}), batch)
    unread = dict.fromkeys(optional - objective.needs)
    own = dict.fromkeys(OWN - objective.needs - {"policy"})
    if "current_entropy" in objective.needs:
        own.pop("entropy", None)
    assert whole == float(
        objective(replace(streams, **own), replace(batch, **unread))[0]
    )


def test_shapes_are_checked_by_name():
    good = jnp.ones((2, 1, 3))
    with pytest.raises(ValueError, match=r"batch.mask: shape \(2, 3\)"):
        presets.sft()(good, Batch(mask=jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=r"batch.reference: shape \(2, 1, 4\)"):
        presets.dpo()(good, Batch(mask=good, reference=jnp.ones((2, 1, 4))))
    with pytest.raises(ValueError, match=r"logps: shape \(2, 1, 2\)"):
        presets.sft()(good[..., :2], Batch(mask=good))
    with pytest.raises(ValueError, match="signal.preference: groups of 1"):
        presets.dpo()(good, Batch(mask=good, reference=good))


def test_docstrings_carry_formula_and_source():
    for preset in PRESETS.values():
        doc = preset.__doc__ or ""
        assert "L = " in doc or "-A u" in doc, preset
        assert doc.count("\n") >= 3


def test_linear_of_a_custom_link_is_the_default():
    assert Objective().link == Linear()
    assert presets.sft() == Objective()


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("anchor", "objective.anchor: 'x' is none of none, reference, old, behavior"),
        ("level", "objective.level: 'x' is none of token, sequence, sequence_mean"),
        ("per", "objective.per: 'x' is none of one, length"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(field, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Objective(**{field: "x"})
    with pytest.raises(ValueError, match="penalty.level: 'x' is none of token"):
        Penalty(0.1, level=cast(Any, "x"))
