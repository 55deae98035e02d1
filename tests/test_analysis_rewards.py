"""Implicit rewards, logits as Q-functions, gradient coefficients over data."""

import numpy as np
import pytest
from tiny_models import TRANSFORMER, forward, rows_and_batch

from unipost import presets
from unipost.analysis import (
    bimodality,
    coefficient_histogram,
    coefficients,
    compare,
    implicit_rewards,
    log_histogram,
    probability_histogram,
    soft_q,
    step_rewards,
    telescoping_error,
)
from unipost.classical import ForwardKL, JensenShannon

ROWS, BATCH = rows_and_batch("grpo")
BASE, TUNED = TRANSFORMER.reference, TRANSFORMER.params
FOUND = compare(TRANSFORMER.policy, BASE, TUNED, ROWS)
MASK = np.asarray(ROWS.response_mask)


def test_implicit_rewards_of_every_token():
    """beta log u for reverse KL; f' of the others by their formulas, 0 at u = 1."""
    log_u = (
        forward(TUNED, ROWS, TRANSFORMER.policy).policy
        - forward(BASE, ROWS, TRANSFORMER.policy).policy
    )
    log_u = np.where(MASK, np.asarray(log_u), 0.0)
    found = implicit_rewards(FOUND, beta=0.3)
    np.testing.assert_allclose(found, 0.3 * log_u, atol=1e-12)
    found = implicit_rewards(FOUND, ForwardKL(), 2.0)
    np.testing.assert_allclose(found, 2 * (1 - np.exp(-log_u)), atol=1e-9)
    found = implicit_rewards(FOUND, JensenShannon())
    u = np.exp(log_u)
    np.testing.assert_allclose(found, np.log(2 * u / (1 + u)), atol=1e-9)


def test_logits_are_soft_q_values():
    """sum (Q - V) = log p, and the rewards telescope to log p + V(s_1)."""
    logps = forward(TUNED, ROWS, TRANSFORMER.policy).policy
    found = soft_q(FOUND.tuned, FOUND.mask)
    assert telescoping_error(found, logps, MASK) < 1e-12
    # V(s_t+1) by its definition, along one whole response
    v, last = found.v[0, 0], MASK[0, 0].sum() - 1
    assert last >= 3
    ahead = found.q[0, 0, :last] - v[1 : last + 1]
    np.testing.assert_allclose(found.reward[0, 0, :last], ahead, rtol=1e-12)
    assert found.reward[0, 0, last] == pytest.approx(found.q[0, 0, last])
    wrong = found._replace(v=found.v + 1e-3)
    assert telescoping_error(wrong, logps, MASK) > 1e-4


def test_rewards_of_steps():
    """A step ends where its separator ends, also one of two tokens."""
    pieces = ["a", "b\n", "c", "\n", "\n", "d"]
    found = step_rewards([1, 2, 3, 4, 5, 6], pieces)
    assert found.spans == [(0, 2), (2, 4), (4, 5), (5, 6)]
    assert found.rewards.tolist() == [3, 7, 5, 6]
    two = step_rewards([1, 2, 3, 4, 5, 6], pieces, "\n\n")
    assert two.spans == [(0, 5), (5, 6)]
    assert step_rewards([], []).spans == []
    with pytest.raises(ValueError, match="1 rewards, 2 pieces"):
        step_rewards([1], ["a", "b"])


def test_histogram_in_log_bins():
    """Decades 0.01 ... 1 with what lies beyond at the ends, zeros apart."""
    found = log_histogram([0, 0.001, 0.01, 0.05, 0.1, 1, 7], 0.01, 1.0, 2)
    np.testing.assert_allclose(found.edges, [0.01, 0.1, 1.0])
    assert found.counts.tolist() == [3, 3] and found.zeros == 1
    np.testing.assert_allclose(found.shares, [3 / 7, 3 / 7])
    with pytest.raises(ValueError, match="below 0"):
        log_histogram([-1.0], 0.1, 1.0)
    with pytest.raises(ValueError, match="0 < low < high"):
        log_histogram([1.0], 1.0, 1.0)


def test_probabilities_of_a_data_set():
    """Tokens of probability 1, 0.5, 1e-5 and 0; the mask leaves one out."""
    logps = np.array([[0.0, np.log(0.5), np.log(1e-5), -2000.0, -1.0]])
    mask = np.array([[1, 1, 1, 1, 0]])
    found = probability_histogram(logps, mask)
    assert found.counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert bimodality(found) == 1.0


def test_coefficients_of_grpo_are_its_advantages():
    """On policy and without a penalty, every token's GC is its advantage."""
    objective = presets.grpo(kl=None)
    args = TRANSFORMER.policy, TUNED, BASE, ROWS, BATCH
    values, logps = coefficients(objective, *args)
    rewards = np.asarray(BATCH.rewards)
    full = MASK.any(-1)
    for p in range(len(rewards)):
        own = rewards[p][full[p]]
        advantage = (rewards[p] - own.mean()) / (own.std(ddof=1) + 1e-6)
        expected = np.where(MASK[p], advantage[:, None], 0.0)
        np.testing.assert_allclose(values[p], expected, atol=1e-6)
    np.testing.assert_allclose(logps[MASK], FOUND.tuned.logp[MASK], rtol=1e-9)
    found = coefficient_histogram(values, MASK)
    kept = values[MASK]
    assert found.raised.counts.sum() == (kept > 0).sum() > 0
    assert found.lowered.counts.sum() == (kept < 0).sum() > 0
    assert found.raised.zeros == found.lowered.zeros == (kept == 0).sum()
