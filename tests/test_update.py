"""The training step through a real model: one denominator, whatever the cut."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from unipost import Batch, Mixture, Penalty, presets
from unipost.classical import ForwardKL, JensenShannon, PearsonChi2, SquaredHellinger
from unipost.corrections import SamplerCorrection, StaleMask, TopEntropy
from unipost.model import ModelConfig, function_policy, init_params, transformer_policy
from unipost.optimizers import SGD, AdamW
from unipost.reference_points import OrderStatistics
from unipost.signals import BatchZScore
from unipost.update import (
    Rows,
    State,
    advantage,
    annotate,
    loss_and_grad,
    streams_of,
    update,
    with_present,
    with_streams,
)

CONFIG = ModelConfig(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)
POLICY = transformer_policy(CONFIG)
PROMPTS, LENGTH, TOKENS = 8, 4, 5


def params_of(seed):
    """Parameters in float64, large enough that entropies differ."""
    return jax.tree.map(lambda x: 3 * x.astype(jnp.float64), init_params(CONFIG, seed))


PARAMS, REFERENCE, OLD = (params_of(seed) for seed in range(3))
EXTRAS = ("entropy", "lse", "vocab", "collision")
GRPO = presets.grpo()
EXAMPLES = {
    "sft": presets.sft(),
    "f_sft-lse": presets.f_sft(PearsonChi2(), 0.1, "lse"),
    "gem": presets.gem(),
    "gkd": presets.gkd(0.3),
    "dpo": presets.dpo(),
    "f_dpo-token": presets.f_dpo(SquaredHellinger(), level="token"),
    "kto": presets.kto(),
    "aot": presets.aot(),
    "wpo": presets.wpo(),
    "orpo": presets.orpo(),
    "grpo": GRPO,
    "grpo-exact": replace(GRPO, penalty=Penalty(0.1, ForwardKL(), "exact")),
    "grpo-top": replace(GRPO, corrections=(TopEntropy(0.4),)),
    "grpo-stale": replace(GRPO, corrections=(StaleMask(0.02),)),
    "dapo": presets.dapo(),
    "luffy": presets.luffy(9.0),
    "reinforce-batch": presets.reinforce(BatchZScore()),
}
ONE, TWO = ("sft", "f_sft", "gem", "gkd"), ("dpo", "f_dpo", "kto", "aot", "wpo", "orpo")
NEW = ("kto", "aot", "wpo", "orpo", "gem", "gkd", "grpo-top", "grpo-stale")
NEW += ("f_dpo-token",)


def group(name):
    """Responses per prompt that an example needs."""
    preset = name.split("-")[0]
    return 1 if preset in ONE else 2 if preset in TWO else 4


@jax.jit
def forward(params, rows):
    """Every stream of the model, compiled once per shape for all objectives."""
    return streams_of(POLICY, params, rows, EXTRAS)


@jax.jit
def backward(params, rows, cotangent):
    return jax.vjp(lambda p: forward(p, rows), params)[1](cotangent)[0]


def rows_and_batch(name, seed=0):
    """Ragged rows of every example, one of them empty, and rewards that differ."""
    rng = np.random.default_rng(seed)
    g = group(name)
    shape = (PROMPTS, g)
    lengths = rng.integers(1, TOKENS + 1, shape)
    lengths[0, 0], lengths[1, 0] = TOKENS, 0
    mask = np.arange(TOKENS) < lengths[..., None]
    before = np.arange(LENGTH) >= rng.integers(0, LENGTH - 1, (*shape, 1))
    rows = Rows(
        *map(
            jnp.asarray,
            (
                rng.integers(0, 11, (*shape, LENGTH)),
                before,
                rng.integers(0, 11, (*shape, TOKENS)),
                mask,
            ),
        )
    )
    rewards = rng.integers(0, 2, shape).astype(np.float32)
    if g == 2:
        rewards = np.stack([rewards[:, 0], 1 - rewards[:, 0]], 1)
    off = np.zeros(shape, bool)
    off[:, -1] = True
    batch = Batch(
        mask=jnp.asarray(mask),
        rewards=jnp.asarray(rewards),
        off_policy=jnp.asarray(off),
    )
    return rows, batch


def mismatched(rows):
    """sum_t log(pi/ref) of each prompt with the next one's response; NaN if empty."""
    p, g = rows.response.shape[:2]
    out = np.full((p, g), np.nan)
    for i, j in np.ndindex(p, g):
        k = (i + 1) % p
        if not rows.response_mask[k, j].any():
            continue
        texts = rows.prompt, rows.prompt_mask, rows.response, rows.response_mask
        one = Rows(*(x[n : n + 1, j : j + 1] for x, n in zip(texts, (i, i, k, k))))
        new, old = (forward(x, one).policy.sum() for x in (PARAMS, REFERENCE))
        out[i, j] = float(new - old)
    return jnp.asarray(out)


def filled(rows, batch):
    """Every array that an objective may read, each from `forward` of the whole."""
    old, reference = forward(OLD, rows), forward(REFERENCE, rows)
    present = forward(PARAMS, rows)
    return replace(
        batch,
        old=old.policy,
        reference=reference.policy,
        reference_lse=reference.lse,
        reference_vocab=reference.vocab,
        current=present.policy,
        current_entropy=present.entropy,
    )


def chained(name, rows=None, batch=None, pieces=1):
    """((loss, metrics), gradient) of the example, by the chain rule through `forward`.

    The objective is prepared on the whole batch and cut into `pieces`, whose results
    are added.
    """
    objective = EXAMPLES[name]
    if rows is None or batch is None:
        rows, batch = rows_and_batch(name)
    batch = filled(rows, batch)
    if "mismatched" in objective.needs:
        batch = replace(batch, mismatched=mismatched(rows))
    prepared = objective.prepare(batch)
    total, size = None, len(rows.prompt) // pieces
    for i in range(pieces):
        cut = slice(i * size, (i + 1) * size) if pieces > 1 else slice(None)
        some, part = jax.tree.map(lambda x, cut=cut: x[cut], (rows, prepared))
        streams = forward(PARAMS, some)
        step = jax.value_and_grad(objective.loss, has_aux=True)
        value, cotangent = step(streams, part)
        cotangent = jax.tree.map(lambda x, s: x.astype(s.dtype), cotangent, streams)
        new = value, backward(PARAMS, some, cotangent)
        total = new if total is None else jax.tree.map(jnp.add, total, new)
    return total


def prepared_by(name, microbatches=1, policy=POLICY):
    """What the library prepares of the example: (rows, prepared)."""
    objective, (rows, batch) = EXAMPLES[name], rows_and_batch(name)
    batch = with_streams(objective, policy, rows, batch, OLD, REFERENCE)
    batch = with_present(policy, objective, PARAMS, rows, batch, microbatches)
    return rows, objective.prepare(batch)


@cache
def whole(name, microbatches=1, policy=POLICY):
    """((loss, metrics), gradient) by `loss_and_grad`, the library's own step."""

    @jax.jit
    def run(params):
        rows, prepared = prepared_by(name, microbatches, policy)
        return loss_and_grad(
            policy, EXAMPLES[name], params, rows, prepared, microbatches
        )

    return run(PARAMS)


def close(a, b, tol=1e-9):
    """Same loss and metrics; gradients relative to the gradient's norm."""
    assert a[0][1].keys() == b[0][1].keys()
    for key, value in b[0][1].items():
        assert float(a[0][1][key]) == pytest.approx(float(value), rel=tol, abs=tol)
    norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(b[1])))
    assert norm > 0
    worst = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a[1], b[1])
    assert max(jax.tree.leaves(worst)) < tol * norm


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo-exact", "luffy"])
def test_cutting_the_batch_changes_nothing(name):
    """Microbatches, permuted prompts, padding and empty prompts, 8 devices."""
    one = chained(name)
    close(chained(name, pieces=4), one)
    rows, batch = rows_and_batch(name)
    order = np.random.default_rng(5).permutation(PROMPTS)
    close(chained(name, *jax.tree.map(lambda x: x[order], (rows, batch))), one)

    def padded(x, ahead, behind):
        # a prompt is padded on its left, a response on its right
        cut = [(0, 2), (0, 0)] + [(ahead, behind)] * (x.ndim == 3)
        return jnp.pad(x, cut)

    prompts = [padded(x, 3, 0) for x in rows[:2]]
    responses = [padded(x, 0, 2) for x in rows[2:]]
    wider = jax.tree.map(lambda x: padded(x, 0, 2), batch)
    close(chained(name, Rows(*prompts, *responses), wider), one)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    close(chained(name, *jax.device_put((rows, batch), spread)), one)


@pytest.mark.parametrize("name", [*NEW, "f_sft-lse", "dpo", "grpo-exact", "luffy"])
def test_the_step_is_the_chain_rule(name):
    """`loss_and_grad` in 1, 2 and 4 microbatches, against the chain above.

    What the policy says at present is computed piece by piece, too; the chain takes it
    from the whole, and each mismatched pair by itself.
    """
    one = chained(name)
    for microbatches in (1, 2, 4) if name in NEW else (1, 4):
        close(whole(name, microbatches), one)


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
        _, metrics = objective(forward(PARAMS, rows), batch)
        assert float(metrics[key]) == pytest.approx(want, abs=2e-7), (name, key)


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_any_function_of_parameters_and_tokens_is_a_model(name):
    """The transformer wrapped as a plain function gives the same step."""
    plain = function_policy(POLICY.logits)
    close(whole(name, policy=plain), whole(name))


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
