"""The training step: plain jitted functions of parameters, rows and streams.

Objective and optimiser are arguments, so their numbers can change without compiling
again; the policy, the number of microbatches and all shapes are static.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unipost.batch import Batch, Prepared, Streams
from unipost.model import Params, Policy
from unipost.objective import Objective
from unipost.optimizers import Optimizer
from unipost.scoring import score

Array = jax.Array


class Rows(NamedTuple):
    """Text of P prompts x G responses: prompts [P, G, L], responses [P, G, T]."""

    prompt: Array
    prompt_mask: Array
    response: Array
    response_mask: Array


class State(NamedTuple):
    """Everything that a step changes; with the config and the seed, the whole run."""

    params: Params
    optimizer: Any
    step: Array


def streams_of(policy: Policy, params: Params, rows: Rows, extras=()) -> Streams:
    """Log-prob streams [P, G, T] of the responses under `params`, at temperature 1."""
    p, g = rows.response.shape[:2]
    flat = (x.reshape(p * g, x.shape[-1]) for x in rows)
    scores = score(policy, params, *flat, extras=tuple(extras))
    return Streams(*jax.tree.map(lambda x: x.reshape(p, g, *x.shape[1:]), scores))


@partial(jax.jit, static_argnums=(0, 3))
def annotate(policy: Policy, params: Params, rows: Rows, extras: tuple[str, ...] = ()):
    """`streams_of` compiled, for streams that are data: old and reference."""
    return streams_of(policy, params, rows, extras)


def with_streams(
    objective: Objective,
    policy: Policy,
    rows: Rows,
    batch: Batch,
    old: Params,
    reference: Params | None,
) -> Batch:
    """`batch` with the old and reference streams that the objective reads, no others.

    `old` are the parameters before the inner updates. Raises ValueError where a
    reference is needed and none is given.
    """
    needs = objective.needs
    if "old" in needs and batch.old is None:
        streams = annotate(policy, old, rows)
        batch = dataclasses.replace(batch, old=streams.policy)
    if needs & {"reference", "reference_lse", "reference_vocab"}:
        if reference is None:
            raise ValueError("the objective needs reference parameters; none are given")
        extras = [x for x in ("lse", "vocab") if f"reference_{x}" in needs]
        streams = annotate(policy, reference, rows, tuple(extras))
        batch = dataclasses.replace(
            batch,
            reference=streams.policy,
            reference_lse=streams.lse,
            reference_vocab=streams.vocab,
        )
    return batch


def loss_and_grad(
    policy: Policy,
    objective: Objective,
    params: Params,
    rows: Rows,
    prepared: Prepared,
    microbatches: int = 1,
):
    """((loss, metrics), gradient) of a prepared batch in `microbatches` pieces of P.

    The pieces add up to the whole: the normalisers are inside `prepared`.
    """
    extras = [x for x in ("entropy", "lse", "vocab") if x in objective.needs]

    def loss(params, rows, prepared):
        return objective.loss(streams_of(policy, params, rows, extras), prepared)

    step = jax.value_and_grad(loss, has_aux=True)
    if microbatches == 1:
        return step(params, rows, prepared)

    def cut(x):
        return x.reshape(microbatches, x.shape[0] // microbatches, *x.shape[1:])

    pieces = jax.tree.map(cut, (rows, prepared))
    shapes = jax.eval_shape(step, params, *jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total, piece):
        return jax.tree.map(jnp.add, total, step(params, *piece)), None

    return jax.lax.scan(add, zeros, pieces)[0]


@jax.jit
def advantage(objective: Objective, batch: Batch) -> Array:
    """`objective.advantage` compiled: statistics of a batch that is cut afterwards."""
    return objective.advantage(batch)


@partial(jax.jit, static_argnums=(0, 6), donate_argnums=(3,))
def update(
    policy: Policy,
    objective: Objective,
    optimizer: Optimizer,
    state: State,
    rows: Rows,
    batch: Batch,
    microbatches: int,
    steps: Array,
    signal: Array | None = None,
):
    """One optimiser step on one logical batch: (new state, metrics as scalars).

    `state` is donated. `steps` is the length of the schedule. `signal` is given when
    `batch` is a minibatch, since the statistics are those of the whole.
    """
    prepared = objective.prepare(batch, signal)
    (_, metrics), grads = loss_and_grad(
        policy, objective, state.params, rows, prepared, microbatches
    )
    params, inner, numbers = optimizer.update(
        grads, state.optimizer, state.params, state.step, steps
    )
    return State(params, inner, state.step + 1), metrics | numbers
