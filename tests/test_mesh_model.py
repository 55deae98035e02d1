"""The model on a mesh: numbers and gradients of one device, and what wires carry."""

import re
from dataclasses import replace
from functools import cache, partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.adapters import LoRA, init_adapter
from unipost.mesh import Mesh, constrain, platform, shards
from unipost.model import Compute, Experts, ModelConfig, init_params, transformer_policy
from unipost.model.attention import ATTENTION, Rule, beside_queries, choose
from unipost.packed import pack_rows, score_packed
from unipost.plan.collectives import find_collectives
from unipost.plan.hlo import parse_program
from unipost.plan.loops import count_runs
from unipost.sampling import Sampling
from unipost.sampling.batch import compiled_sample
from unipost.scalar.model import scalar_policy, scores_after, scores_before
from unipost.scoring import score

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=False,
)
GEMMA = replace(
    CONFIG,
    tie_word_embeddings=True,
    layer_types=("full", "sliding"),
    sliding_window=7,
    norms="both",
    attention_bias="qkv",
    attention_softcap=10.0,
    logit_softcap=20.0,
    qk_norm="width",
)
MOE = replace(CONFIG, experts=Experts(8, 2))
MODELS = {"llama": CONFIG, "gemma": GEMMA, "experts": MOE}
MESHES = {
    "fsdp": Mesh(data=1, fsdp=8),
    "tensor": Mesh(data=1, tensor=8),
    "both": Mesh(data=1, fsdp=4, tensor=2),
    "sequence": Mesh(data=2, sequence=4),
    "all": Mesh(data=1, fsdp=2, sequence=2, tensor=2),
    "expert": Mesh(data=1, expert=4, fsdp=2),
    "apart": Mesh(data=1, expert=2, sequence=2, tensor=2),
}
ROWS, LENGTH, TOKENS = 8, 6, 11


def random_rows(count=ROWS, length=LENGTH, tokens=TOKENS):
    """Prompts (left-padded) and responses of several lengths, and weights [N T]."""
    rng = np.random.default_rng(0)
    behind = np.arange(length) >= length - rng.integers(1, length + 1, (count, 1))
    ahead = np.arange(tokens) < rng.integers(0, tokens + 1, (count, 1))
    prompt = rng.integers(0, CONFIG.vocab_size, (count, length))
    response = rng.integers(0, CONFIG.vocab_size, (count, tokens))
    return (prompt, behind, response, ahead), rng.normal(size=(count, tokens))


@cache
def params_of(name):
    """Parameters in float64, with an adapter of which nothing is zero for "lora"."""
    if name == "scalar":
        kernel = np.random.default_rng(1).normal(size=(CONFIG.hidden_size, 1))
        return {"trunk": params_of("llama"), "score": {"kernel": jnp.asarray(kernel)}}
    config = MODELS.get(name, CONFIG)
    params = jax.tree.map(lambda x: x.astype(float), init_params(config, 0))
    if name != "lora":
        return params
    adapted = init_adapter(LoRA(rank=4, alpha=8.0), params, 0, ())
    rng = np.random.default_rng(2)
    drawn = [rng.normal(size=x.shape) / 8 for x in jax.tree.leaves(adapted.adapter)]
    structure = jax.tree.structure(adapted.adapter)
    return replace(
        adapted, adapter=jax.tree.unflatten(structure, map(jnp.array, drawn))
    )


def close(got, want, scale=1e-10):
    """Equal trees up to `scale` of the largest entry."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=scale * (1 + np.abs(b).max(initial=0))
        ),
        got,
        want,
    )


def on_mesh(mesh, function, params, *others):
    """`function` compiled on a mesh, of parameters that lie by its rules."""
    layout = mesh.open()
    with jax.set_mesh(layout.mesh):
        spread = jax.device_put(params, layout.shardings(params))
        return jax.tree.map(np.asarray, jax.jit(function)(spread, *others))


def step(name, chunk, params, rows, weight):
    """(scores, gradient) of a weighted sum of all that scoring gives."""
    policy = transformer_policy(MODELS.get(name, CONFIG))

    def total(params):
        scores = score(policy, params, *rows, extras=("entropy", "lse"), chunk=chunk)
        bend = scores.logps + jnp.sin(scores.entropy) + 0.1 * scores.lse
        return jnp.sum(weight * bend), scores

    return jax.grad(total, has_aux=True)(params)


@cache
def one_device(name, chunk):
    rows, weight = random_rows()
    run = jax.jit(partial(step, name, chunk))
    return jax.tree.map(np.asarray, run(params_of(name), rows, weight))


@pytest.mark.parametrize(
    ("name", "mesh", "chunk"),
    [
        ("llama", "fsdp", 4),
        ("llama", "tensor", None),
        ("gemma", "all", None),
        ("experts", "expert", None),
        ("experts", "apart", 4),
        ("lora", "both", None),
    ],
)
def test_scores_and_gradients_are_those_of_one_device(name, mesh, chunk):
    got = on_mesh(
        MESHES[mesh], partial(step, name, chunk), params_of(name), *random_rows()
    )
    close(got, one_device(name, chunk))


def test_rows_that_do_not_divide():
    """A last short batch: 5 rows on 8 devices."""
    rows, weight = random_rows(5)
    run = partial(step, "llama", 4)
    want = jax.jit(run)(params_of("llama"), rows, weight)
    close(on_mesh(MESHES["both"], run, params_of("llama"), rows, weight), want)


@pytest.mark.parametrize("mesh", ["fsdp", "all"])
def test_packed_rows(mesh):
    """Rows cut into as many blocks as the mesh has parts of rows."""
    rows, weight = random_rows()
    layout = MESHES[mesh].open()
    packed = pack_rows(*rows, length=20, blocks=layout.row_shards)
    policy = transformer_policy(CONFIG)

    def total(params, packed):
        scores = score_packed(policy, params, packed, weight.shape)
        return jnp.sum(weight * scores.logps), scores

    run = jax.grad(total, has_aux=True)
    spread = layout.place_packed(jax.tree.map(lambda x: x[None], packed))
    one = jax.tree.map(lambda x: x[0], spread)
    want = jax.jit(run)(params_of("llama"), packed)
    close(on_mesh(MESHES[mesh], run, params_of("llama"), one), want)


def test_scalar_heads():
    """Values before and scores after each token, and their gradients."""
    policy = scalar_policy(transformer_policy(CONFIG))
    rows, weight = random_rows()

    def total(params):
        before, after = scores_before(policy, params, *rows), 0.0
        after = scores_after(policy, params, *rows)
        return jnp.sum(weight[..., None] * (before + jnp.sin(after))), (before, after)

    run = jax.grad(total, has_aux=True)
    close(
        on_mesh(MESHES["all"], run, params_of("scalar")),
        jax.jit(run)(params_of("scalar")),
    )


@pytest.mark.parametrize(
    ("mesh", "window"), [("tensor", 40), ("all", None), ("sequence", 40)]
)
def test_the_tpu_kernel_by_hand(mesh, window):
    """Splash, interpreted: own rows, heads and queries, with windows and segments."""
    rng = np.random.default_rng(0)
    length = 128 * MESHES[mesh].sequence
    query = rng.normal(size=(8, length, 8, 8)) / 3
    key, value = rng.normal(size=(2, 8, length, 2, 8)) / 3
    segments = np.sort(rng.integers(1, 4, (8, length)), 1)
    rule = Rule(0.5, window, 5.0)

    def out(attention, query, key, value):
        heads = query, *beside_queries(query, key, value)
        return jnp.sin(ATTENTION[attention](*heads, segments, rule).astype(float)).sum()

    run = partial(jax.value_and_grad(out, (1, 2, 3)))
    arrays = [x.astype(np.float32) for x in (query, key, value)]
    with jax.set_mesh(MESHES[mesh].open().mesh):
        got = jax.jit(run, static_argnums=0)("splash", *arrays)
    close(got, jax.jit(run, static_argnums=0)("einsum", *arrays), 1e-5)


@pytest.mark.parametrize(
    ("name", "mesh", "prompts", "group", "sampling"),
    [
        ("llama", "fsdp", 3, 5, Sampling(5, 0.7, top_k=20, top_p=0.9)),
        ("gemma", "all", 8, 1, Sampling(5, 0.0)),
        ("experts", "expert", 1, 8, Sampling(5, 1.0)),
    ],
)
def test_samples_are_those_of_one_device(name, mesh, prompts, group, sampling):
    """Several prompts and groups, of which some do not divide over the devices."""
    policy, (rows, _) = transformer_policy(MODELS[name]), random_rows(prompts)
    # logits far apart: no draw is a matter of the last digit
    params = params_of(name) | {"embedding": 20 * params_of(name)["embedding"]}
    run = partial(compiled_sample, policy, group=group, stop_tokens=(5,))
    given = rows[0].astype(np.int32), rows[1], jax.random.key(3), sampling
    want, layout = run(params, *given), MESHES[mesh].open()
    with jax.set_mesh(layout.mesh):
        got = run(jax.device_put(params, layout.shardings(params)), *given)
    assert all(x.is_fully_replicated for x in got)
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.mask, want.mask)
    close(got.logps, want.logps)


def carried(mesh, chunk=None, count=32, length=40, tokens=25):
    """The collectives of a gradient step on a mesh, rows spread as a run has them."""
    layout, (rows, weight) = mesh.open(), random_rows(count, length, tokens)
    params = params_of("llama")
    given = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.rows(x.shape)),
        (rows, weight),
    )
    shardings = layout.shardings(params)
    spread = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        params,
        shardings,
    )

    def gradient(params, rows, weight):
        return jax.lax.with_sharding_constraint(
            step("llama", chunk, params, rows, weight)[0], shardings
        )

    with jax.set_mesh(layout.mesh):
        compiled = jax.jit(gradient).lower(spread, *given).compile()
    program = parse_program(compiled.as_text())
    return find_collectives(program, count_runs(program), 8)


def total(found, kind):
    return sum(x.count * x.bytes for x in found if x.kind == kind) / 8


LAYER = sum(x[0].size for x in jax.tree.leaves(params_of("llama")["blocks"]))
HEAD = CONFIG.vocab_size * CONFIG.hidden_size
STREAM = 32 * 64 * CONFIG.hidden_size  # [N S D] of `carried`


@pytest.mark.parametrize("chunk", [None, 5])
def test_fsdp_gathers_a_layer_at_a_time_and_no_rows(chunk):
    """Each layer twice, the head once for all chunks; gradients once; rows never."""
    found = carried(MESHES["fsdp"], chunk)
    layers, small = CONFIG.num_hidden_layers, 8 * 32 * 65
    gathered = 2 * layers * LAYER + HEAD * (1 if chunk else 2)
    assert 2 * layers * (LAYER - 100) < total(found, "all-gather") <= gathered + small
    reduced = layers * LAYER + 2 * HEAD
    assert total(found, "all-reduce") <= reduced + small
    # the embeddings of all rows change hands: [N S D] over 8 devices, there and back
    assert total(found, "all-to-all") <= 2 * STREAM / 8
    largest = max(x.bytes / 8 for x in found if x.kind != "all-to-all")
    assert largest <= max(LAYER, HEAD + 64)


def test_tensor_sums_the_stream_and_gathers_no_logits():
    """Sums of [N S D] in a layer: two forward, one again, five backward."""
    found = carried(MESHES["tensor"])
    layers, logits = CONFIG.num_hidden_layers, 32 * 25 * CONFIG.vocab_size
    assert total(found, "all-reduce") <= (8 * layers + 3) * STREAM
    assert max(x.bytes / 8 for x in found if x.kind == "all-gather") <= STREAM
    assert logits < STREAM < total(found, "all-reduce")


def test_sequence_gathers_keys_and_values_only():
    """[N S K E] of half the rows, twice each: forward and again."""
    found = carried(MESHES["sequence"])
    keys = 16 * 64 * CONFIG.num_key_value_heads * CONFIG.head_dim
    layers = CONFIG.num_hidden_layers
    gathered = 4 * layers * keys
    assert gathered <= total(found, "all-gather") <= gathered + 8 * 32 * 65
    parameters = layers * LAYER + 2 * HEAD
    # sums over data and over sequence, and of the keys' gradients
    reduced = 2 * parameters + 2 * layers * keys
    assert total(found, "all-reduce") <= reduced * 1.1


def test_decoding_moves_tokens_and_not_matrices():
    """In the loop over tokens nothing of the size of a matrix is gathered."""
    layout = MESHES["both"].open()
    params, (rows, _) = params_of("llama"), random_rows()
    policy = transformer_policy(CONFIG)
    with jax.set_mesh(layout.mesh):
        spread = jax.device_put(params, layout.shardings(params))
        given = rows[0].astype(np.int32), rows[1], jax.random.key(0), Sampling(5)
        compiled = compiled_sample.lower(policy, spread, *given).compile()
    program = parse_program(compiled.as_text())
    once, often = (
        find_collectives(program, count_runs(program, turns), 8) for turns in (1, 1001)
    )
    matrix = CONFIG.hidden_size * CONFIG.hidden_size / 2
    in_loop = [a for a, b in zip(once, often, strict=True) if a.count != b.count]
    assert len(in_loop) > 4
    assert max(x.bytes / 8 for x in in_loop) < matrix


def test_no_trace_without_a_mesh():
    """One device, with a mesh of it or without: the same program as before."""
    rows, weight = random_rows()
    trace = partial(jax.make_jaxpr(step, static_argnums=(0, 1)), "experts", 4)

    def primitives():
        text = str(trace(params_of("experts"), rows, weight))
        return set(re.findall(r"= ([a-z_0-9]+)[\[ ]", text))

    plain = primitives()
    assert len(plain) > 30 and "dot_general" in plain
    assert not {"sharding_constraint", "shard_map", "linear_call"} & plain
    with jax.set_mesh(Mesh().open(jax.devices()[:1]).mesh):
        assert primitives() == plain


def test_constraints_inside_a_shard_map():
    """Axes cut by hand are no longer there to be asked for."""
    seen = []

    def inside(x):
        seen.append((shards("fsdp"), shards("tensor"), platform()))
        return constrain(x, "fsdp", "tensor")

    spec = jax.sharding.PartitionSpec("fsdp")
    with jax.set_mesh(MESHES["both"].open().mesh):
        run = jax.shard_map(inside, in_specs=spec, out_specs=spec, axis_names={"fsdp"})
        x = jax.jit(run)(np.ones((8, 8)))
    assert seen == [(1, 2, "cpu")] and prod(x.shape) == x.sum()


def test_attention_is_chosen_for_what_is_compiled_for(monkeypatch):
    """Splash on TPU, whatever the host; names that read whole rows are refused."""
    query = jax.ShapeDtypeStruct((8, 512, 8, 128), jnp.bfloat16)
    with jax.set_mesh(MESHES["sequence"].open().mesh):
        assert choose("auto", query, Rule(1.0)) is ATTENTION["einsum"]
        with pytest.raises(ValueError, match="blocks reads whole rows, and mesh.seq"):
            choose("blocks", query, Rule(1.0))
        monkeypatch.setattr("unipost.model.attention.platform", lambda: "tpu")
        assert choose("auto", query, Rule(1.0)) is ATTENTION["splash"]
        short = jax.ShapeDtypeStruct((8, 256, 8, 128), jnp.bfloat16)
        assert choose("auto", short, Rule(1.0)) is ATTENTION["einsum"]
    assert choose("auto", short, Rule(1.0)) is ATTENTION["splash"]


def test_a_policy_of_four_functions_needs_no_reads():
    """A model of the user's own, whose head says nothing of what it reads."""
    rows, weight = random_rows()
    policy = replace(transformer_policy(CONFIG), reads=None)

    def total(params):
        return jnp.sum(weight * score(policy, params, *rows, chunk=4).logps)

    run, params = jax.grad(total), params_of("llama")
    close(on_mesh(MESHES["both"], run, params), jax.jit(run)(params))


def test_the_other_attentions_on_a_mesh():
    """einsum, xla and blocks where heads, rows or tokens are spread."""
    rows, weight = random_rows()
    for name, mesh in (("einsum", "all"), ("xla", "sequence"), ("blocks", "both")):
        policy = transformer_policy(CONFIG, Compute(attention=name))

        def total(params, policy=policy):
            return jnp.sum(weight * score(policy, params, *rows).logps)

        run, params = jax.grad(total), params_of("llama")
        got = on_mesh(MESHES[mesh], run, params)
        close(got, jax.jit(run)(params), 1e-6 if name == "xla" else 1e-10)
