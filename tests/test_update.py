"""The training step through a model: one denominator, whatever the cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny_models import (
    EXAMPLES,
    MEAN,
    PROMPTS,
    TOKENS,
    chained,
    close,
    forward,
    rows_and_batch,
    whole,
)

from unipost.model import function_policy
from unipost.optimizers import SGD, AdamW
from unipost.update import (
    Rows,
    State,
    advantage,
    annotate,
    streams_of,
    update,
    with_packing,
    with_streams,
)

POLICY, PARAMS, REFERENCE, OLD = MEAN


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo-exact", "luffy", "hpt"])
def test_cutting_the_batch_changes_nothing(name):
    """Microbatches, permuted prompts, padding and empty prompts, 8 devices."""
    # where a mask could leak: attention, for one of them
    run = partial(chained, name, kind="transformer" if name == "dpo" else "mean")
    one = run()
    close(run(pieces=4), one)
    rows, batch = rows_and_batch(name)
    order = np.random.default_rng(5).permutation(PROMPTS)
    close(run(*jax.tree.map(lambda x: x[order], (rows, batch))), one)

    def padded(x, ahead, behind):
        # a prompt is padded on its left, a response on its right
        cut = [(0, 2), (0, 0)] + [(ahead, behind)] * (x.ndim == 3)
        return jnp.pad(x, cut)

    prompts = [padded(x, 3, 0) for x in rows[:2]]
    responses = [padded(x, 0, 2) for x in rows[2:4]]
    wider = jax.tree.map(lambda x: padded(x, 0, 2), batch)
    close(run(Rows(*prompts, *responses), wider), one)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    close(run(*jax.device_put((rows, batch), spread)), one)


@pytest.mark.parametrize("name", EXAMPLES)
def test_texts_that_share_rows_change_nothing(name):
    """One piece of short rows, and two pieces of rows that take all texts of a few."""
    padded = chained(name, kind="transformer")
    for length, pieces in ((9, 1), (20, 2)):
        run = partial(chained, pieces=pieces, kind="transformer")
        close(run(name, packed_length=length), padded)


def test_packed_rows_hold_every_token_once():
    rows, _ = rows_and_batch("dpo")
    packed = with_packing(rows, 20, 2).packed
    sizes = (rows.prompt_mask.sum(-1) + rows.response_mask.sum(-1) - 1) * (
        rows.response_mask.any(-1)
    )
    assert (packed.segments > 0).sum() == sizes.sum()
    assert packed.tokens.shape[1] * 20 < rows.prompt.size + rows.response.size
    with pytest.raises(ValueError, match="pack_rows.length: 5; text 0 needs 7 slots"):
        with_packing(rows, 5, 2)


@pytest.mark.parametrize("name", ["f_sft-lse", "dpo", "luffy", "hpt", "prefix_rft"])
def test_the_step_is_the_chain_rule(name):
    """`loss_and_grad`, whole and in microbatches, against the chain rule."""
    one = chained(name)
    close(whole(name), one)
    close(whole(name, microbatches=4), one)


def test_step_zero_through_the_model():
    """Ratio 1, KL 0, DPO loss log 2, when policy, old and reference are one."""
    for name, key, want in (
        ("dpo", "loss", np.log(2.0)),
        ("f_dpo", "loss", np.log(2.0)),
        ("grpo", "penalty", 0.0),
        ("grpo", "implicit_reward", 0.0),
        ("grpo-exact", "penalty", 0.0),
        ("f_sft", "implicit_reward", 0.0),
    ):
        objective, (rows, batch) = EXAMPLES[name], rows_and_batch(name)
        batch = with_streams(objective, POLICY, rows, batch, PARAMS, PARAMS)
        _, metrics = jax.jit(objective.__call__)(forward(PARAMS, rows), batch)
        assert float(metrics[key]) == pytest.approx(want, abs=2e-7), (name, key)


def test_any_function_of_parameters_and_tokens_is_a_model():
    """The transformer wrapped as a plain function gives the same step."""
    close(whole("dpo", 1, "plain"), whole("dpo", 1, "transformer"))


def test_only_needed_streams_are_computed():
    rows, batch = rows_and_batch("sft")
    assert with_streams(EXAMPLES["sft"], POLICY, rows, batch, OLD, None) is batch
    rows, batch = rows_and_batch("dapo")
    filled = with_streams(EXAMPLES["dapo"], POLICY, rows, batch, OLD, None)
    assert filled.reference is None and filled.old is not None
    np.testing.assert_array_equal(filled.old, annotate(POLICY, OLD, rows).policy)
    with pytest.raises(ValueError, match="needs reference parameters"):
        with_streams(EXAMPLES["dpo"], POLICY, *rows_and_batch("dpo"), OLD, None)


def state_of(optimizer):
    params = jax.tree.map(jnp.array, PARAMS)
    return State(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def test_learning_rate_and_beta_sweeps_compile_once():
    from unipost import presets

    traces, losses = [], []

    def traced(params, tokens, mask):
        traces.append(1)
        return POLICY.logits(params, tokens, mask)

    policy = function_policy(traced)
    rows, batch = rows_and_batch("dpo")
    batch = with_streams(EXAMPLES["dpo"], POLICY, rows, batch, OLD, REFERENCE)
    for rate, beta in ((1e-3, 0.1), (1e-2, 0.3), (0.0, 0.5)):
        optimizer = AdamW(rate)
        args = policy, presets.dpo(beta), optimizer, state_of(optimizer), rows, batch
        _, metrics = update(*args, 1, jnp.asarray(10))
        losses.append(float(metrics["loss"]))
    first = len(traces)
    assert 1 <= first <= 2  # shapes and values of one compilation
    update(*args[:3], state_of(optimizer), *args[4:], 1, jnp.asarray(10))
    assert len(traces) == first
    assert len(set(losses)) == 3


def test_minibatches_keep_the_statistics_of_the_whole():
    """A batch z-score is taken before the batch is cut into minibatches."""
    objective = EXAMPLES["reinforce-batch"]
    rows, batch = rows_and_batch("reinforce-batch")
    whole = advantage(POLICY, objective, PARAMS, rows, batch, 1, 1)
    half = jax.tree.map(lambda x: x[:4], batch)
    np.testing.assert_array_equal(objective.prepare(half, whole[:4]).signal, whole[:4])
    assert float(jnp.abs(objective.prepare(half).signal - whole[:4]).max()) > 1e-3


def test_sgd_step_is_rate_times_gradient():
    rows, batch = rows_and_batch("sft")
    (_, _), grads = chained("sft", rows, batch)
    optimizer = SGD(0.1)
    args = POLICY, EXAMPLES["sft"], optimizer, state_of(optimizer), rows, batch
    state, metrics = update(*args, 1, jnp.asarray(10))
    want = jax.tree.map(lambda p, g: p - 0.1 * g, PARAMS, grads)
    for a, b in zip(*map(jax.tree.leaves, (state.params, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)


def test_schedules_and_clipping_by_hand():
    rates = [float(AdamW(1.0, "constant", 2).rate(s, 6)) for s in range(6)]
    np.testing.assert_allclose(rates, [1 / 3, 2 / 3, 1, 1, 1, 1], rtol=1e-6)
    rates = [float(AdamW(1.0, "linear").rate(s, 4)) for s in range(5)]
    np.testing.assert_allclose(rates, [1, 0.75, 0.5, 0.25, 0], atol=1e-7)
    rates = [float(AdamW(2.0, "cosine").rate(s, 4)) for s in (0, 2, 4)]
    np.testing.assert_allclose(rates, [2, 1, 0], atol=1e-6)
    grads, params = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.zeros(2)}
    optimizer = SGD(1.0, clip_norm=1.0)
    new, _, numbers = optimizer.update(grads, optimizer.init(params), params, 0, 1)
    np.testing.assert_allclose(new["w"], [-0.6, -0.8], rtol=1e-6)
    assert float(numbers["grad_norm"]) == 5.0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AdamW(-1.0), "adamw.learning_rate: -1 is negative"),
        (lambda: AdamW(1e-3, warmup=-1), "adamw.warmup: -1 is negative"),
        (lambda: AdamW(1e-3, b1=1.0), "adamw.b1: 1 is outside"),
        (lambda: SGD(1e-3, clip_norm=0.0), "sgd.clip_norm: 0 is not positive"),
    ],
)
def test_refused_settings(make, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        make()


def test_streams_have_the_shape_of_the_rows():
    rows, _ = rows_and_batch("grpo")
    streams = streams_of(POLICY, PARAMS, rows, ("entropy", "vocab"))
    assert streams.policy.shape == (PROMPTS, 4, TOKENS)
    assert streams.lse is None
    vocab = jnp.asarray(streams.vocab)
    assert vocab.shape == (PROMPTS, 4, TOKENS, 11)
    chosen = jnp.take_along_axis(vocab, rows.response[..., None], -1)[..., 0]
    want = jnp.where(rows.response_mask, chosen, 0.0)
    np.testing.assert_allclose(streams.policy, want, atol=1e-6)
