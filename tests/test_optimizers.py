"""Optimisers against optax and by hand: masks, clipping, stacks, dtypes, pieces."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny_leaves import (
    GRADS,
    PARAMS,
    RATE,
    STEPS,
    differ,
    same,
    step,
    trained,
    unstacked,
)
from tiny_models import EXAMPLES, MEAN, rows_and_batch

from unipost.compilation import CompileClock
from unipost.optimizers import (
    SGD,
    Adafactor,
    Adam,
    Adamax,
    AdamW,
    Lion,
    Muon,
    NAdam,
    NAdamW,
    Optax,
    RMSProp,
)
from unipost.optimizers.clipping import clip_by_ratio
from unipost.optimizers.named import NAMES
from unipost.update import loss_and_grad, with_present, with_streams


def by_optax(transform, params=PARAMS, grads=GRADS):
    """Parameters after the steps of an optax transformation."""
    state = transform.init(params)
    advance = jax.jit(transform.update)
    for g in grads:
        updates, state = advance(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


def matrices(tree):
    """True for the leaves of `draw` that are no scale and no bias, spelled out."""
    return {
        "embedding": True,
        "head": {"kernel": True},
        "blocks": {
            "query": {"kernel": True, "bias": False},
            "norm": {"scale": False},
        },
    }


DECAYED = {"weight_decay": 0.3, "clip_norm": None}
FREE = {"clip_norm": None}
MOMENTUM = {"momentum": 0.9, **FREE}
# part -> the same by optax alone; the mask is the oracle's own
AGAINST = [
    (AdamW(RATE, b2=0.9, **DECAYED), optax.adamw(RATE, b2=0.9, weight_decay=0.3)),
    (
        AdamW(RATE, decay="matrices", **DECAYED),
        optax.adamw(RATE, weight_decay=0.3, mask=matrices),
    ),
    (
        AdamW(RATE, decay="matrices", **DECAYED),
        optax.chain(
            optax.scale_by_adam(),
            optax.masked(optax.add_decayed_weights(0.3), matrices),
            optax.scale(-RATE),
        ),
    ),
    (NAdamW(RATE, **DECAYED), optax.nadamw(RATE, weight_decay=0.3)),
    (Adam(RATE, eps=1e-3, **FREE), optax.adam(RATE, eps=1e-3)),
    (NAdam(RATE, b1=0.8, **FREE), optax.nadam(RATE, 0.8)),
    (Adamax(RATE, **DECAYED), optax.adamaxw(RATE, weight_decay=0.3)),
    (Lion(RATE, **DECAYED), optax.lion(RATE, weight_decay=0.3)),
    (SGD(RATE), optax.sgd(RATE)),
    (SGD(RATE, momentum=0.9), optax.sgd(RATE, 0.9)),
    (SGD(RATE, momentum=0.9, form="nesterov"), optax.sgd(RATE, 0.9, True)),
    (RMSProp(RATE, **FREE), optax.rmsprop(RATE)),
    (
        RMSProp(RATE, about="mean", form="nesterov", **MOMENTUM),
        optax.rmsprop(RATE, centered=True, momentum=0.9, nesterov=True),
    ),
]


@pytest.mark.parametrize("optimizer, oracle", AGAINST)
def test_a_part_is_the_transformation_of_optax(optimizer, oracle):
    same(trained(optimizer)[0], by_optax(oracle))


@pytest.mark.parametrize("name", NAMES)
def test_any_other_optimiser_of_optax(name):
    """Traced learning rate against a constant one, on leaves that are no stacks."""
    params, *grads = (unstacked(tree)["blocks"]["0"] for tree in (PARAMS, *GRADS))
    make = getattr(optax, name, None) or getattr(optax.contrib, name)
    optimizer = Optax(RATE, function=name, clip_norm=None)
    same(trained(optimizer, params, grads)[0], by_optax(make(RATE), params, grads))


STACKS = [
    Adafactor(RATE, min_size=4, weight_decay=0.1, momentum=0.9),
    Adafactor(RATE, scale="none", threshold=0.5),
    Muon(RATE, weight_decay=0.1, decay="matrices"),
    Muon(RATE, rms=0.2),
    Optax(RATE, function="lamb", arguments={"weight_decay": 0.1}, decay="matrices"),
    Optax(RATE, function="lars", arguments={"weight_decay": 0.1}),
    SGD(RATE, clip_ratio=0.01),
]


@pytest.mark.parametrize("optimizer", STACKS)
def test_a_layer_of_a_stack_is_a_leaf_of_its_own(optimizer):
    """Norms and factors are of one matrix, not of all layers together."""
    stacked = trained(optimizer)[0]
    alone = trained(optimizer, unstacked(PARAMS), [unstacked(g) for g in GRADS])[0]
    same(unstacked(stacked), alone)


def test_adafactor_on_plain_leaves():
    """Against optax.adafactor; its weight decay is multiplied by the rate here."""
    params, grads = unstacked(PARAMS), [unstacked(g) for g in GRADS]
    mask = partial(jax.tree.map, lambda x: x.ndim == 2)
    for scale in ("parameters", "none"):
        ours = Adafactor(
            RATE, scale=scale, min_size=4, decay="matrices", **DECAYED, momentum=0.5
        )
        oracle = optax.adafactor(
            RATE,
            4,
            multiply_by_parameter_scale=scale == "parameters",
            momentum=0.5,
            weight_decay_rate=0.3 * RATE,
            weight_decay_mask=mask,
        )
        same(trained(ours, params, grads)[0], by_optax(oracle, params, grads))


def test_muon_is_orthogonal_and_adam_the_rest():
    ours = trained(Muon(RATE, clip_norm=None), grads=GRADS[:1])[0]
    change = jax.tree.map(lambda a, b: np.asarray((a - b) / RATE), PARAMS, ours)
    for matrix in change["blocks"]["query"]["kernel"]:
        # Newton-Schulz brings the singular values near 1; out / in is 8 / 6
        sizes = np.linalg.svd(matrix / np.sqrt(8 / 6), compute_uv=False)
        assert 0.6 < sizes.min() and sizes.max() < 1.3
    adam = optax.nadam(RATE)
    rest = by_optax(adam, grads=GRADS[:1])
    for path in (("embedding",), ("head", "kernel"), ("blocks", "query", "bias")):
        got, want = ours, rest
        for key in path:
            got, want = got[key], want[key]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_decay_by_hand():
    """One step of gradient 0: only the leaves that are decayed move, by rate * decay.

    All of them by default; regexes are of names.
    """
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for decay, moved in (
        ("all", {"embedding", "head", "kernel", "bias", "scale"}),
        ("matrices", {"embedding", "head", "kernel"}),
        (("query.kernel", "norm"), {"kernel", "scale"}),
    ):
        for kind in (AdamW, Adafactor, Muon) if decay == "matrices" else (AdamW,):
            optimizer = kind(0.1, weight_decay=0.5, decay=decay)
            new = trained(optimizer, grads=[zeros])[0]
            ratio = jax.tree.map(lambda a, b: float((a / b).mean()), new, PARAMS)
            found = {
                "embedding": ratio["embedding"],
                "head": ratio["head"]["kernel"],
                **ratio["blocks"]["query"],
                **ratio["blocks"]["norm"],
            }
            want = {name: 0.95 if name in moved else 1.0 for name in found}
            assert found == pytest.approx(want, rel=1e-5), (kind, decay)


def test_clipping_by_hand():
    params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "bias": jnp.array([2.0])}
    grads = {"kernel": jnp.array([[6.0, 1.0], [8.0, 0.0]]), "bias": jnp.array([0.1])}
    clipped = clip_by_ratio(grads, params, 0.5)
    # columns of norm 10 and 1 against half of 5 and of the floor 1e-3
    want = [[1.5, 5e-4], [2.0, 0.0]]
    np.testing.assert_allclose(clipped["kernel"], want, rtol=1e-6)
    np.testing.assert_allclose(clipped["bias"], [0.1])
    oracle = optax.adaptive_grad_clip(0.5)
    want, _ = oracle.update(grads, oracle.init(params), params)
    same(clipped, want)
    bounded = trained(SGD(1.0, clip_value=2.0), params, [grads])
    np.testing.assert_allclose(bounded[0]["kernel"], [[1.0, -1.0], [2.0, 0.0]])
    norm = np.sqrt(36 + 64 + 1 + 0.01)
    assert float(bounded[2]["grad_norm"]) == pytest.approx(norm)
    both = SGD(1.0, clip_value=2.0, clip_norm=1.0)
    new = trained(both, params, [grads])[0]
    moved = jax.tree.map(lambda a, b: a - b, params, new)
    assert float(optax.tree.norm(moved)) == pytest.approx(1.0, rel=1e-5)


@partial(jax.jit, static_argnums=(0, 1))
def gradient(name, pieces, params, rows, batch):
    policy, objective = MEAN.policy, EXAMPLES[name]
    batch = with_present(policy, objective, params, rows, batch, pieces)
    prepared = objective.prepare(batch)
    return loss_and_grad(policy, objective, params, rows, prepared, pieces)[1]


@cache
def data(name):
    policy, _, reference, old = MEAN
    rows, batch = rows_and_batch(name)
    return rows, with_streams(EXAMPLES[name], policy, rows, batch, old, reference)


@pytest.mark.parametrize("name", ["dpo", "grpo"])
@pytest.mark.parametrize("optimizer", [AdamW(RATE), Lion(RATE), Muon(RATE)])
def test_microbatches_give_the_same_parameters(name, optimizer):
    """One denominator over the logical batch, whatever it is cut into."""
    ends = []
    for pieces in (1, 2, 4):
        params, state = MEAN.params, optimizer.init(MEAN.params)
        for i in range(STEPS):
            grads = gradient(name, pieces, params, *data(name))
            params, state, _ = step(optimizer, state, params, grads, i)
        ends.append(params)
    assert differ(ends[0], MEAN.params)
    same(ends[1], ends[0], 1e-8)
    same(ends[2], ends[0], 1e-8)


def test_pieces_are_added_in_float32():
    """Gradients of bfloat16 parameters: the float32 sum of those of the pieces."""
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), MEAN.params)
    rows, batch = data("dpo")
    prepared = EXAMPLES["dpo"].prepare(batch)

    @partial(jax.jit, static_argnums=2)
    def run(rows, prepared, pieces):
        args = MEAN.policy, EXAMPLES["dpo"], params, rows, prepared, pieces
        return loss_and_grad(*args)[1]

    total = run(rows, prepared, 2)
    halves = [
        run(*jax.tree.map(lambda x, cut=cut: x[cut], (rows, prepared)), 1)
        for cut in (slice(4), slice(4, 8))
    ]
    assert {x.dtype.name for x in jax.tree.leaves(halves)} == {"bfloat16"}
    want = jax.tree.map(lambda a, b: a.astype(jnp.float32) + b, *halves)
    assert {x.dtype.name for x in jax.tree.leaves(total)} == {"float32"}
    same(total, want, 1e-6)


@pytest.mark.parametrize(
    "optimizer", [AdamW(RATE), Lion(RATE), SGD(RATE, momentum=0.9), Adafactor(RATE)]
)
def test_arithmetic_is_float32_for_bfloat16_gradients(optimizer):
    """Gradients in bfloat16 count as the float32 numbers that they are."""
    half = [jax.tree.map(lambda x: x.astype(jnp.bfloat16), g) for g in GRADS]
    wide = [jax.tree.map(lambda x: x.astype(jnp.float32), g) for g in half]
    (one, state, numbers), (other, _, _) = (
        trained(optimizer, grads=half),
        trained(optimizer, grads=wide),
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float32)}
    assert numbers["grad_norm"].dtype == jnp.float32


def test_bfloat16_parameters_are_asked_for():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    with pytest.raises(ValueError) as caught:
        AdamW(RATE).init(half)
    message = "adamw.masters: blocks.norm.scale is bfloat16, which loses small updates"
    assert str(caught.value).startswith(message)
    with pytest.raises(ValueError, match="masters: 'none', but every parameter is"):
        AdamW(RATE, masters="none").init(PARAMS)
    one = trained(AdamW(RATE, masters="none"), half, GRADS[:1])
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    other = trained(AdamW(RATE), wide, GRADS[:1])
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), other[0])
    jax.tree.map(np.testing.assert_array_equal, one[0], rounded)
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])
    # the loss that the choice documents: 1 - 2^-10 rounds to 1
    ones = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    tiny = SGD(2.0**-10, masters="none")
    new = trained(tiny, ones, [ones])[0]
    np.testing.assert_array_equal(new["w"], ones["w"])


def test_the_first_moment_in_bfloat16():
    """The option alone decides, before and after a step; nothing is computed here."""
    for kind in (AdamW, Adam, NAdamW, NAdam, Lion, Muon):
        for dtype in ("bfloat16", None):
            optimizer = kind(RATE, mu_dtype=dtype)
            first = jax.eval_shape(optimizer.init, PARAMS)
            later = jax.eval_shape(step, optimizer, first, PARAMS, GRADS[0], 0)[1]
            for state in (first, later):
                found = {x.dtype.name for x in jax.tree.leaves(state) if x.ndim}
                assert ("bfloat16" in found) == (dtype is not None), kind
                assert found <= {"bfloat16", "float32", "float64"}


@pytest.mark.parametrize("kind", [AdamW, Lion, Muon, Adafactor])
def test_moments_lie_where_the_parameters_do(kind):
    """Spread over 8 devices: moments as the weights, and one compilation in all."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    wide = {"blocks": {"query": {"kernel": jnp.ones((2, 64, 32))}}}
    params = jax.device_put(wide, spread)
    factored = {"min_size": 4, "momentum": 0.9} if kind is Adafactor else {}
    optimizer = kind(RATE, **factored)
    state = optimizer.init(params)
    for leaf in jax.tree.leaves(state):
        assert len(leaf.sharding.device_set) == 8
        if leaf.shape == (2, 64, 32):
            assert leaf.sharding.is_equivalent_to(spread, 3)

    @jax.jit
    def advance(state, params):
        return optimizer.update(params, state, params, 0, STEPS)[:2]

    programs = []
    with CompileClock() as clock:
        for _ in range(3):
            params, state = advance(state, params)
            programs.append(clock.lap().programs)
    # XLA may spread the factors of Adafactor, which is one more; no other
    assert programs[::2] == [1, 0] and programs[1] <= (kind is Adafactor)
