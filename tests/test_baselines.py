"""Baselines of a policy gradient: their definitions, and the cases they reduce to."""

import jax.numpy as jnp
import numpy as np
import pytest

from unipost import Batch
from unipost.baselines import (
    BestResponse,
    GreedyBaseline,
    InformativeMean,
    LengthWeighted,
    Whitened,
)
from unipost.objective import Objective
from unipost.signals import LeaveOneOut, Mean, ZScore

CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def outcome(signal, rewards, mask=None, **fields):
    rewards = jnp.asarray(rewards, float)
    mask = jnp.ones((*rewards.shape, 3)) if mask is None else jnp.asarray(mask)
    batch = Batch(mask=mask, rewards=rewards, **fields)
    return np.array(Objective(signal=signal).advantage(batch))


def test_length_weighted_baseline():
    mask = np.arange(4) < np.array([[1, 3, 0], [2, 2, 4]])[..., None]
    rewards = [[1.0, 5.0, 9.0], [1.0, 2.0, np.nan]]
    got = outcome(LengthWeighted(), rewards, mask)[..., 0]
    np.testing.assert_allclose(got[0, :2], [1 - 4, 5 - 4])  # (1 + 15) / 4
    np.testing.assert_allclose(got[1], [-0.5, 0.5, 0.0])
    # equal lengths: the group's mean
    even = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(
        outcome(LengthWeighted(), even), outcome(Mean(), even), **CLOSE
    )
    lone = [[2.0, np.nan]]
    np.testing.assert_allclose(outcome(LengthWeighted(), lone)[0, 0], 0.0)
    kept = outcome(LengthWeighted(alone="reward"), lone)[0]
    np.testing.assert_allclose(kept, [[2.0] * 3, [0.0] * 3])


def test_length_weighted_baseline_has_least_variance():
    """d/db sum_i n_i (r_i - b)^2 = 0: the variance for independent unit scores."""
    mask = np.arange(6) < np.array([[1, 4, 6, 2]])[..., None]
    rewards = np.array([[0.3, 1.0, -0.5, 2.0]])
    advantage = outcome(LengthWeighted(), rewards, mask)[..., 0]
    np.testing.assert_allclose((mask.sum(-1) * advantage).sum(), 0.0, atol=1e-12)


def test_greedy_baseline():
    baseline = jnp.array([[0.5, 0.5]])
    got = outcome(GreedyBaseline(), [[1.0, np.nan]], baseline=baseline)
    np.testing.assert_allclose(got[0], [[0.5] * 3, [0.0] * 3])
    steps = jnp.array([[[1.0, 2.0, 4.0]]])
    batch = Batch(mask=jnp.ones((1, 1, 3)), rewards=steps, baseline=jnp.ones((1, 1)))
    got = Objective(signal=GreedyBaseline()).advantage(batch)
    np.testing.assert_allclose(got[0, 0], [6.0, 5.0, 3.0])


def test_best_response():
    rewards = [[1.0, 3.0, np.nan, 2.0], [1.0, 1.0, 0.0, 0.0]]
    plain = outcome(BestResponse(scale="none"), rewards)[..., 0]
    np.testing.assert_allclose(plain, [[0, 1, 0, 0], [0, 0, 0, 0]])
    scaled = outcome(BestResponse(eps=0.0), rewards)[..., 0]
    np.testing.assert_allclose(scaled, plain)  # the deviation of 1, 2, 3 is 1
    assert np.all(outcome(BestResponse(), [[2.0, np.nan]]) == 0.0)
    # two responses: the better one's leave-one-out advantage
    pair = [[0.3, 1.1]]
    got = outcome(BestResponse(scale="none"), pair)
    want = np.maximum(outcome(LeaveOneOut(), pair), 0.0)
    np.testing.assert_allclose(got, want, **CLOSE)


def test_informative_mean():
    """Groups of equal rewards take no part: as if they had not been sampled."""
    rewards = [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, np.nan], [1.0, 1.0, 0.0]]
    got = outcome(InformativeMean(), rewards)
    want = outcome(Mean(), rewards) * 11 / 6
    np.testing.assert_allclose(got, want, **CLOSE)
    by_reward = outcome(InformativeMean(2.0, "rewards"), rewards)
    np.testing.assert_allclose(by_reward, outcome(Mean(), rewards) * 11 / 6 / 2)
    assert np.all(outcome(InformativeMean(), [[1.0, 1.0]]) == 0.0)


def test_whitened():
    rng = np.random.default_rng(1)
    mask, rewards = rng.random((3, 4, 6)) < 0.7, rng.normal(size=(3, 4))
    got = outcome(Whitened(ZScore()), rewards, mask)[mask]
    np.testing.assert_allclose(got.mean(), 0.0, atol=1e-7)
    np.testing.assert_allclose(got.std(ddof=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "signal", [LengthWeighted(), BestResponse(), InformativeMean()]
)
def test_step_rewards_are_refused(signal):
    batch = Batch(mask=jnp.ones((1, 2, 3)), rewards=jnp.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="write \\[prompts, group\\]"):
        Objective(signal=signal).advantage(batch)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="best_response.eps: -1 is negative"):
        BestResponse(-1.0)
    with pytest.raises(ValueError, match="informative_mean.norm: 0 is not positive"):
        InformativeMean(0.0)
