"""Small models in float64, ragged batches, and the step of an objective by hand."""

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost import Batch, Penalty, presets
from unipost.classical import ForwardKL, JensenShannon, PearsonChi2, SquaredHellinger
from unipost.corrections import StaleMask, TopEntropy
from unipost.model import (
    ModelConfig,
    Policy,
    function_policy,
    init_params,
    transformer_policy,
)
from unipost.signals import BatchZScore
from unipost.update import (
    Rows,
    loss_and_grad,
    minibatch,
    streams_of,
    with_packing,
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
PROMPTS, LENGTH, TOKENS = 8, 4, 5
EXTRAS = ("entropy", "lse", "vocab", "collision")


class Model(NamedTuple):
    """A policy with its present, reference and old parameters, in float64."""

    policy: Policy
    params: Any
    reference: Any
    old: Any


def mean_of_the_past(params, tokens, mask):
    """Logits from the mean embedding of the tokens so far: quick to compile."""
    kept = mask[..., None] * 1.0
    past = jnp.cumsum(params["embed"][tokens] * kept, 1)
    mean = past / jnp.maximum(jnp.cumsum(kept, 1), 1.0)
    return jnp.tanh(mean @ params["hidden"]) @ params["head"]


def draw(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"embed": (11, 6), "hidden": (6, 6), "head": (6, 11)}
    named = zip(keys, shapes.items(), strict=True)
    return {name: jax.random.normal(key, shape) for key, (name, shape) in named}


def widened(seed):
    return jax.tree.map(lambda x: 3 * x.astype(jnp.float64), init_params(CONFIG, seed))


MEAN = Model(function_policy(mean_of_the_past), *map(draw, range(3)))
TRANSFORMER = Model(transformer_policy(CONFIG), *map(widened, range(3)))
# the transformer again, as any function of parameters and tokens
PLAIN = TRANSFORMER._replace(policy=function_policy(TRANSFORMER.policy.logits))
MODELS = {"mean": MEAN, "transformer": TRANSFORMER, "plain": PLAIN}
GRPO = presets.grpo()
EXAMPLES = {
    "sft": presets.sft(),
    "f_sft": presets.f_sft(PearsonChi2(), 0.5),
    "f_sft-lse": presets.f_sft(PearsonChi2(), 0.1, "lse"),
    "gem": presets.gem(),
    "gkd": presets.gkd(0.3),
    "dpo": presets.dpo(),
    "f_dpo": presets.f_dpo(JensenShannon()),
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
    "srft": presets.srft(max_length=9.0),
    "hpt": presets.hpt(9.0),
    "prefix_rft": presets.prefix_rft(0.5),
    "reinforce-batch": presets.reinforce(BatchZScore()),
}
ONE, TWO = ("sft", "f_sft", "gem", "gkd"), ("dpo", "f_dpo", "kto", "aot", "wpo", "orpo")


def group(name):
    """Responses per prompt that an example needs."""
    preset = name.split("-")[0]
    return 1 if preset in ONE else 2 if preset in TWO else 4


@partial(jax.jit, static_argnums=2)
def forward(params, rows, policy=MEAN.policy):
    """Every stream of the model, compiled once per shape for all objectives."""
    return streams_of(policy, params, rows, EXTRAS)


@partial(jax.jit, static_argnums=3)
def backward(params, rows, cotangent, policy):
    return jax.vjp(lambda p: forward(p, rows, policy), params)[1](cotangent)[0]


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


def mismatched(rows, model):
    """sum_t log(pi/ref) of each prompt with the next one's response; NaN if empty."""
    p, g = rows.response.shape[:2]
    out = np.full((p, g), np.nan)
    for i, j in np.ndindex(p, g):
        k = (i + 1) % p
        if not rows.response_mask[k, j].any():
            continue
        both = zip(rows[:4], (i, i, k, k), strict=True)
        one = Rows(*(x[n : n + 1, j : j + 1] for x, n in both))
        ends = model.params, model.reference
        new, old = (forward(x, one, model.policy).policy.sum() for x in ends)
        out[i, j] = float(new - old)
    return jnp.asarray(out)


def filled(rows, batch, model):
    """Every array that an objective may read, each from `forward` of the whole."""
    present, reference, old = (forward(x, rows, model.policy) for x in model[1:])
    return replace(
        batch,
        old=old.policy,
        reference=reference.policy,
        reference_lse=reference.lse,
        reference_vocab=reference.vocab,
        current=present.policy,
        current_entropy=present.entropy,
    )


@partial(jax.jit, static_argnums=0)
def prepare(name, batch):
    return EXAMPLES[name].prepare(batch)


@partial(jax.jit, static_argnums=0)
def pulled(name, streams, prepared):
    return jax.value_and_grad(EXAMPLES[name].loss, has_aux=True)(streams, prepared)


def chained(name, rows=None, batch=None, pieces=1, kind="mean", packed_length=None):
    """((loss, metrics), gradient) of the example, by the chain rule through `forward`.

    The objective is prepared on the whole batch and cut into `pieces`, whose results
    are added. With `packed_length` the texts of each piece share rows of this length.
    """
    objective, model = EXAMPLES[name], MODELS[kind]
    if rows is None or batch is None:
        rows, batch = rows_and_batch(name)
    batch = filled(rows, batch, model)
    if "mismatched" in objective.needs:
        batch = replace(batch, mismatched=mismatched(rows, model))
    prepared = prepare(name, batch)
    if packed_length is not None:
        rows = with_packing(rows, packed_length, pieces)
    total = None
    for i in range(pieces):
        some, part = minibatch((rows, prepared), i, pieces)
        streams = forward(model.params, some, model.policy)
        value, cotangent = pulled(name, streams, part)
        cotangent = jax.tree.map(lambda x, s: x.astype(s.dtype), cotangent, streams)
        new = value, backward(model.params, some, cotangent, model.policy)
        total = new if total is None else jax.tree.map(jnp.add, total, new)
    return total


def prepared_by(name, microbatches=1, kind="mean"):
    """What the library prepares of the example: (rows, prepared)."""
    objective, (rows, batch) = EXAMPLES[name], rows_and_batch(name)
    policy, params, reference, old = MODELS[kind]
    batch = with_streams(objective, policy, rows, batch, old, reference)
    batch = with_present(policy, objective, params, rows, batch, microbatches)
    return rows, objective.prepare(batch)


@cache
def whole(name, microbatches=1, kind="mean"):
    """((loss, metrics), gradient) by `loss_and_grad`, the library's own step."""
    policy, present = MODELS[kind][:2]

    @jax.jit
    def run(params):
        rows, prepared = prepared_by(name, microbatches, kind)
        args = policy, EXAMPLES[name], params, rows, prepared, microbatches
        return loss_and_grad(*args)

    return run(present)


def close(a, b, tol=1e-9):
    """Same loss and metrics; gradients relative to the gradient's norm."""
    assert a[0][1].keys() == b[0][1].keys()
    for key, value in b[0][1].items():
        assert float(a[0][1][key]) == pytest.approx(float(value), rel=tol, abs=tol)
    norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(b[1])))
    assert norm > 0
    worst = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a[1], b[1])
    assert max(jax.tree.leaves(worst)) < tol * norm
