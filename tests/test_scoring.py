"""Scoring against plain log-softmax, chunked and not, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost import head as head_module
from unipost.head import read
from unipost.model import (
    ModelConfig,
    function_policy,
    init_params,
    transformer_policy,
)
from unipost.scoring import EXTRAS, score

CONFIG = ModelConfig(
    vocab_size=13,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
)
POLICY = transformer_policy(CONFIG)
PARAMS = jax.tree.map(lambda x: 4 * x.astype(jnp.float64), init_params(CONFIG, 0))
fast = jax.jit(score, static_argnums=0, static_argnames=("extras", "chunk"))


def batch(seed, rows=4, prompt=5, response=7):
    """Left-padded prompts and right-padded responses, garbage under the masks."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 13, (rows, prompt))
    y = rng.integers(0, 13, (rows, response))
    x_mask = np.arange(prompt) >= rng.integers(0, prompt, (rows, 1))
    y_mask = np.arange(response) < rng.integers(0, response + 1, (rows, 1))
    y_mask[0], y_mask[1] = True, False
    return [
        jnp.asarray(a)
        for a in (x, x_mask, np.where(y_mask, y, -100), y_mask.astype(np.float32))
    ]


def by_hand(params, x, x_mask, y, y_mask):
    """Log-probs and lse of every row: prompt and response joined without a gap."""
    logits = jax.jit(POLICY.logits)
    for row in range(len(x)):
        prompt, response = x[row][x_mask[row] > 0], y[row][y_mask[row] > 0]
        text = np.zeros(x.shape[1] + y.shape[1], int)
        length = len(prompt) + len(response)
        text[:length] = np.concatenate([prompt, response])
        z = np.asarray(logits(params, text[None], np.arange(len(text))[None] < length))
        z = z[0, len(prompt) - 1 : length - 1]
        lse = np.log(np.exp(z).sum(-1, keepdims=True))
        yield z - lse, lse[:, 0], np.asarray(response)


def test_scores_are_log_softmax_of_each_row_alone():
    data = batch(0)
    got = fast(POLICY, PARAMS, *data, extras=EXTRAS)
    for row, (logps, lse, response) in enumerate(by_hand(PARAMS, *data)):
        n = len(response)
        expected = {
            "logps": logps[np.arange(n), response],
            "vocab": logps,
            "lse": lse,
            "entropy": -(np.exp(logps) * logps).sum(-1),
            "collision": np.log(np.exp(2 * logps).sum(-1)),
        }
        for name, value in expected.items():
            field = np.asarray(getattr(got, name)[row])
            np.testing.assert_allclose(field[:n], value, rtol=1e-9, atol=1e-12)
            assert (field[n:] == 0).all()


def test_extras_are_computed_only_when_named():
    data = batch(1)
    assert fast(POLICY, PARAMS, *data)[1:] == (None,) * len(EXTRAS)
    only = fast(POLICY, PARAMS, *data, extras=("lse",))
    assert only.lse is not None and only.entropy is None and only.vocab is None


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_change_no_value_and_no_gradient(chunk):
    data = batch(2)

    def total(params, chunk):
        extras = ("entropy", "collision")
        scores = score(POLICY, params, *data, extras=extras, chunk=chunk)
        assert scores.entropy is not None and scores.collision is not None
        total = jnp.sin(scores.logps) + scores.entropy + scores.collision**2
        return jnp.sum(total), scores

    both = [
        jax.jit(jax.grad(total, has_aux=True), static_argnums=1)(PARAMS, c)
        for c in (chunk, 7)
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *both
    )


def test_automatic_chunk_bounds_the_logits(monkeypatch):
    data = batch(3, response=17)
    plain = fast(POLICY, PARAMS, *data)
    # two columns of four rows; 17 columns are worth a loop, at hidden size 16
    monkeypatch.setattr(head_module, "LOGITS_BYTES", 4 * 13 * 2 * 8)
    seen = []

    def head(params, hidden):
        seen.append(hidden.shape[:-1])
        return POLICY.head(params, hidden)

    watched = type(POLICY)(POLICY.hidden, head, POLICY.prefill, POLICY.decode)
    got = fast(watched, PARAMS, *data)
    assert seen[1:] and set(seen[1:]) == {(4, 2)}
    np.testing.assert_allclose(got.logps, plain.logps, rtol=1e-9)


def test_logits_are_formed_for_responses_only():
    widths = []

    def head(params, hidden):
        widths.append(hidden.shape[1])
        return POLICY.head(params, hidden)

    watched = type(POLICY)(POLICY.hidden, head, POLICY.prefill, POLICY.decode)
    fast(watched, PARAMS, *batch(4))
    assert set(widths) == {7}


def test_masked_tokens_pass_no_gradient():
    data = batch(5)
    x, x_mask, y, y_mask = data

    @jax.jit
    @jax.grad
    def grad(params, y, y_mask):
        return jnp.sum(score(POLICY, params, x, x_mask, y, y_mask).logps)

    grads = grad(PARAMS, y, y_mask)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    other = grad(PARAMS, jnp.where(y_mask > 0, y, 3), y_mask)
    jax.tree.map(np.testing.assert_array_equal, grads, other)
    none = grad(PARAMS, y, 0 * y_mask)
    assert all((g == 0).all() for g in jax.tree.leaves(none))


def test_function_policy_scores_like_the_transformer():
    data = batch(6)
    wrapped = function_policy(POLICY.logits)
    for got, expected in zip(
        fast(wrapped, PARAMS, *data, extras=EXTRAS, chunk=3),
        fast(POLICY, PARAMS, *data, extras=EXTRAS),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_forbidden_tokens_leave_entropy_and_its_gradient_finite():
    x, x_mask, y, y_mask = batch(7)
    y, y_mask = 0 * y, jnp.ones_like(y_mask)
    ban = jnp.where(jnp.arange(13) < 4, 0.0, -jnp.inf)
    policy = function_policy(
        lambda p, tokens, mask: POLICY.logits(p, tokens, mask) + ban
    )

    @jax.jit
    @jax.value_and_grad
    def total(params):
        scores = score(policy, params, x, x_mask, y, y_mask, extras=("entropy",))
        assert scores.entropy is not None
        return jnp.sum(scores.entropy)

    value, grads = total(PARAMS)
    assert 0 < value <= y.size * np.log(4)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_collisions_of_large_logits_keep_their_digits():
    """float32 logits of a few hundred: log sum p^2 is of log p, not of the logits."""
    z = np.random.default_rng(0).normal(size=(1, 4, 13)) + 300.0
    mask, tokens = jnp.ones((1, 4), bool), jnp.zeros((1, 4), int)
    got = read(jnp.asarray(z, jnp.float32), tokens, mask, ("collision",))
    p = np.exp(z - np.log(np.exp(z - 300).sum(-1, keepdims=True)) - 300)
    assert got.collision is not None
    np.testing.assert_allclose(got.collision, np.log((p**2).sum(-1)), rtol=1e-4)
    assert got.collision.dtype == jnp.float32
    sure = read(1e4 * jnp.eye(4)[None], tokens, mask, ("collision",))
    assert np.isfinite(sure.collision).all()


def test_float32_parameters_give_float32_scores():
    params = jax.tree.map(lambda x: x.astype(jnp.float32), PARAMS)
    got = fast(POLICY, params, *batch(8), extras=EXTRAS)
    assert {x.dtype for x in got} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(extras=("entropi",)), "entropi.*out of entropy, lse, vocab"),
        (dict(extras="lse"), "give a tuple"),
        (dict(chunk=0), "chunk is 0"),
        (dict(prompt=jnp.zeros((4, 6), int)), r"prompt \(4, 6\) and its mask \(4, 5\)"),
        (dict(prompt=jnp.zeros((4, 0)), prompt_mask=jnp.zeros((4, 0))), "at least one"),
        (
            dict(prompt=jnp.zeros((2, 5), int), prompt_mask=jnp.ones((2, 5))),
            "2 prompt rows but 4 response rows",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, words):
    fields = "prompt", "prompt_mask", "response", "response_mask"
    arguments = dict(zip(fields, batch(9), strict=True)) | change
    with pytest.raises(ValueError, match=f"^score: .*{words}"):
        score(POLICY, PARAMS, **arguments)
