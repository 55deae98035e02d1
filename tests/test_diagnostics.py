"""The numbers of a step against numpy, whatever the cut; finite whatever the data."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import random_batch
from tiny_models import EXAMPLES, MEAN, rows_and_batch

from unipost import Batch, Streams, presets
from unipost.compilation import CompileClock
from unipost.diagnostics import (
    combine,
    finished,
    merge,
    nothing,
    signal_metrics,
    tally,
    watched,
)
from unipost.mixture import Mixture
from unipost.optimizers import SGD
from unipost.update import State, loss_and_grad, minibatch, update, with_streams

NAMES = ("grpo", "gspo", "cispo", "rloo", "luffy", "tis")
OBJECTIVES = {
    "grpo": presets.grpo(),
    "gspo": presets.gspo(),
    "cispo": presets.cispo(),
    "rloo": replace(presets.rloo(), penalty=None),
    "luffy": presets.luffy(9.0),
    "tis": presets.tis(1.5),
    "dapo": presets.dapo(),
}


def sampled(name, seed=0):
    """(objective, streams, batch): some tokens and one whole row unreported.

    Of the sixth group only one response is scored.
    """
    streams, batch = random_batch(4, prompts=8, seed=seed)
    batch = replace(batch, rewards=batch.rewards.at[5, 1:].set(jnp.nan))
    hidden = np.random.default_rng(seed).random(batch.mask.shape) < 0.1
    hidden[2, 1] = True
    behavior = jnp.where(hidden, jnp.nan, batch.behavior)
    off = batch.off_policy if name == "luffy" else None
    return OBJECTIVES[name], streams, replace(batch, behavior=behavior, off_policy=off)


def measured(objective, streams, batch, pieces=1):
    """The diagnostics of a batch that is counted in `pieces`."""
    prepared, seen = objective.prepare(batch), watched(objective, batch)
    total = None
    for i in range(pieces):
        part = minibatch((streams, prepared, seen), i, pieces)
        found = tally(objective, *part)
        total = merge(nothing(found) if total is None else total, found)
    numbers = finished(total) | signal_metrics(objective, batch, prepared)
    return {name: float(x) for name, x in numbers.items()}


def tokens_of(batch, name):
    """(p, g, t) of the policy's own tokens; only those with a known `name`."""
    where = []
    for p, g, t in np.argwhere(np.asarray(batch.mask) > 0):
        off = batch.off_policy is not None and bool(batch.off_policy[p, g])
        if not off and np.isfinite(getattr(batch, name)[p, g, t]):
            where.append((p, g, t))
    return where


def expected_distances(streams, batch):
    policy, behavior = np.asarray(streams.policy), np.asarray(batch.behavior)
    known, own = tokens_of(batch, "behavior"), tokens_of(batch, "reference")
    log_w = np.array([policy[i] - behavior[i] for i in known])
    log_u = np.array([policy[i] - np.asarray(batch.reference)[i] for i in own])
    gap = np.abs([np.asarray(batch.old)[i] - behavior[i] for i in known])
    rows = {i[:2] for i in own}
    whole = [r for r in rows if all(i in known for i in own if i[:2] == r)]
    row = [sum(policy[i] - behavior[i] for i in own if i[:2] == r) for r in whole]
    assert len(known) < len(own) and len(whole) < len(rows)

    def effective(log_weights):
        w = np.exp(log_weights)
        return w.sum() ** 2 / (len(w) * (w**2).sum())

    return {
        "k1_behavior": -log_w.mean(),
        "k3_behavior": (np.exp(log_w) - 1 - log_w).mean(),
        "chi2_behavior": (np.exp(log_w) ** 2).mean() - 1,
        "k1_reference": log_u.mean(),
        "k3_reference": (np.exp(-log_u) - 1 + log_u).mean(),
        "chi2_reference": np.exp(log_u).mean() - 1,
        "ess_behavior": effective(log_w),
        "ess_behavior_sequence": effective(np.array(row)),
        "sampler_gap": gap.mean(),
        "sampler_gap_max": gap.max(),
        "entropy": np.asarray(streams.entropy)[np.asarray(batch.mask) > 0].mean(),
    }


def expected_ratios(name, streams, batch):
    own = tokens_of(batch, "old")
    log_u = {i: float(streams.policy[i] - batch.old[i]) for i in own}
    values = np.array(list(log_u.values()))
    if name == "gspo":  # the geometric mean over each row
        rows = {i[:2] for i in own}
        values = np.array(
            [np.mean([x for i, x in log_u.items() if i[:2] == r]) for r in rows]
        )
    u = np.exp(values)
    return {"ratio_min": u.min(), "ratio_mean": u.mean(), "ratio_max": u.max()}


def expected_signal(objective, batch):
    mask, signal = np.asarray(batch.mask) > 0, np.asarray(objective.advantage(batch))
    rewards = np.asarray(batch.rewards)
    equal = scored = 0
    for p in range(len(mask)):
        values = rewards[p][mask[p].any(-1) & np.isfinite(rewards[p])]
        scored += len(values) > 1
        equal += len(values) > 1 and len(set(values.tolist())) == 1
    assert equal == 1 and scored == len(mask) - 1
    values = signal[mask]
    return {
        "advantage_mean": values.mean(),
        "advantage_std": values.std(),
        "advantage_min": values.min(),
        "advantage_max": values.max(),
        "zero_variance": equal / scored,
    }


def expected_margin(name, objective, streams, batch):
    """z = u - 1 of the clipped presets, log pi of the others, by the sign of A."""
    signal = np.asarray(objective.advantage(batch))
    where = tokens_of(batch, "old")
    if name == "gspo":
        rows = sorted({i[:2] for i in where})
        log_u = [
            np.mean(
                [float(streams.policy[i] - batch.old[i]) for i in where if i[:2] == r]
            )
            for r in rows
        ]
        z, a = np.exp(log_u) - 1, np.array([signal[r][0] for r in rows])
    else:
        policy = np.array([float(streams.policy[i]) for i in where])
        old = np.array([float(batch.old[i]) for i in where])
        plain = name in ("cispo", "rloo")
        z, a = policy if plain else np.exp(policy - old) - 1, [signal[i] for i in where]
    a = np.asarray(a)
    return {"margin": z[a > 0].mean() - z[a < 0].mean()}


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_what_numpy_says(name):
    objective, streams, batch = sampled(name)
    found = measured(objective, streams, batch)
    want = expected_distances(streams, batch)
    want |= expected_ratios(name, streams, batch) | expected_signal(objective, batch)
    want |= expected_margin(name, objective, streams, batch)
    assert found.keys() == want.keys()
    for key, value in want.items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key


@pytest.mark.parametrize("name", NAMES)
def test_the_cut_changes_no_number(name):
    whole = measured(*sampled(name))
    for pieces in (2, 4, 8):
        assert measured(*sampled(name), pieces) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", ["grpo", "cispo", "dapo"])
def test_clipped_shares_by_their_side(name):
    """Of the tokens with a signal, those below and above the band that A pushes to."""
    objective, streams, batch = sampled(name)
    metrics = objective(streams, batch)[1]
    u = np.exp(np.asarray(streams.policy - batch.old))
    a, mask = np.asarray(objective.advantage(batch)), np.asarray(batch.mask) > 0
    if name == "cispo":
        cap = float(objective.link.weight.cap)
        low, high = np.zeros_like(mask), (u > cap) & (a != 0)
    else:
        band = objective.link
        low = (u < 1 - band.low) & (a < 0)
        high = (u > 1 + band.high) & (a > 0)
        shares = metrics["clip_low"] + metrics["clip_high"]
        assert float(shares) == pytest.approx(float(metrics["clip_share"]))
    assert (high & mask).any()
    for key, side in (("clip_low", low), ("clip_high", high)):
        assert float(metrics[key]) == pytest.approx((side & mask).sum() / mask.sum())


def test_on_policy_everything_is_one_or_zero():
    objective, streams, batch = sampled("grpo")
    ours = streams.policy
    batch = replace(batch, old=ours, behavior=ours, reference=ours)
    found = measured(objective, streams, batch)
    for key, value in found.items():
        if key.startswith(("ratio", "ess")):
            assert value == pytest.approx(1.0, abs=1e-12), key
        elif key.startswith(("k1", "k3", "chi2", "sampler_gap")):
            assert value == pytest.approx(0.0, abs=1e-12), key
    metrics = objective(streams, batch)[1]
    assert float(metrics["clip_low"]) == float(metrics["clip_high"]) == 0.0


def test_distances_are_related_as_they_must_be():
    """ess (chi2 + 1) = (mean w)^2, k3 = mean w - 1 + k1; a shift leaves ess alone."""
    objective, streams, batch = sampled("rloo")
    found = measured(objective, streams, replace(batch, old=None))
    mean = found["ratio_mean"]  # without old: policy/behaviour
    squares = found["ess_behavior"] * (found["chi2_behavior"] + 1)
    assert squares == pytest.approx(mean**2)
    assert found["k3_behavior"] == pytest.approx(mean - 1 + found["k1_behavior"])
    log_u = replace(batch, reference=batch.behavior)
    again = measured(objective, streams, log_u)
    assert again["chi2_reference"] == pytest.approx(mean - 1)
    moved = replace(batch, behavior=batch.behavior + 3.0)
    shifted = measured(objective, streams, moved)
    assert shifted["ess_behavior"] == pytest.approx(found["ess_behavior"])


def test_the_distances_estimate_divergences():
    """With every token of a vocabulary in proportion to the behaviour: exact sums."""
    rng = np.random.default_rng(3)
    behavior = np.array([0.5, 0.25, 0.125, 0.125])
    policy, reference = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))

    def drawn(p):  # 8 tokens, as often as p says
        ids = np.repeat(np.arange(4), (8 * p).astype(int))
        return lambda q: jnp.asarray(np.log(q)[ids].reshape(1, 2, 4))

    tokens = drawn(behavior)
    batch = Batch(
        mask=jnp.ones((1, 2, 4)),
        rewards=jnp.array([[0.0, 1.0]]),
        behavior=tokens(behavior),
        reference=tokens(reference),
    )
    objective = OBJECTIVES["rloo"]
    found = measured(objective, Streams(tokens(policy)), batch)
    kl = (behavior * np.log(behavior / policy)).sum()
    assert found["k1_behavior"] == pytest.approx(kl)
    assert found["k3_behavior"] == pytest.approx(kl)
    chi2 = (policy**2 / behavior).sum() - 1
    assert found["chi2_behavior"] == pytest.approx(chi2)
    # where the policy is the sampler, those to the reference are of the policy
    found = measured(objective, Streams(tokens(behavior)), batch)
    kl = (behavior * np.log(behavior / reference)).sum()
    assert found["k1_reference"] == pytest.approx(kl)
    assert found["k3_reference"] == pytest.approx(kl)
    chi2 = (behavior**2 / reference).sum() - 1
    assert found["chi2_reference"] == pytest.approx(chi2)


@pytest.mark.parametrize("gap", [80.0, -80.0, np.inf, -np.inf])
def test_any_log_ratio_gives_a_finite_number(gap):
    """In float32, where exp(89) overflows; an infinite log-prob is not bounded in z."""
    for name in NAMES:
        objective, streams, batch = sampled(name)
        for stream in ("behavior", "old", "reference"):
            near = getattr(batch, stream)
            far = jnp.where(jnp.arange(near.shape[-1]) % 2 == 0, near + gap, near)
            dirty = replace(batch, **{stream: far})
            found = measured(objective, *jax.tree.map(_float32, (streams, dirty)))
            assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_has_the_numbers_of_an_on_policy_one(name):
    objective, streams, batch = sampled(name)
    empty = replace(batch, mask=jnp.zeros_like(batch.mask))
    for key, value in measured(objective, streams, empty).items():
        assert value == (1.0 if key.startswith(("ratio", "ess")) else 0.0), key


def _float32(x):
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(jnp.float32) if floats else x


def test_nothing_reported_counts_as_nothing():
    objective, streams, batch = sampled("grpo")
    silent = replace(batch, behavior=jnp.full_like(batch.behavior, jnp.nan))
    found = measured(objective, streams, silent)
    assert found["ess_behavior"] == found["ess_behavior_sequence"] == 1.0
    assert found["k1_behavior"] == found["sampler_gap_max"] == 0.0
    known = measured(objective, streams, batch)
    for key in ("ratio_mean", "k1_reference", "margin", "entropy"):
        assert found[key] == known[key]


def test_a_row_that_is_another_s_in_part():
    """off_policy [P, G, T]: the prefix is left out, the continuation is counted."""
    objective, streams, batch = sampled("grpo")
    prefix = jnp.arange(batch.mask.shape[-1]) < 3
    own = jnp.broadcast_to(~prefix, batch.mask.shape)
    seen = replace(watched(objective, batch), off_policy=~own)
    prepared = objective.prepare(batch)
    found = finished(tally(objective, streams, prepared, seen))
    short = replace(batch, mask=batch.mask * own)
    want = finished(tally(objective, streams, prepared, watched(objective, short)))
    for key in ("ratio_mean", "ess_behavior", "ess_behavior_sequence", "k3_reference"):
        assert float(found[key]) == pytest.approx(float(want[key])), key


def test_only_what_can_be_known_is_reported():
    """Demonstrations and pairs: nothing; labels: a margin; no old: policy/behaviour."""
    for objective, group in ((presets.sft(), 1), (presets.dpo(), 2)):
        streams, batch = random_batch(group)
        given = replace(batch, old=None, behavior=None)
        assert measured(objective, streams, given) == {}
    streams, batch = random_batch(1)
    batch = replace(batch, old=None, behavior=None, current=streams.policy)
    assert measured(presets.kto(), streams, batch).keys() == {"margin"}
    _, streams, batch = sampled("rloo")
    given = replace(batch, reference=None, behavior=None)
    names = measured(OBJECTIVES["rloo"], streams, given).keys()
    assert not any("behavior" in x or "reference" in x or "gap" in x for x in names)
    assert {"ratio_mean", "entropy", "advantage_std", "margin"} <= names


def test_a_mixture_has_one_set_of_numbers():
    objective, streams, batch = sampled("grpo")
    mixed = Mixture((presets.sft(), objective), (0.3, 1.0))
    assert measured(mixed, streams, batch) == measured(objective, streams, batch)


def test_a_step_reports_them_and_compiles_once():
    """Through the compiled update: microbatches change nothing, nor do new numbers."""
    objective = EXAMPLES["grpo"]
    policy, params, reference, old = MEAN
    rows, batch = rows_and_batch("grpo")
    batch = replace(batch, off_policy=None)
    batch = with_streams(objective, policy, rows, batch, old, reference)
    behavior = batch.old + 0.1 * jnp.sin(jnp.arange(batch.mask.shape[-1]))
    batch = replace(batch, behavior=behavior)
    seen, lines = watched(objective, batch), []
    for pieces in (1, 4):
        own = jax.tree.map(jnp.copy, params)
        state = State(own, SGD(0.1).init(own), jnp.zeros((), jnp.int32))
        args = policy, objective, SGD(0.1)
        with CompileClock() as clock:
            for _ in range(2):
                total = jnp.asarray(9)
                clock.lap()
                state, metrics = update(*args, state, rows, batch, pieces, total)
                programs = clock.lap().programs
                lines.append({name: float(x) for name, x in metrics.items()})
        assert programs == 0  # the second update has the program of the first
    assert lines[0] == pytest.approx(lines[2])
    assert lines[1] == pytest.approx(lines[3])
    assert lines[0]["ratio_mean"] != lines[1]["ratio_mean"]
    prepared = objective.prepare(batch)
    # without them the loss has the same value and gradient
    args = policy, objective, params, rows, prepared, 1, None
    (loss, metrics), grads = loss_and_grad(*args)
    (again, more), slopes = loss_and_grad(*args, seen)
    assert metrics.keys() < more.keys() and loss == again
    same = jax.tree.map(lambda a, b: bool((a == b).all()), grads, slopes)
    assert all(jax.tree.leaves(same))


def test_metrics_of_several_updates():
    lines = [
        {"loss": 1.0, "ratio_min": 0.5, "ratio_max": 2.0, "sampler_gap_max": 0.1},
        {"loss": 3.0, "ratio_min": 0.7, "ratio_max": 3.0, "sampler_gap_max": 0.9},
    ]
    found = combine([jax.tree.map(jnp.asarray, line) for line in lines])
    want = {"loss": 2.0, "ratio_min": 0.5, "ratio_max": 3.0, "sampler_gap_max": 0.1}
    assert {k: float(x) for k, x in found.items()} == want


def test_minibatches_find_the_extremes_of_the_whole():
    objective, streams, batch = sampled("grpo")
    whole = measured(objective, streams, batch)
    signal = objective.advantage(batch)
    for pieces in (2, 4):
        parts = []
        for i in range(pieces):
            some, part, a = minibatch((streams, batch, signal), i, pieces)
            prepared = objective.prepare(part, a)
            seen = watched(objective, part)
            found = finished(tally(objective, some, prepared, seen))
            parts.append(found | signal_metrics(objective, part, prepared))
        step = combine(parts)
        for key in ("ratio_min", "ratio_max", "advantage_min", "advantage_max"):
            assert float(step[key]) == pytest.approx(whole[key]), key
