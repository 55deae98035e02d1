"""Ragged batches of own samples and a demonstration, for tests of recipes that mix."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracle_mixing as oracle
import pytest
from oracle_mixing import Mixed

from unipost import Batch, Streams


def mixed(seed=0, prompts=5, group=5, tokens=6, prefix=False, spread=0.5):
    """Rows 0..3 are the policy's, row 4 is a demonstration (or begins with one)."""
    rng = np.random.default_rng(seed)
    shape = (prompts, group, tokens)
    lengths = rng.integers(2, tokens + 1, shape[:2])
    lengths[0, 1] = 0
    mask = (np.arange(tokens) < lengths[..., None]).astype(float)
    rewards = rng.choice([0.0, 1.0], shape[:2])
    rewards[1], rewards[1, 4] = 0.0, 1.0  # a question that the policy fails
    rewards[2] = 1.0  # and one that it has solved
    rewards[3, 0] = np.nan
    off = np.zeros(shape, bool)
    ends = rng.integers(1, 3, (prompts, 1)) if prefix else tokens
    off[:, -1] = np.arange(tokens) < ends
    base = -rng.gamma(2.0, 0.5, shape) - 0.1

    def near():
        return np.minimum(base + spread * rng.normal(size=shape), -0.02)

    behavior = near()
    behavior[0, -1] = np.nan  # nobody knows who wrote this one
    return Mixed(
        logp=near(),
        mask=mask,
        rewards=rewards,
        old=near(),
        ref=near(),
        behavior=behavior,
        off=off,
        entropy=rng.uniform(0.1, 2.0, shape),
    )


def batch_of(data, flat=False):
    """The batch, with NaN where the mask is 0; `flat`: flags of rows."""
    dirty = np.where(data.mask > 0, 0.0, np.nan)
    off = data.off[..., 0] if flat else data.off
    return Batch(
        mask=jnp.asarray(data.mask),
        rewards=jnp.asarray(data.rewards),
        old=jnp.asarray(data.old + dirty),
        reference=jnp.asarray(data.ref + dirty),
        behavior=jnp.asarray(data.behavior + dirty),
        off_policy=jnp.asarray(off),
    )


def streams_of(data):
    return Streams(policy=jnp.asarray(data.logp), entropy=jnp.asarray(data.entropy))


def value_and_grad(objective, data, batch):
    def loss(streams):
        return objective(streams, batch)[0]

    value, grads = jax.value_and_grad(loss)(streams_of(data))
    return float(value), grads


def agrees(objective, data, loss, flat=False):
    """Loss and gradients equal those of the oracle."""
    value, grads = value_and_grad(objective, data, batch_of(data, flat))
    assert value == pytest.approx(float(np.real(loss(data))), rel=1e-11, abs=1e-13)
    for got, want in zip(
        (grads.policy, grads.entropy), oracle.slopes(loss, data), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def with_rewards(value):
    """Every own row of every group has this reward."""

    def changed(data):
        rewards = data.rewards.copy()
        rewards[:, :-1] = value
        return replace(data, rewards=rewards)

    return changed


def without(rows):
    """A batch whose groups lack these rows."""

    def changed(data):
        mask = data.mask.copy()
        mask[:, rows] = 0.0
        return replace(data, mask=mask)

    return changed


def with_two_demonstrations(data):
    off = data.off.copy()
    off[:, -2] = off[:, -1]
    return replace(data, off=off)


def weights(objective, data, flat=True):
    """-d loss / d log pi [P, G, T]."""
    return -np.asarray(value_and_grad(objective, data, batch_of(data, flat))[1].policy)
