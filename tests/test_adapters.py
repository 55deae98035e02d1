"""Low-rank adapters: where they start, what they compute, what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import EXAMPLES, TRANSFORMER, prepared_by

from unipost.adapters import (
    TARGETS,
    Adapted,
    LoRA,
    attach,
    init_adapter,
    merge,
    trained_part,
    with_trained,
)
from unipost.model import Experts, ModelConfig, init_params, transformer_policy
from unipost.update import loss_and_grad

CONFIG = ModelConfig(
    vocab_size=13,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    tie_word_embeddings=False,
)
BASE = init_params(CONFIG, 0)
POLICY = transformer_policy(CONFIG)
LOGITS = jax.jit(POLICY.logits)
TOKENS = np.random.default_rng(0).integers(0, 13, (3, 7))
REAL = np.ones(TOKENS.shape, bool)
FUSED = ("query", "key", "value"), ("gate", "up")


def drawn(params: Adapted, dtype=jnp.float32) -> Adapted:
    """With factors that are nowhere zero."""
    frozen, trained = trained_part(params)
    leaves, tree = jax.tree.flatten(trained)
    rng = np.random.default_rng(1)
    leaves = [jnp.asarray(rng.normal(size=x.shape) / 4, dtype) for x in leaves]
    return with_trained(frozen, jax.tree.unflatten(tree, leaves))


@pytest.mark.parametrize("fused", [(), FUSED])
def test_an_adapter_starts_as_its_base(fused):
    params = init_adapter(LoRA(3, targets=(*TARGETS, "head")), BASE, 0, fused)
    want = LOGITS(BASE, TOKENS, REAL)
    np.testing.assert_array_equal(LOGITS(params, TOKENS, REAL), want)
    frozen, trained = trained_part(params)
    assert attach(frozen) is BASE and attach(BASE) is BASE
    np.testing.assert_array_equal(LOGITS(frozen, TOKENS, REAL), want)
    for target, factors in trained.items():
        *_, inputs, rank = factors["a"].shape
        assert rank == 3 and not factors["b"].any()
        # uniform in +-1/sqrt(in): the largest of many is close to the bound
        largest = float(jnp.abs(factors["a"]).max()) * inputs**0.5
        assert 0.8 < largest <= 1.0, target
    assert not np.array_equal(trained[tuple(trained)[0]]["a"], trained["down"]["a"])


def test_the_draw_depends_on_the_seed_alone():
    one, two, other = (init_adapter(LoRA(2), BASE, seed, ()) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    same = [
        np.array_equal(*x)
        for x in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    ]
    assert not all(same)


@pytest.mark.parametrize("rslora, scale", [(False, 6.0 / 4), (True, 6.0 / 2)])
def test_a_projection_adds_its_scaled_product(rslora, scale):
    lora = LoRA(4, 6.0, rslora, ("up",))
    assert lora.scale == scale
    params = drawn(init_adapter(lora, BASE, 0, ()))
    a, b = (np.asarray(params.adapter["up"][name]) for name in ("a", "b"))
    kernel = np.asarray(BASE["blocks"]["up"]["kernel"])
    want = kernel + scale * np.einsum("lir,lro->lio", a, b)
    got = merge(params)
    np.testing.assert_allclose(got["blocks"]["up"]["kernel"], want, atol=1e-6)
    del got["blocks"]["up"]
    others = {k: v for k, v in BASE["blocks"].items() if k != "up"}
    jax.tree.map(np.testing.assert_array_equal, got, {**BASE, "blocks": others})


@pytest.mark.parametrize("fused", [(), FUSED])
def test_merged_and_attached_agree(fused):
    base = jax.tree.map(lambda x: x.astype(jnp.float64), BASE)
    lora = LoRA(3, targets=(*TARGETS, "head"))
    params = drawn(init_adapter(lora, base, 0, fused), jnp.float64)
    attached, merged = (LOGITS(x, TOKENS, REAL) for x in (params, merge(params)))
    np.testing.assert_allclose(attached, merged, atol=1e-9)
    assert float(jnp.abs(attached - LOGITS(base, TOKENS, REAL)).max()) > 0.1


def test_projections_of_one_matrix_share_their_input_factor():
    params = drawn(init_adapter(LoRA(3), BASE, 0, FUSED))
    assert set(params.adapter) == {"query+key+value", "output", "gate+up", "down"}
    blocks = attach(params)["blocks"]
    b = params.adapter["query+key+value"]["b"]
    widths = [blocks[name]["b"].shape[-1] for name in FUSED[0]]
    assert widths == [16, 8, 8] and b.shape[-1] == 32
    joined = [blocks[name]["b"] for name in FUSED[0]]
    np.testing.assert_array_equal(jnp.concatenate(joined, -1), b)
    for name in FUSED[0]:
        np.testing.assert_array_equal(blocks[name]["a"], blocks["query"]["a"])


def test_merging_rounds_a_bfloat16_base_once():
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), BASE)
    params = drawn(init_adapter(LoRA(2, targets=("down",)), base, 0, ()))
    wide = Adapted(
        jax.tree.map(lambda x: x.astype(jnp.float32), base), params.adapter, 32.0
    )
    want = merge(wide)["blocks"]["down"]["kernel"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(merge(params)["blocks"]["down"]["kernel"], want)


@pytest.mark.parametrize("name", ["dpo", "grpo", "gkd"])
def test_the_gradient_is_that_of_the_adapter_alone(name):
    """By the chain rule from G = dL/dW: dL/dA = s G B^T and dL/dB = s A^T G."""
    policy, base = TRANSFORMER.policy, TRANSFORMER.params
    lora = LoRA(2, 3.0, targets=("query", "value", "down"))
    params = drawn(init_adapter(lora, base, 0, ()), jnp.float64)
    rows, prepared = prepared_by(name, kind="transformer")

    @jax.jit
    def gradient(trained, frozen):
        args = policy, EXAMPLES[name], trained, rows, prepared, 1, frozen
        return loss_and_grad(*args)

    frozen, trained = trained_part(params)
    (loss, _), got = gradient(trained, frozen)
    (want, _), whole = gradient(merge(params), None)
    np.testing.assert_allclose(loss, want, rtol=1e-12)
    assert jax.tree.structure(got) == jax.tree.structure(trained)
    for target, factors in trained.items():
        g = lora.scale * whole["blocks"][target]["kernel"]
        a = jnp.einsum("lio,lro->lir", g, factors["b"])
        b = jnp.einsum("lir,lio->lro", factors["a"], g)
        assert float(jnp.abs(a).max()) > 0
        np.testing.assert_allclose(got[target]["a"], a, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(got[target]["b"], b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"rank": 0}, "lora.rank: 0; write an integer of 1 or more"),
        ({"alpha": 0.0}, "lora.alpha: 0.0; write a number > 0"),
        (
            {"targets": ("query", "q_proj")},
            r"lora.targets: \['q_proj'\]; write some of",
        ),
        ({"targets": ()}, "lora.targets: empty; write some of query, key"),
    ],
)
def test_settings_without_meaning_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        LoRA(**fields)


def test_targets_that_a_model_does_not_have_as_one_matrix_are_refused():
    tied = {name: part for name, part in BASE.items() if name != "head"}
    with pytest.raises(ValueError, match="head is the embedding in this model"):
        init_adapter(LoRA(targets=("head",)), tied, 0, ())
    with pytest.raises(ValueError, match="query without key and value; this model"):
        init_adapter(LoRA(targets=("query",)), BASE, 0, FUSED)
    experts = init_params(
        ModelConfig(**{**vars(CONFIG), "experts": Experts(4, 2), "family": "mixtral"}),
        0,
    )
    with pytest.raises(ValueError, match="gate is a mixture of experts in this model"):
        init_adapter(LoRA(), experts, 0, ())
