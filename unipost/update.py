"""The training step: plain jitted functions of parameters, rows and streams.

Objective and optimiser are arguments, so their numbers can change without compiling
again; the policy, the number of microbatches and all shapes are static. An objective
is anything with `needs`, `advantage`, `prepare` and `loss` (`unipost.objectives`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.adapters import with_trained
from unipost.batch import Batch, Streams
from unipost.diagnostics import extras as watched_streams
from unipost.diagnostics import finished, merge, nothing, signal_metrics, tally, watched
from unipost.levels import given
from unipost.mesh import Layout, as_pieces
from unipost.model import Params, Policy
from unipost.objectives import Trainable
from unipost.optimizers import Optimizer
from unipost.optimizers.base import wide_dtype
from unipost.packed import Packed, pack_pieces, score_packed
from unipost.processes import in_turn
from unipost.scalar.model import STREAMS, scalar_streams
from unipost.scoring import EXTRAS, score

Array = jax.Array
REFERENCE = frozenset({"reference", "reference_lse", "reference_vocab", "mismatched"})
"""What an objective may need that is computed from the reference parameters."""


class Rows(NamedTuple):
    """Text of P prompts x G responses: prompts [P, G, L], responses [P, G, T].

    `packed` is the same text without padding, laid out in pieces of P, one after the
    other on its first axis (`with_packing`): where it is given, it is what is scored.
    """

    prompt: Array
    prompt_mask: Array
    response: Array
    response_mask: Array
    packed: Packed | None = None


class State(NamedTuple):
    """Everything that a step changes; with the config and the seed, the whole run.

    `params` are those that are trained: all of a model's, or its adapter's.
    """

    params: Params
    optimizer: Any
    step: Array


def streams_of(policy: Policy, params: Params, rows: Rows, extras=()) -> Streams:
    """Log-prob streams [P, G, T] of the responses under `params`, at temperature 1."""
    p, g, length = rows.response.shape
    if rows.packed is not None:
        one = jax.tree.map(partial(jnp.squeeze, axis=0), rows.packed)
        shape = p * g, length
        scores = score_packed(policy, params, one, shape, extras=tuple(extras))
    else:
        flat = (x.reshape(p * g, x.shape[-1]) for x in rows[:4])
        scores = score(policy, params, *flat, extras=tuple(extras))
    whole = jax.tree.map(lambda x: x.reshape(p, g, *x.shape[1:]), scores)
    return Streams(whole.logps, **{x: getattr(whole, x) for x in EXTRAS})


def streams_for(
    needs: Collection[str], policy: Policy, params: Params, rows: Rows
) -> Any:
    """The streams that an objective with these `needs` reads of its model.

    `Streams` of a language model, `ScalarStreams` where a scalar head is asked for.
    """
    if set(needs).isdisjoint(STREAMS):
        extras = [x for x in EXTRAS if x in needs]
        return streams_of(policy, params, rows, extras)
    return scalar_streams(needs, policy, params, rows)


@partial(jax.jit, static_argnums=(0, 3, 4))
def annotate(
    policy: Policy,
    params: Params,
    rows: Rows,
    extras: tuple[str, ...] = (),
    microbatches: int = 1,
) -> Streams:
    """`streams_of` compiled, for streams that are data: old and reference.

    In `microbatches` pieces of P, so that it needs no more memory than an update.
    """
    return in_pieces(
        lambda piece: streams_of(policy, params, piece, extras), rows, microbatches
    )


def with_packing(rows: Rows, length: int, pieces: int, blocks: int = 1) -> Rows:
    """`rows` with their texts packed into rows of `length` tokens, in `pieces` of P.

    A computation in microbatches takes as many pieces; the rows of each are cut into
    `blocks`, one per device that rows are spread over. It happens on the host. Raises
    ValueError for a text longer than `length`.
    """
    prompt, prompt_mask, response, response_mask = (
        np.asarray(x).reshape(-1, x.shape[-1]) for x in rows[:4]
    )
    texts = prompt, prompt_mask, response, response_mask
    packed = pack_pieces(*texts, length, pieces, blocks=blocks)
    return rows._replace(packed=packed)


def minibatch(tree: Any, index: int, count: int) -> Any:
    """The `index`-th of `count` equal pieces of every leaf's first axis."""

    def cut(x):
        size = x.shape[0] // count
        return x[index * size : (index + 1) * size]

    return tree if count == 1 else jax.tree.map(cut, tree)


@partial(jax.jit, static_argnums=(0, 2, 3))
def spread_minibatch(layout: Layout, whole: Any, index: int, count: int) -> Any:
    """`minibatch` of (rows, ...) with its rows spread again, in one program."""
    (rows, *others) = minibatch(whole, index, count)
    plain = layout.keep_rows((rows._replace(packed=None), *others))
    packed = rows.packed and jax.lax.with_sharding_constraint(
        rows.packed, jax.tree.map(lambda _: layout.packed, rows.packed)
    )
    return plain[0]._replace(packed=packed), *plain[1:]


@partial(jax.jit, static_argnums=1)
def mismatched_rows(rows: Rows, minibatches: int = 1) -> Rows:
    """Every prompt with the response of the next prompt of its minibatch, the same g.

    The last prompt of a minibatch gets the response of the first. Not packed.
    """

    def rolled(x):
        parts = x.reshape(minibatches, -1, *x.shape[1:])
        return jnp.roll(parts, -1, axis=1).reshape(x.shape)

    return Rows(*rows[:2], rolled(rows.response), rolled(rows.response_mask))


def with_streams(
    objective: Trainable,
    policy: Policy,
    rows: Rows,
    batch: Batch,
    old: Params,
    reference: Params | None,
    *,
    reference_policy: Policy | None = None,
    microbatches: int = 1,
    minibatches: int = 1,
) -> Batch:
    """`batch` with the old and reference streams that the objective reads, no others.

    `old` are the parameters before the inner updates; `reference_policy` is the policy
    of `reference` where it is not `policy`. They are computed in `microbatches` pieces
    of the batch. Mismatched pairs are made within each of `minibatches`. What `batch`
    has stays. Raises ValueError where a reference is needed and none is given.
    """
    needs = objective.needs
    missing = {x for x in needs & REFERENCE if getattr(batch, x) is None}
    if "old_collision" in needs or ("old" in needs and batch.old is None):
        extras = ("collision",) if "old_collision" in needs else ()
        streams = in_turn(annotate(policy, old, rows, extras, microbatches))
        batch = dataclasses.replace(
            batch, old=streams.policy, old_collision=streams.collision
        )
    if not missing:
        return batch
    if reference is None:
        raise ValueError("the objective needs reference parameters; none are given")
    judge = policy if reference_policy is None else reference_policy
    if missing - {"mismatched"}:
        extras = [x for x in ("lse", "vocab") if f"reference_{x}" in needs]
        args = judge, reference, rows, tuple(extras), microbatches
        streams = in_turn(annotate(*args))
        batch = dataclasses.replace(
            batch,
            reference=streams.policy,
            reference_lse=streams.lse,
            reference_vocab=streams.vocab,
        )
    if "mismatched" in missing:
        others = mismatched_rows(rows, minibatches)
        streams = in_turn(annotate(judge, reference, others, (), microbatches))
        total = streams.policy.sum(-1)
        batch = dataclasses.replace(batch, mismatched_reference=total)
    return batch


def with_present(
    policy: Policy,
    objective: Trainable,
    params: Params,
    rows: Rows,
    batch: Batch,
    microbatches: int = 1,
    minibatches: int = 1,
) -> Batch:
    """`batch` with what the policy says at `params`, as constants, where it is needed.

    `current`, `current_entropy` and `mismatched` of the whole batch, computed in
    `microbatches` pieces: what `prepare` makes of them does not depend on the cut.
    `minibatches` as in `with_streams`.
    """
    missing = {x for x in objective.needs if getattr(batch, x, 0) is None}
    params, found = jax.lax.stop_gradient(params), {}

    def scored(rows: Rows, extras: tuple[str, ...] = ()) -> Streams:
        return in_pieces(
            lambda piece: streams_of(policy, params, piece, extras), rows, microbatches
        )

    if missing & {"current", "current_entropy"}:
        extras = ("entropy",) if "current_entropy" in missing else ()
        streams = scored(rows, extras)
        found = {"current": streams.policy, "current_entropy": streams.entropy}
    if "mismatched" in missing:
        others = mismatched_rows(rows, minibatches)
        reference = given(batch, "mismatched_reference")
        gap = scored(others).policy.sum(-1) - reference
        # an empty response stands for no pair
        found["mismatched"] = jnp.where(others.response_mask.any(-1), gap, jnp.nan)
    return dataclasses.replace(batch, **{x: found[x] for x in missing & found.keys()})


def _cut(tree: Any, pieces: int) -> Any:
    """Leaves [P, ...] as [pieces, P / pieces, ...]."""
    cut = jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), tree)
    return as_pieces(cut)


def in_pieces(function: Callable[[Rows], Any], rows: Rows, pieces: int) -> Any:
    """`function` of the rows, one piece of P after the other, joined again."""
    if pieces == 1:
        return function(rows)
    parts = jax.lax.map(function, _cut(rows, pieces))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)


def loss_and_grad(
    policy: Policy,
    objective: Trainable,
    params: Params,
    rows: Rows,
    prepared: Any,
    microbatches: int = 1,
    frozen: Any = None,
    seen: Batch | None = None,
):
    """((loss, metrics), gradient) of a prepared batch in `microbatches` pieces of P.

    The pieces add up to the whole: the normalisers are inside `prepared`, which is
    what `objective.prepare` gives. The gradient is with respect to `params`, which
    stand on top of `frozen` where it is given (`unipost.adapters`). `seen` is what the
    diagnostics read of the batch (`unipost.diagnostics.watched`).
    """
    needs = {*objective.needs, *watched_streams(seen)}

    def loss(params, rows, prepared, seen):
        whole = with_trained(frozen, params)
        streams = streams_for(needs, policy, whole, rows)
        value, metrics = objective.loss(streams, prepared)
        return value, (metrics, tally(objective, streams, prepared, seen))

    step = jax.value_and_grad(loss, has_aux=True)
    if microbatches == 1:
        (value, (metrics, found)), grads = step(params, rows, prepared, seen)
        return (value, finished(found) | metrics), grads
    pieces = _cut((rows, prepared, seen), microbatches)
    shapes = jax.eval_shape(step, params, *jax.tree.map(lambda x: x[0], pieces))
    # gradients of bfloat16 parameters are added in float32
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, wide_dtype(s.dtype)), shapes)
    (value, (metrics, found)), grads = zeros

    def add(total, piece):
        sums, (metrics, found) = total
        (value, (more, counts)), slopes = step(params, *piece)
        sums = jax.tree.map(jnp.add, sums, (value, slopes))
        return (sums, (merge(metrics, more), merge(found, counts))), None

    start = (value, grads), (nothing(metrics), nothing(found))
    ((value, grads), (metrics, found)), _ = jax.lax.scan(add, start, pieces)
    return (value, finished(found) | metrics), grads


@partial(jax.jit, static_argnums=(0, 5, 6))
def advantage(
    policy: Policy,
    objective: Trainable,
    params: Params,
    rows: Rows,
    batch: Batch,
    microbatches: int,
    minibatches: int,
) -> Any:
    """The signal of a whole batch, before it is cut into `minibatches`.

    An advantage is relative to the batch as it was drawn. It is computed in
    `microbatches` pieces where it reads what the policy says at `params`.
    """
    pieces = microbatches, minibatches
    return objective.advantage(
        with_present(policy, objective, params, rows, batch, *pieces)
    )


@partial(jax.jit, static_argnums=(0, 6, 10), donate_argnums=(3,))
def update(
    policy: Policy,
    objective: Trainable,
    optimizer: Optimizer,
    state: State,
    rows: Rows,
    batch: Batch,
    microbatches: int,
    steps: Array,
    signal: Any = None,
    frozen: Any = None,
    layout: Layout | None = None,
):
    """One optimiser step on one logical batch: (new state, metrics as scalars).

    `state` is donated. `steps` is the length of the schedule. `signal` is given when
    `batch` is a minibatch (see `advantage`); what the policy says at present, and what
    is made of that (reference points, quantiles), is of the minibatch and this update.
    `frozen` are parameters that the state's stand on. On a mesh the new state lies as
    `layout` says, so that the next step finds it where this one did.
    """
    params = with_trained(frozen, state.params)
    batch = with_present(policy, objective, params, rows, batch, microbatches)
    prepared = objective.prepare(batch, signal)
    (_, metrics), grads = loss_and_grad(
        policy,
        objective,
        state.params,
        rows,
        prepared,
        microbatches,
        frozen,
        watched(objective, batch),
    )
    metrics |= signal_metrics(objective, batch, prepared)
    if layout is not None:
        grads = layout.keep(grads)
    params, inner, numbers = optimizer.update(
        grads, state.optimizer, state.params, state.step, steps
    )
    state = State(params, inner, state.step + 1)
    return state if layout is None else layout.keep(state), metrics | numbers
