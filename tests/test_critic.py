"""Advantages, whitening and value loss: verl's numbers, and sums written out."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.aggregation import TokenMean
from unipost.critic import gae, value_loss, whiten

FOLDER = Path(__file__).parent / "fixtures" / "cases"
ARRAYS = np.load(FOLDER / "verl_gae.npz")
CASES = json.loads((FOLDER / "verl_gae.json").read_text())["cases"]
TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def inputs(case):
    return {name: ARRAYS[f"{case['case']}/in/{name}"] for name in case["inputs"]}


def verl_weights(mask, mode):
    """verl's loss_agg_mode as weights [B, T] of the per-token losses."""
    sizes, rows = mask.sum(-1, keepdims=True), (mask.sum(-1) > 0).sum()
    divisor = {
        "token-mean": mask.sum(),
        "token-sum": 1.0,
        "seq-mean-token-sum": rows,
        "seq-mean-token-mean": (sizes + 1e-8) * rows,
        "seq-mean-token-sum-norm": rows * mask.shape[-1],
    }[mode]
    return mask / divisor


@pytest.mark.parametrize(
    "case", [c for c in CASES if "gamma" in c["hyper"]], ids=lambda c: c["case"]
)
def test_golden_gae(case):
    given = inputs(case)
    advantages, returns = gae(**given, **case["hyper"])
    whitened = whiten(advantages, given["mask"])
    kept = given["mask"] > 0
    for name, got in (("advantages", whitened), ("returns", returns)):
        want = ARRAYS[f"{case['case']}/out/{name}"]
        np.testing.assert_allclose(np.array(got)[kept], want[kept], **TOLERANCE)


@pytest.mark.parametrize(
    "case", [c for c in CASES if "agg" in c["hyper"]], ids=lambda c: c["case"]
)
def test_golden_value_loss(case):
    given, hyper, want = inputs(case), case["hyper"], case["outputs"]
    weights = jnp.asarray(verl_weights(given["mask"], hyper["agg"]))
    (loss, metrics), grad = jax.value_and_grad(value_loss, has_aux=True)(
        jnp.asarray(given["values"]),
        jnp.asarray(given["old_values"]),
        jnp.asarray(given["returns"]),
        weights,
        hyper["cliprange_value"],
    )
    np.testing.assert_allclose(loss, want["loss"], **TOLERANCE)
    np.testing.assert_allclose(metrics["clip_fraction"], want["clipfrac"], **TOLERANCE)
    np.testing.assert_allclose(grad, ARRAYS[f"{case['case']}/out/grad"], **TOLERANCE)


def problem(seed, shape=(3, 2, 9)):
    """rewards, values, mask with holes and one empty row."""
    rng = np.random.default_rng(seed)
    mask = (rng.random(shape) < 0.7).astype(float)
    mask[0, 0] = 0
    return rng.normal(size=shape), rng.normal(size=shape), mask


def double_sum(rewards, values, mask, gamma, lam):
    """A_i = sum_{j >= i} (gamma lam)^(j-i) delta_j over a row's kept tokens."""
    out = np.zeros_like(values)
    for row in np.ndindex(*values.shape[:-1]):
        at = np.flatnonzero(mask[row])
        r, v = rewards[row][at], np.append(values[row][at], 0.0)
        for i in range(len(at)):
            for j in range(i, len(at)):
                delta = r[j] + gamma * v[j + 1] - v[j]
                out[row][at[i]] += (gamma * lam) ** (j - i) * delta
    return out


@pytest.mark.parametrize("gamma, lam", [(1, 1), (0.99, 0.9), (0.9, 0), (0, 0.5)])
def test_gae_is_the_discounted_sum_of_errors(gamma, lam):
    rewards, values, mask = problem(0)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    want = double_sum(rewards, values, mask, gamma, lam)
    np.testing.assert_allclose(advantages, want, **CLOSE)
    np.testing.assert_allclose(returns, want + values * mask, **CLOSE)


def test_gae_without_discount_is_reward_to_go_minus_value():
    rewards, values, mask = problem(1)
    advantages, returns = gae(rewards, values, mask)
    to_go = np.flip(np.cumsum(np.flip(rewards * mask, -1), -1), -1) * mask
    np.testing.assert_allclose(returns, to_go, **CLOSE)
    np.testing.assert_allclose(advantages, (to_go - values) * mask, **CLOSE)


def test_a_perfect_critic_leaves_no_advantage():
    rewards, _, mask = problem(2)
    _, values = gae(rewards, jnp.zeros_like(rewards), mask, 0.9)
    advantages, _ = gae(rewards, values, mask, 0.9, 0.6)
    np.testing.assert_allclose(advantages, 0.0, atol=1e-12)


def test_masked_values_are_never_read_and_batches_are_not_mixed():
    rewards, values, mask = problem(3)
    spoilt = [np.where(mask > 0, x, np.nan) for x in (rewards, values)]
    clean = gae(rewards, values, mask, 0.99, 0.95)
    for got, want in zip(gae(*spoilt, mask, 0.99, 0.95), clean, strict=True):
        np.testing.assert_array_equal(got, want)
    one = gae(rewards[1, 1], values[1, 1], mask[1, 1], 0.99, 0.95)[0]
    np.testing.assert_allclose(one, clean[0][1, 1], **CLOSE)
    np.testing.assert_array_equal(
        whiten(np.where(mask > 0, values, np.nan), mask), whiten(values, mask)
    )


def test_advantages_are_constants_and_settings_may_be_traced():
    rewards, values, mask = problem(4)

    def through(v):
        advantages, returns = gae(rewards, v, mask, 0.9, 0.9)
        return (advantages + returns).sum()

    np.testing.assert_array_equal(jax.grad(through)(values), 0.0)
    run = jax.vmap(lambda lam: gae(rewards, values, mask, 0.9, lam)[0])
    np.testing.assert_allclose(
        run(jnp.array([0.3, 0.8]))[1], gae(rewards, values, mask, 0.9, 0.8)[0], **CLOSE
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_is_kept(dtype):
    rewards, values, mask = (jnp.asarray(x, dtype) for x in problem(5))
    advantages, returns = gae(rewards, values, mask, 0.99, 0.95)
    assert advantages.dtype == returns.dtype == whiten(values, mask).dtype == dtype
    want = double_sum(*problem(5), 0.99, 0.95)
    rtol = 1e-12 if dtype == jnp.float64 else 1e-5
    np.testing.assert_allclose(advantages, want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("ddof", [0, 1])
def test_whitened_moments(ddof):
    _, values, mask = problem(6)
    got = np.array(whiten(3 * values + 7, mask, ddof, eps=0.0, count_eps=0.0))
    assert np.mean(got[mask > 0]) == pytest.approx(0, abs=1e-12)
    assert np.var(got[mask > 0], ddof=ddof) == pytest.approx(1, rel=1e-12)
    np.testing.assert_array_equal(got[mask == 0], 0.0)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("mask", [[0, 0, 0], [0, 1, 0], [1, 1, 1]])
def test_what_does_not_vary_whitens_to_zero(mask, eps):
    got = whiten(jnp.full(3, 0.1), jnp.array(mask), eps=eps)
    np.testing.assert_array_equal(got, 0.0)


def value_problem(seed):
    rewards, values, mask = problem(seed)
    old = values + np.random.default_rng(seed + 100).normal(size=values.shape)
    return values, old, rewards, TokenMean().weights(jnp.asarray(mask))


def test_value_loss_by_cases():
    """Inside the band, the clipped error larger, the plain error larger."""
    values, old = jnp.array([0.1, 1.0, 1.0]), jnp.zeros(3)
    returns, weights = jnp.array([1.0, 3.0, 0.0]), jnp.array([1.0, 1.0, 1.0])
    loss, metrics = value_loss(values, old, returns, weights, 0.2)
    assert float(loss) == pytest.approx(0.5 * (0.9**2 + 2.8**2 + 1.0), rel=1e-12)
    assert float(metrics["clip_fraction"]) == pytest.approx(1 / 3)
    grad = jax.grad(lambda v: value_loss(v, old, returns, weights, 0.2)[0])(values)
    np.testing.assert_allclose(grad, [-0.9, 0.0, 1.0], **CLOSE)


@pytest.mark.parametrize("clip", [0.2, 0.7, math.inf])
def test_value_gradient_by_central_differences(clip):
    values, old, returns, weights = value_problem(7)

    def loss(v):
        return value_loss(v, old, returns, weights, clip)[0]

    direction = np.random.default_rng(8).normal(size=values.shape)
    step = 1e-6
    difference = loss(values + step * direction) - loss(values - step * direction)
    slope = np.vdot(jax.grad(loss)(jnp.asarray(values)), direction)
    assert float(difference) / (2 * step) == pytest.approx(slope, rel=1e-7)


def test_value_loss_without_a_clip_is_regression():
    values, old, returns, weights = value_problem(9)
    loss, metrics = value_loss(values, old, returns, weights)
    want = 0.5 * np.sum(np.array(weights) * (values - returns) ** 2)
    assert float(loss) == pytest.approx(want, rel=1e-12)
    assert float(metrics["clip_fraction"]) == 0.0


def test_value_loss_adds_up_over_a_cut_batch_and_reads_no_masked_token():
    values, old, returns, weights = value_problem(10)
    whole = value_loss(values, old, returns, weights, 0.2)[0]
    parts = zip(values, old, returns, weights, strict=True)
    assert float(sum(value_loss(*part, 0.2)[0] for part in parts)) == pytest.approx(
        float(whole), rel=1e-12
    )
    spoilt = [np.where(weights > 0, x, np.nan) for x in (values, old, returns)]
    assert value_loss(*spoilt, weights, 0.2)[0] == whole
    grad = jax.grad(lambda v: value_loss(v, *spoilt[1:], weights, 0.2)[0])
    assert np.isfinite(grad(jnp.asarray(spoilt[0]))).all()


ONES = jnp.ones((2, 3))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: gae(ONES, ONES, ONES[0]), r"gae\.mask: shape \(3,\)"),
        (lambda: gae(ONES, ONES, ONES, gamma=1.1), r"gae\.gamma: 1\.1"),
        (lambda: gae(ONES, ONES, ONES, lam=-0.1), r"gae\.lam: -0\.1"),
        (lambda: whiten(ONES, ONES[0]), r"whiten\.mask"),
        (lambda: whiten(ONES, ONES, ddof=2), r"whiten\.ddof"),
        (lambda: whiten(ONES, ONES, eps=-1.0), r"whiten\.eps"),
        (lambda: value_loss(ONES, ONES, ONES, ONES[0]), r"value_loss\.weights"),
        (lambda: value_loss(ONES, ONES, ONES, ONES, 0.0), r"value_loss\.clip: 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
