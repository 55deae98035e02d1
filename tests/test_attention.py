"""Every implementation of attention against one written with loops over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.model import attention
from unipost.model.attention import ATTENTION, Rule, choose

ROWS, LENGTH, HEADS, GROUPS, SIZE = 3, 150, 4, 2, 8
# right-padded, left-padded, and three texts in a row with padding behind
SEGMENTS = np.zeros((ROWS, LENGTH), np.int32)
SEGMENTS[0, :131] = 1
SEGMENTS[1, 17:] = 1
for text, (start, stop) in enumerate([(0, 40), (40, 111), (111, 149)], start=1):
    SEGMENTS[2, start:stop] = text

RULES = {
    "plain": Rule(0.3),
    "window": Rule(0.3, window=7),
    "wide window": Rule(0.3, window=100),
    "softcap": Rule(0.9, softcap=1.5),
    "both": Rule(0.9, window=20, softcap=1.5),
}


def inputs(dtype=np.float64):
    rng = np.random.default_rng(0)
    shapes = (HEADS, GROUPS, GROUPS)
    return [rng.normal(size=(ROWS, LENGTH, n, SIZE)).astype(dtype) for n in shapes]


def by_loops(query, key, value, segments, rule):
    """The formula of the module, one query at a time; 0 at padding."""
    out = np.zeros(query.shape)
    for row, i, head in np.ndindex(ROWS, LENGTH, HEADS):
        if segments[row, i] == 0:
            continue
        group = head // (HEADS // GROUPS)
        first = 0 if rule.window is None else max(0, i - rule.window + 1)
        seen = [j for j in range(first, i + 1) if segments[row, j] == segments[row, i]]
        scores = rule.scale * key[row, seen, group] @ query[row, i, head]
        if rule.softcap is not None:
            scores = rule.softcap * np.tanh(scores / rule.softcap)
        weights = np.exp(scores - scores.max())
        out[row, i, head] = weights / weights.sum() @ value[row, seen, group]
    return out.reshape(ROWS, LENGTH, -1)


@pytest.fixture(scope="module")
def truth():
    return {name: by_loops(*inputs(), SEGMENTS, rule) for name, rule in RULES.items()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["einsum", "blocks", "xla"])
def test_attention_is_its_formula(name, rule, truth):
    if name == "xla" and RULES[rule].softcap is not None:
        with pytest.raises(ValueError, match="attention: xla has no softcap"):
            ATTENTION[name](*map(jnp.asarray, inputs()), SEGMENTS, RULES[rule])
        return
    got = jax.jit(ATTENTION[name], static_argnums=4)(
        *map(jnp.asarray, inputs()), jnp.asarray(SEGMENTS), RULES[rule]
    )
    real = SEGMENTS > 0
    # jax.nn.dot_product_attention takes its softmax in float32
    tolerance = 1e-5 if name == "xla" else 1e-12
    np.testing.assert_allclose(got[real], truth[rule][real], atol=tolerance)


@pytest.mark.parametrize("rule", ["plain", "window", "softcap"])
def test_splash_is_the_formula(rule):
    """The TPU kernel, interpreted: it wants texts and heads in multiples of 128."""
    rng = np.random.default_rng(1)
    shapes = [(1, 128, n, 128) for n in (2, 1, 1)]
    query, key, value = (rng.normal(size=s).astype(np.float32) for s in shapes)
    segments = np.repeat([1, 2, 0], [50, 60, 18])[None].astype(np.int32)
    rule = Rule(0.05, RULES[rule].window, RULES[rule].softcap)
    arrays = [jnp.asarray(x) for x in (query, key, value, segments)]
    got = ATTENTION["splash"](*arrays, rule)
    want = attention.einsum(*arrays, rule)
    real = segments > 0
    np.testing.assert_allclose(got[real], want[real], atol=2e-3)


@pytest.mark.parametrize("rule", RULES)
def test_blocks_have_the_gradient_of_einsum(rule):
    query, key, value = map(jnp.asarray, inputs())
    weight = np.random.default_rng(2).normal(size=(ROWS, LENGTH, HEADS * SIZE))
    weight = jnp.asarray(weight * (SEGMENTS > 0)[..., None])

    def gradient(name):
        def loss(*qkv):
            out = ATTENTION[name](*qkv, jnp.asarray(SEGMENTS), RULES[rule])
            return (out * weight).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(query, key, value)

    for got, want in zip(gradient("blocks"), gradient("einsum"), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_blocks_skip_the_triangle_above_the_diagonal():
    """Compiled work: of 16 blocks, those above the diagonal are never formed."""
    shape = jax.ShapeDtypeStruct((1, 1024, 2, 16), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, 1024), jnp.int32)

    def work(name, rule):
        compiled = jax.jit(ATTENTION[name], static_argnums=4).lower(
            shape, shape, shape, ids, rule
        )
        return compiled.compile().cost_analysis()["flops"]

    whole = work("einsum", Rule(1.0))
    assert work("blocks", Rule(1.0)) < 0.6 * whole
    assert work("blocks", Rule(1.0, window=64)) < 0.2 * whole


@pytest.mark.parametrize(
    "platform, shape, dtype, softcap, name",
    [
        ("cpu", (1, 128, 2, 128), "float32", None, "blocks"),
        ("tpu", (1, 128, 2, 128), "float32", None, "splash"),
        ("tpu", (1, 100, 2, 128), "float32", None, "einsum"),
        ("tpu", (1, 128, 2, 64), "float32", None, "einsum"),
        ("gpu", (1, 100, 2, 64), "bfloat16", None, "cudnn"),
        ("gpu", (1, 100, 2, 64), "float32", None, "einsum"),
        ("gpu", (1, 100, 2, 256), "bfloat16", None, "einsum"),
        ("gpu", (1, 100, 2, 64), "bfloat16", 50.0, "einsum"),
    ],
)
def test_auto_chooses_by_platform(platform, shape, dtype, softcap, name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    query = jnp.zeros(shape, dtype)
    assert choose("auto", query, Rule(1.0, softcap=softcap)) is ATTENTION[name]
    assert choose("einsum", query, Rule(1.0)) is ATTENTION["einsum"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("splash", "splash reads rows in blocks of 128 tokens, these have 150; write"),
        ("cudnn", "cudnn computes bfloat16 on a GPU, not float64 on cpu; write auto"),
    ],
)
def test_a_kernel_that_cannot_run_names_the_setting(name, message):
    arrays = [*map(jnp.asarray, inputs()), jnp.asarray(SEGMENTS)]
    with pytest.raises(ValueError, match=f"compute.attention: {message}"):
        ATTENTION[name](*arrays, RULES["plain"])
