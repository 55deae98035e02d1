"""Parts of the transformer beyond Llama's: kinds of layers, packing, cache, compute."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.model import (
    Compute,
    Experts,
    LinearRope,
    Llama3Rope,
    ModelConfig,
    experts,
    init_params,
    insert_cache,
    layers,
    repeat_cache,
    share_cache,
    transformer_policy,
)
from unipost.model.transformer import Transformer

BASE = ModelConfig(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=4,
    head_dim=6,
)
RICH = replace(
    BASE,
    layer_types=("sliding", "full", "sliding", "full"),
    sliding_window=4,
    local_rope_theta=100.0,
    no_rope_layers=(3,),
    norms="both",
    norm_offset=1.0,
    qk_norm="head",
    attention_softcap=3.0,
    logit_softcap=2.0,
    embedding_scale=24**0.5,
    attention_bias="qkvo",
    mlp_bias=True,
    activation="gelu_tanh",
    rotary_dim=4,
    rope_scaling=Llama3Rope(4.0, 1.0, 4.0, 16),
)
EXPERTS = replace(BASE, experts=Experts(4, 2), qk_norm="width", norms="after")
CONFIGS = {"base": BASE, "rich": RICH, "experts": EXPERTS}


def params_of(config, dtype=np.float64):
    """Parameters drawn wide, so that every part matters; float64 unless asked."""
    rng = np.random.default_rng(7)

    def wider(x):
        return jnp.asarray(2 * np.asarray(x) + 0.3 * rng.normal(size=x.shape), dtype)

    return jax.tree.map(wider, init_params(config, 0))


def rows(count, length, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 50, (count, length)))


@pytest.fixture(params=CONFIGS)
def model(request):
    config = CONFIGS[request.param]
    return config, transformer_policy(config), params_of(config)


def test_packed_texts_are_the_texts_alone(model):
    _, policy, params = model
    lengths = [5, 9, 1, 7]
    tokens = rows(4, 9)
    packed = jnp.concatenate([row[:n] for row, n in zip(tokens, lengths, strict=True)])
    segments = jnp.repeat(jnp.arange(1, 5), jnp.asarray(lengths))
    packed, segments = (jnp.pad(x, (0, 3))[None] for x in (packed, segments))
    got = jax.jit(policy.logits)(params, packed, segments)[0]
    # causal: what follows a text's end does not change it
    alone = jax.jit(policy.logits)(params, tokens, jnp.ones((4, 9), bool))
    start = 0
    for row, n in zip(alone, lengths, strict=True):
        np.testing.assert_allclose(got[start : start + n], row[:n], atol=1e-10)
        start += n


def test_turned_rows_are_the_rows(model):
    config, policy, params = model
    tokens = rows(3, 10)
    mask = jnp.asarray([[0] * 3 + [1] * 7, [1] * 6 + [0] * 4, [0] * 2 + [1] * 8]) > 0
    got = Transformer(config, Compute()).aligned_hidden(params, tokens, mask)
    want = policy.hidden(params, tokens, mask)
    np.testing.assert_allclose(got[mask], want[mask], atol=1e-10)


def test_decoding_goes_round_the_cache_with_rows_put_in(model):
    """Rows of two prompts; the second is replaced when the ring is about to turn."""
    _, policy, params = model
    texts = rows(3, 14, seed=3)
    ones = jnp.ones((2, 4), bool)
    _, cache = policy.prefill(params, texts[:2, :4], ones, 12)
    step = jax.jit(policy.decode)
    for t in range(4, 11):
        _, cache = step(params, cache, texts[:2, t])
    # a left-padded prompt of three tokens, for slot 1; a row out of range is left out
    late = jnp.concatenate([jnp.zeros((1, 1), int), texts[2:, :3]], 1)
    late, mask = jnp.repeat(late, 2, 0), jnp.asarray([[False, True, True, True]] * 2)
    first, fresh = policy.prefill(params, late, mask, 12)
    cache = jax.jit(insert_cache)(cache, fresh, jnp.asarray([1, 2]))
    whole = policy.logits(params, texts[2:], jnp.ones((1, 14), bool))[0]
    np.testing.assert_allclose(first[0], whole[2], atol=1e-10)
    for t in range(3, 11):
        logits, cache = step(params, cache, jnp.stack([texts[0, 0], texts[2, t]]))
        np.testing.assert_allclose(logits[1], whole[t], atol=1e-10)
    assert int(cache.slot) == 4 + 7 + 8 > 12


def test_a_group_shares_its_prompt(model):
    _, policy, params = model
    tokens = rows(2, 5)
    mask = jnp.ones((2, 5), bool).at[0, :2].set(False)
    _, cache = policy.prefill(params, tokens, mask, 8)
    step = jax.jit(policy.decode)
    logits, repeated = step(params, repeat_cache(cache, 3), jnp.arange(6))
    # the same with each prompt held once
    _, bare = policy.prefill(params, tokens, mask, 5)
    held, shared = step(params, share_cache(bare, 3, 3), jnp.arange(6))
    np.testing.assert_allclose(held, logits, atol=1e-10)
    more = jnp.arange(6) + 20
    again = [step(params, cache, more)[0] for cache in (repeated, shared)]
    np.testing.assert_allclose(*again, atol=1e-10)
    for prompt, last in ((tokens[0, 2:], [0, 1, 2]), (tokens[1], [3, 4, 5])):
        texts = jnp.stack([jnp.append(prompt, token) for token in last])
        want = jax.jit(policy.logits)(params, texts, jnp.ones(texts.shape, bool))
        np.testing.assert_allclose(logits[jnp.asarray(last)], want[:, -1], atol=1e-10)


@pytest.mark.parametrize("remat", ["dots", "all_dots", "none"])
def test_what_is_stored_changes_no_gradient(remat):
    config, policy, params = RICH, transformer_policy(RICH), params_of(RICH)
    tokens, mask = rows(2, 8), jnp.ones((2, 8), bool)

    def gradient(policy):
        def loss(params):
            return jax.nn.log_softmax(policy.logits(params, tokens, mask))[..., 3].sum()

        return jax.jit(jax.grad(loss))(params)

    other = gradient(transformer_policy(config, Compute(remat=remat)))
    for x, y in zip(*map(jax.tree.leaves, (other, gradient(policy))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)


def test_bfloat16_products_give_float32_logits(model):
    config, _, _ = model
    params = init_params(config, 0)
    tokens, mask = rows(2, 8), jnp.ones((2, 8), bool)
    half = transformer_policy(config, Compute(dtype="bfloat16"))
    assert half.hidden(params, tokens, mask).dtype == jnp.bfloat16
    got = jax.jit(half.logits)(params, tokens, mask)
    want = jax.jit(transformer_policy(config).logits)(params, tokens, mask)
    assert got.dtype == jnp.float32
    # the mean: an expert chosen otherwise by rounding moves a few logits far
    scale = float(jnp.abs(want).mean())
    error = float(jnp.abs(got - want).mean())
    assert 1e-6 * scale < error < 0.1 * scale
    total = jax.jit(lambda p: half.logits(p, tokens, mask).sum())
    gradient = jax.grad(total)(params)
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_experts_are_their_definition():
    """Token by token: softmax over all experts, the best two, renormalised."""
    config, params = EXPERTS, params_of(EXPERTS)
    block = jax.tree.map(lambda x: np.asarray(x[1]), params["blocks"])
    x = np.random.default_rng(0).normal(size=(2, 5, 24))
    want = np.zeros_like(x)
    for place in np.ndindex(2, 5):
        logits = x[place] @ block["router"]["kernel"]
        share = np.exp(logits - logits.max())
        best = np.argsort(-share)[:2]
        for expert in best:
            gate = x[place] @ block["gate"]["kernel"][expert]
            inner = x[place] @ block["up"]["kernel"][expert]
            inner = inner * gate / (1 + np.exp(-gate))
            out = inner @ block["down"]["kernel"][expert]
            want[place] += share[expert] / share[best].sum() * out
    np.testing.assert_allclose(
        experts.mixture(config, block, jnp.asarray(x)), want, atol=1e-10
    )
    plain = replace(config, experts=Experts(4, 2, normalize=False))
    whole = experts.mixture(plain, block, jnp.asarray(x))
    assert float(jnp.abs(whole - want).max()) > 1e-3


def test_frequencies_of_llama3_have_three_regions():
    config = replace(
        BASE, head_dim=64, rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 256), rope_theta=5e5
    )
    got = layers.frequencies(config, "global")
    plain = layers.frequencies(replace(config, rope_scaling=None), "global")
    wavelength = 2 * np.pi / plain
    np.testing.assert_array_equal(got[wavelength < 64], plain[wavelength < 64])
    np.testing.assert_allclose(got[wavelength > 256], plain[wavelength > 256] / 8)
    between = (wavelength > 64) & (wavelength < 256)
    assert between.any()
    smooth = (256 / wavelength[between] - 1) / 3
    want = (1 - smooth) * plain[between] / 8 + smooth * plain[between]
    np.testing.assert_allclose(got[between], want)


def test_linear_scaling_divides_positions_of_global_layers_only():
    config = replace(RICH, rope_scaling=LinearRope(8.0), rotary_dim=None)
    plain = replace(config, rope_scaling=None)
    scaled, whole = (layers.frequencies(c, "global") for c in (config, plain))
    np.testing.assert_allclose(scaled, whole / 8)
    local = [layers.frequencies(c, "local") for c in (config, plain)]
    np.testing.assert_array_equal(*local)
    np.testing.assert_allclose(local[0], 100.0 ** (-np.arange(3) / 3))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer_types": ("full",)}, "layer_types is ('full',); give one type per"),
        ({"layer_types": ("full",) * 3 + ("odd",)}, "layer_types is 'odd'; give full"),
        ({"sliding_window": 4}, "sliding_window is 4; give a window if and only if"),
        ({"layer_types": ("sliding",) * 4}, "sliding_window is None; give a window"),
        ({"local_rope_theta": 5.0}, "local_rope_theta is 5.0; no layer has a window"),
        ({"no_rope_layers": (4,)}, "no_rope_layers is 4; give layers in [0, 4)"),
        ({"rotary_dim": 8}, "rotary_dim is 8; give an even number up to head_dim (6)"),
        ({"qk_norm": "both"}, "qk_norm is 'both'; give one of none, head, width"),
        ({"norms": "none"}, "norms is 'none'; give one of before, after, both"),
        ({"logit_softcap": 0.0}, "logit_softcap is 0.0; give a number > 0"),
        ({"experts": Experts(4, 5)}, "experts.per_token is 5; give 1 to 4 experts"),
        (
            {"experts": Experts(4, 2), "mlp_bias": True},
            "mlp_bias is True; experts have no biases",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError) as caught:
        replace(BASE, **change)
    assert str(caught.value).startswith(f"ModelConfig.{message}")


@pytest.mark.parametrize("field", ["dtype", "remat", "attention"])
def test_an_unknown_compute_option_is_refused(field):
    with pytest.raises(ValueError, match=f"compute.{field}: 'fast'; write one of"):
        Compute(**{field: "fast"})
