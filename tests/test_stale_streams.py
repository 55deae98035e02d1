"""Ratios and corrections of stale rollouts, from YAML, against numpy by loops.

Four log-probs per token: the policy's, those of the snapshot `old`, those of the
sampler (`behavior`, NaN where it did not tell), those of the reference.
"""

from dataclasses import replace

import jax
import numpy as np
import oracle_mixing as oracle
import pytest
from mixed_batches import batch_of, mixed, streams_of
from oracle_mixing import clipped, groups, mean

from unipost.choices import REGISTRIES
from unipost.config import CHOICES, build
from unipost.objectives import AnyObjective
from unipost.tree import load_tree

CHOICES.update(REGISTRIES)


def stale(seed=0):
    """Own rows alone; one row's sampler has told nothing, one token's neither."""
    data = mixed(seed, spread=0.4)
    behavior = data.behavior.copy()
    behavior[2, 1] = behavior[4, 2, 1] = np.nan
    off = np.zeros_like(data.off)
    return replace(data, behavior=behavior, off=off)


def sampled(data, i):
    """log old/behavior of a token, 0 where the sampler did not tell."""
    gap = data.old[i] - data.behavior[i]
    return 0.0 if np.isnan(gap) else gap


def of_row(data, i):
    return sum(sampled(data, j) for j in data.tokens([i[:2]]))


def naive(data, low=0.2, high=0.2):
    """PPO's clip on policy/behavior: verl's bypass, the sampler for the snapshot."""
    adv, total = groups(data, data.own, "z"), []
    for i in data.tokens(data.all_own):
        sampler = data.behavior[i]
        told = data.held[i] if np.isnan(sampler) else sampler
        total.append(clipped(adv[i[:2]], np.exp(data.logp[i] - told), low, high))
    return mean(total)


def corrected(data, weight, low=0.2, high=0.2):
    """w times PPO's clip on policy/old, token mean."""
    adv, total = groups(data, data.own, "z"), []
    for i in data.tokens(data.all_own):
        u = np.exp(data.logp[i] - data.old[i])
        total.append(weight(data, i) * clipped(adv[i[:2]], u, low, high))
    return mean(total)


def truncated(cap, level=sampled):
    return lambda data, i: min(np.exp(level(data, i)), cap)


def masked(cap, floor=0.0, level=sampled):
    def weight(data, i):
        w = np.exp(level(data, i))
        return w if floor <= w <= cap else 0.0

    return weight


def entropic(data, share, kind="z"):
    """The highest `share` of entropies of the whole batch, at the present policy."""
    tokens = data.tokens(data.all_own)
    least = np.quantile([data.still[i] for i in tokens], 1 - share)
    adv = groups(data, data.own, kind)
    return mean(
        [
            clipped(adv[i[:2]], np.exp(data.logp[i] - data.old[i]), 0.2, 0.2)
            * (data.still[i] >= least)
            for i in tokens
        ]
    )


def k1_in_reward(data, kl):
    """r - kl sum_t log old/ref before the advantage, mean of rows of token means."""
    rewards = data.rewards.copy()
    for row in data.all_own:
        rewards[row] -= kl * sum(data.old[i] - data.ref[i] for i in data.tokens([row]))
    adv = groups(replace(data, rewards=rewards), data.own, "z")
    rows = []
    for row in data.all_own:
        tokens = data.tokens([row])
        rows.append(
            mean(
                [
                    clipped(adv[row], np.exp(data.logp[i] - data.old[i]), 0.2, 0.2)
                    for i in tokens
                ]
            )
        )
    return mean(rows)


TIS = "{name: dapo, high: 0.2, corrections: [{name: sampler_correction, "
YAML = {
    "{name: dapo, high: 0.2, anchor: behavior}": naive,
    "{name: tis, cap: 1.2}": lambda x: corrected(x, truncated(1.2)),
    "{name: tis, cap: 1.3, level: sequence}": (
        lambda x: corrected(x, truncated(1.3, of_row))
    ),
    "{name: masked_is, cap: 1.5, floor: 0.6}": (
        lambda x: corrected(x, masked(1.5, 0.6, of_row))
    ),
    "{name: masked_is, cap: 1.3, level: token}": lambda x: corrected(x, masked(1.3)),
    "{name: decoupled_ppo}": lambda x: corrected(x, truncated(np.inf)),
    TIS + "weight: {name: truncate, cap: 1.5}}]}": (
        lambda x: corrected(x, truncated(1.5))
    ),
    TIS + "weight: {name: mask, cap: 2.0, floor: 0.5}, level: sequence}]}": (
        lambda x: corrected(x, masked(2.0, 0.5, of_row))
    ),
    "{name: dapo, high: 0.2, corrections: [{name: top_entropy, share: 0.3}]}": (
        lambda x: entropic(x, 0.3)
    ),
    "{name: grpo, kl: 0.3, estimator: in_reward}": lambda x: k1_in_reward(x, 0.3),
}


@pytest.mark.parametrize("text", YAML)
def test_an_objective_on_stale_rollouts(text, tmp_path):
    (tmp_path / "x.yaml").write_text(f"objective: {text}\n")
    tree = load_tree(tmp_path / "x.yaml")
    objective = build(AnyObjective, tree["objective"], "objective")
    data, loss = stale(len(text)), YAML[text]
    batch = replace(batch_of(data, True), off_policy=None)
    value, grads = jax.value_and_grad(lambda s: objective(s, batch)[0])(
        streams_of(data)
    )
    assert float(value) == pytest.approx(float(np.real(loss(data))), rel=1e-11)
    want = oracle.slopes(loss, data)[0]
    np.testing.assert_allclose(grads.policy, want, rtol=0, atol=1e-12)
    assert np.abs(want).max() > 1e-3


def test_corrections_leave_demonstrations_alone():
    """A demonstration whose sampler nobody knows has weight 1, own rows theirs."""
    tree = {"name": "luffy", "max_length": 9.0, "corrections": ["sampler_correction"]}
    objective = build(AnyObjective, tree)
    data = mixed(21)
    behavior = data.behavior.copy()
    behavior[:, 4] = np.nan
    data = replace(data, behavior=behavior)
    adv = groups(data, oracle.union(data), "mean")
    batch = batch_of(data, True)
    grad = jax.grad(lambda s: objective(s, batch)[0])(streams_of(data)).policy
    for i in data.tokens(data.all_own) + data.shown:
        p, u = np.exp(data.logp[i]), np.exp(data.logp[i] - data.old[i])
        weight = min(np.exp(sampled(data, i)), 2.0) * u
        if data.off[i]:
            weight = 0.1 * p / (p + 0.1) ** 2
        want = -weight * adv[i[:2]] / 9.0
        assert grad[i] == pytest.approx(want, rel=1e-11, abs=1e-15)


def test_on_policy_every_ratio_is_one():
    """Policy, snapshot and sampler equal: all corrections are the uncorrected loss."""
    data = stale(7)
    data = replace(data, old=data.logp, behavior=data.logp)
    batch = replace(batch_of(data, True), off_policy=None)
    want = None
    for tree in ({"name": "dapo"}, {"name": "tis"}, {"name": "decoupled_ppo"}):
        objective = build(AnyObjective, tree | {"signal": {"name": "mean"}})
        value, grads = jax.value_and_grad(lambda s, o=objective: o(s, batch)[0])(
            streams_of(data)
        )
        want = want or (float(value), np.asarray(grads.policy))
        assert float(value) == pytest.approx(want[0], abs=1e-15)
        np.testing.assert_allclose(grads.policy, want[1], atol=1e-15)
