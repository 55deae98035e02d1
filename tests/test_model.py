"""The transformer: one forward in several ways, and its gradient."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.model import (
    ModelConfig,
    function_policy,
    init_params,
    repeat_cache,
    transformer_policy,
)

CONFIG = ModelConfig(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
)
QWEN2 = dataclasses.replace(CONFIG, attention_bias="qkv")
LLAMA_BIAS = dataclasses.replace(CONFIG, attention_bias="qkvo")
POLICY = transformer_policy(CONFIG)
PARAMS = init_params(CONFIG, 0)
logits = jax.jit(POLICY.logits)


def loud(params):
    """Parameters scaled up, so that logits depend strongly on context."""
    return jax.tree.map(lambda x: 4 * x, params)


def rows(seed, count=5, length=9, most_padding=4):
    """Left-padded random rows, ids under the padding random too."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, CONFIG.vocab_size, (count, length))
    padding = rng.integers(0, most_padding + 1, (count, 1))
    padding[0] = 0
    return jnp.asarray(tokens), jnp.asarray(np.arange(length) >= padding)


def biased(config, seed):
    """Parameters of `config` with random biases, since they start at zero."""
    rng = np.random.default_rng(seed)
    params = init_params(config, 0)
    for part in params["blocks"].values():
        if "bias" in part:
            draw = rng.normal(size=part["bias"].shape)
            part["bias"] = jnp.asarray(draw, jnp.float32)
    return params


def slow_forward(params, tokens):
    """One unpadded row in float64 numpy loops, written from the Llama equations."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    blocks, size = p["blocks"], CONFIG.head_dim
    share = CONFIG.num_attention_heads // CONFIG.num_key_value_heads
    zero = np.zeros(CONFIG.num_hidden_layers)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.rms_norm_eps) * scale

    def turn(vector, position):
        pairs = vector[: size // 2] + 1j * vector[size // 2 :]
        angle = position / CONFIG.rope_theta ** (np.arange(0, size, 2) / size)
        pairs = pairs * np.exp(1j * angle)
        return np.concatenate([pairs.real, pairs.imag])

    x = p["embedding"][np.asarray(tokens)]
    for layer in range(CONFIG.num_hidden_layers):
        w = {
            name: leaf["scale" if "norm" in name else "kernel"][layer]
            for name, leaf in blocks.items()
        }
        b = {name: leaf.get("bias", zero)[layer] for name, leaf in blocks.items()}
        h = norm(x, w["attention_norm"])
        q, k, v = (h @ w[name] + b[name] for name in ("query", "key", "value"))
        mixed = np.zeros_like(q)
        for head in range(CONFIG.num_attention_heads):
            own = slice(head * size, (head + 1) * size)
            shared = slice(head // share * size, (head // share + 1) * size)
            for s in range(len(x)):
                query = turn(q[s, own], s)
                scores = np.array(
                    [query @ turn(k[c, shared], c) / size**0.5 for c in range(s + 1)]
                )
                weights = np.exp(scores - scores.max())
                mixed[s, own] = weights / weights.sum() @ v[: s + 1, shared]
        x = x + mixed @ w["output"] + b["output"]
        h = norm(x, w["mlp_norm"])
        gate = h @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
    return norm(x, p["norm"]["scale"]) @ p["embedding"].T


@pytest.mark.parametrize("config", [CONFIG, QWEN2, LLAMA_BIAS])
def test_forward_is_the_llama_equations(config):
    params = biased(config, 1)
    params = loud(jax.tree.map(lambda x: x.astype(jnp.float64), params))
    tokens, mask = rows(0, count=2, most_padding=0)
    got = jax.jit(transformer_policy(config).logits)(params, tokens, mask)
    assert got.dtype == jnp.float64
    for row in range(2):
        np.testing.assert_allclose(
            got[row], slow_forward(params, tokens[row]), rtol=1e-9, atol=1e-9
        )


def test_padding_and_batch_composition_change_no_number():
    tokens, mask = rows(1, count=4, most_padding=2)
    batch = logits(loud(PARAMS), tokens, mask)
    for row in range(len(tokens)):
        real = mask[row]
        alone = logits(
            loud(PARAMS), tokens[row][real][None], jnp.ones((1, int(real.sum())))
        )
        np.testing.assert_allclose(batch[row][real], alone[0], rtol=1e-5, atol=1e-5)


def test_masked_tokens_are_never_read():
    tokens, mask = rows(2)
    other = jnp.where(mask, tokens, -100)
    np.testing.assert_array_equal(
        logits(PARAMS, tokens, mask)[mask], logits(PARAMS, other, mask)[mask]
    )


def test_attention_is_causal():
    tokens, mask = rows(3, most_padding=0)
    changed = tokens.at[:, 5].set((tokens[:, 5] + 1) % CONFIG.vocab_size)
    before, after = (logits(loud(PARAMS), t, mask) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (jnp.abs(before - after)[:, 5:].max((1, 2)) > 1e-3).all()


def test_fully_masked_rows_are_finite_with_finite_gradient():
    tokens, mask = rows(4)
    mask = mask.at[2].set(False)
    value, grads = jax.jit(
        jax.value_and_grad(lambda p: POLICY.logits(p, tokens, mask).sum())
    )(PARAMS)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_ids_outside_the_vocabulary_are_seen():
    tokens, mask = rows(5, most_padding=0)
    bad = logits(PARAMS, tokens.at[0, 0].set(CONFIG.vocab_size), mask)
    assert np.isnan(bad[0]).all() and np.isfinite(bad[1:]).all()


def token_mean(params, tokens, mask):
    """A plain user model: average of the unmasked prefix, no transformer."""
    x = params["table"][tokens] * mask[..., None]
    count = jnp.maximum(jnp.cumsum(mask, 1), 1)[..., None]
    return jnp.tanh(jnp.cumsum(x, 1) / count) @ params["table"].T


TABLE = {"table": jax.random.normal(jax.random.key(1), (11, 6), jnp.float32)}


@pytest.mark.parametrize(
    "policy, params",
    [
        (POLICY, loud(PARAMS)),
        (transformer_policy(LLAMA_BIAS), biased(LLAMA_BIAS, 2)),
        (function_policy(token_mean), TABLE),
        (function_policy(POLICY.logits), loud(PARAMS)),
    ],
)
def test_decoding_is_the_full_forward(policy, params):
    tokens, mask = rows(6)
    full = jax.jit(policy.logits)(params, tokens, mask)
    got, cache = jax.jit(policy.prefill, static_argnums=3)(
        params, tokens[:, :5], mask[:, :5], 9
    )
    decode = jax.jit(policy.decode)
    np.testing.assert_allclose(got, full[:, 4], rtol=1e-5, atol=1e-5)
    for slot in range(5, 9):
        got, cache = decode(params, cache, tokens[:, slot])
        np.testing.assert_allclose(got, full[:, slot], rtol=1e-5, atol=1e-5)


def test_repeated_cache_is_the_cache_of_repeated_rows():
    tokens, mask = rows(7)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), PARAMS)
    prefill = jax.jit(POLICY.prefill, static_argnums=3)
    _, cache = prefill(params, tokens, mask, 12)
    thrice = [jnp.repeat(x, 3, axis=0) for x in (tokens, mask)]
    _, expected = prefill(params, *thrice, 12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12),
        repeat_cache(cache, 3),
        expected,
    )


def test_gradient_against_central_differences():
    tokens, mask = rows(8, count=2, length=5, most_padding=2)
    params = jax.tree.map(lambda x: 2 * x.astype(jnp.float64), PARAMS)
    weight = jax.random.normal(jax.random.key(2), (2, 5, 11), jnp.float64)

    @jax.jit
    def loss(params):
        return jnp.sum(POLICY.logits(params, tokens, mask) * weight * mask[..., None])

    grads = jax.jit(jax.grad(loss))(params)
    draws = np.random.default_rng(3)
    step = 1e-5
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        aim = draws.normal(size=leaf.shape)
        aim /= np.linalg.norm(aim)

        def shift(place, x, distance, path=path, aim=aim):
            return x + distance * aim if place == path else x

        slope = sum(
            np.vdot(g, aim)
            for p, g in jax.tree_util.tree_leaves_with_path(grads)
            if p == path
        )
        ahead, behind = (
            loss(jax.tree_util.tree_map_with_path(partial(shift, distance=d), params))
            for d in (step, -step)
        )
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize(
    "given, computed",
    [
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64),
    ],
)
def test_numbers_follow_the_parameters_dtype(given, computed):
    params = jax.tree.map(lambda x: x.astype(given), PARAMS)
    tokens, mask = rows(9)
    assert logits(params, tokens, mask).dtype == computed
    out, cache = jax.eval_shape(lambda p: POLICY.prefill(p, tokens, mask, 10), params)
    assert out.dtype == computed
    assert {x.dtype for x in jax.tree.leaves(cache.stacked)} == {jnp.dtype(computed)}
    grads = jax.eval_shape(
        jax.grad(lambda p: POLICY.logits(p, tokens, mask).sum()), params
    )
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(given)}


def test_64_bit_mode_changes_no_float32_number():
    tokens, mask = (np.asarray(x) for x in rows(10))
    wide = np.asarray(logits(init_params(CONFIG, 3), tokens, mask))
    with jax.enable_x64(False):
        narrow = np.asarray(logits(init_params(CONFIG, 3), tokens, mask))
    np.testing.assert_allclose(wide, narrow, rtol=1e-6, atol=1e-7)


def test_eight_devices_give_the_numbers_of_one():
    tokens, mask = rows(11, count=16)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    apart = logits(PARAMS, *(jax.device_put(x, spread) for x in (tokens, mask)))
    assert len(apart.sharding.device_set) == 8
    np.testing.assert_allclose(apart, logits(PARAMS, tokens, mask), atol=1e-6)


def test_vmap_over_parameters():
    tokens, mask = rows(12)
    seeds = [init_params(CONFIG, seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *seeds)
    both = jax.jit(jax.vmap(POLICY.logits, (0, None, None)))(stacked, tokens, mask)
    for got, params in zip(both, seeds, strict=True):
        np.testing.assert_allclose(got, logits(params, tokens, mask), atol=1e-6)


def test_initial_parameters():
    again, other = init_params(CONFIG, 0), init_params(CONFIG, 1)
    jax.tree.map(np.testing.assert_array_equal, PARAMS, again)
    kernel = PARAMS["blocks"]["query"]["kernel"]
    assert kernel.shape == (2, 16, 16) and kernel.dtype == jnp.float32
    assert not np.allclose(kernel, other["blocks"]["query"]["kernel"])
    assert not np.allclose(kernel[0], kernel[1])
    np.testing.assert_allclose(kernel.std(), 16**-0.5, rtol=0.1)
    assert "head" not in PARAMS
    assert "bias" not in PARAMS["blocks"]["query"]
    blocks = init_params(QWEN2, 0)["blocks"]
    assert {name for name, part in blocks.items() if "bias" in part} == {
        "query",
        "key",
        "value",
    }
    assert blocks["key"]["bias"].shape == (2, 8) and not blocks["key"]["bias"].any()
    np.testing.assert_array_equal(blocks["query"]["kernel"], kernel)
    untied = dataclasses.replace(CONFIG, tie_word_embeddings=False)
    shapes = jax.eval_shape(lambda: init_params(untied, 0))
    assert shapes["head"]["kernel"].shape == (16, 11)
    assert float(jnp.abs(logits(PARAMS, *rows(13))).max()) < 0.5


def test_one_config_is_one_policy():
    # also after many others: a second object of one config would compile again
    for width in range(1, 100):
        transformer_policy(dataclasses.replace(CONFIG, vocab_size=11 + width))
    assert transformer_policy(dataclasses.replace(CONFIG)) is POLICY


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("num_key_value_heads", 3, "divisor of num_attention_heads"),
        ("head_dim", 5, "even"),
        ("vocab_size", 0, "positive integer"),
        ("hidden_size", 16.0, "positive integer"),
        ("rope_theta", 0.0, "> 0"),
        ("attention_bias", True, "one of none, qkv, qkvo"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(field, value, words):
    with pytest.raises(ValueError, match=f"ModelConfig.{field} .*{words}") as error:
        dataclasses.replace(CONFIG, **{field: value})
    assert "\n" not in str(error.value)


def test_too_many_positions_are_refused():
    tokens = jnp.zeros((1, 513), int)
    with pytest.raises(ValueError, match="513 positions exceed .*512"):
        POLICY.logits(PARAMS, tokens, tokens == 0)
    with pytest.raises(ValueError, match="cache_length 3 is shorter"):
        POLICY.prefill(PARAMS, tokens[:, :9], tokens[:, :9], 3)
