"""Decoding in N slots that requests enter and leave: the compiled half.

Letters: N slots, B prompts read at once, A rows admitted at once, L prompt columns
(left-padded), C cache columns, K columns of one run, V vocabulary.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.policy import Array, Cache, Params, Policy, insert_cache
from unipost.sampling.batch import row_keys
from unipost.sampling.distribution import Sampling, draw


class Slots(NamedTuple):
    """Model state of the slots: next-token logits [N V] and the cache of N rows."""

    logits: Array
    cache: Cache


class Rows(NamedTuple):
    """What decides each slot's next token [N], kept on the host between runs.

    id: of the completion. position: tokens drawn so far. budget: most tokens to draw.
    stops [N S]: ids that end it, filled up with -1. live: whether it still draws.
    given [N T]: tokens that take the place of drawn ones, -1 elsewhere; None: none do.
    """

    id: np.ndarray
    position: np.ndarray
    budget: np.ndarray
    stops: np.ndarray
    live: np.ndarray
    given: np.ndarray | None = None


class Run(NamedTuple):
    """What a run gave: tokens and logps [N K], a slot's own in its first columns."""

    slots: Slots
    position: Array
    live: Array
    tokens: Array
    logps: Array


@partial(jax.jit, static_argnums=(0, 4))
def read_prompts(
    policy: Policy, params: Params, prompt: Array, prompt_mask: Array, columns: int
) -> Slots:
    """Prompts [B L] read, ready to be admitted."""
    return Slots(*policy.prefill(params, prompt, prompt_mask, columns))


def empty_slots(policy: Policy, params: Params, count: int, columns: int) -> Slots:
    """`count` slots that hold nothing yet."""
    one = jax.ShapeDtypeStruct((count, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((count, 1), jnp.bool_)

    def read(params: Params, prompt: Array, prompt_mask: Array) -> Slots:
        return Slots(*policy.prefill(params, prompt, prompt_mask, columns))

    shapes = jax.eval_shape(read, params, one, mask)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


@partial(jax.jit, donate_argnums=0)
def admit(slots: Slots, fresh: Slots, source: Array, target: Array) -> Slots:
    """Rows source [A] of `fresh` put into slots target [A]; a target of N into none."""
    cache = Cache(
        jax.tree.map(lambda x: jnp.take(x, source, axis=1), fresh.cache.stacked),
        jax.tree.map(lambda x: jnp.take(x, source, axis=0), fresh.cache.rows),
        fresh.cache.slot,
    )
    logits = slots.logits.at[target].set(fresh.logits[source], mode="drop")
    return Slots(logits, insert_cache(slots.cache, cache, target))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def run(
    policy: Policy,
    columns: int,
    params: Params,
    slots: Slots,
    rows: Rows,
    key: Array,
    sampling: Sampling,
    until: Array,
) -> Run:
    """Decodes up to K = `columns` tokens per slot, or until `until` slots are live.

    Slot n draws from fold_in(fold_in(key, id), position), as `sample` does. A slot
    that is not live decodes on, and nothing is kept of it.
    """
    keys = row_keys(key, rows.id)

    def unfinished(state):
        step, _, _, live, *_ = state
        return (step < columns) & (live.sum() > until)

    def advance(state):
        """Draws column `step` of the live slots, and reads a token in all."""
        step, slots, position, live, tokens, logps = state
        now = jax.vmap(jax.random.fold_in)(keys, position)
        token, logp = draw(slots.logits, now, sampling)
        drawn = True
        if rows.given is not None:
            forced = jnp.take_along_axis(rows.given, position[:, None], 1)[:, 0]
            drawn = forced < 0
            token = jnp.where(drawn, token, forced)
            logp = jnp.where(drawn, logp, jnp.nan)
        tokens, logps = tokens.at[:, step].set(token), logps.at[:, step].set(logp)
        position = position + live
        stopped = (token[:, None] == rows.stops).any(-1) & drawn
        live = live & ~stopped & (position < rows.budget)
        decoded = Slots(*policy.decode(params, slots.cache, token))
        return step + 1, decoded, position, live, tokens, logps

    shape = len(rows.id), columns
    drawn = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, slots.logits.dtype)
    state = jnp.int32(0), slots, jnp.asarray(rows.position), jnp.asarray(rows.live)
    _, slots, position, live, tokens, logps = jax.lax.while_loop(
        unfinished, advance, (*state, *drawn)
    )
    return Run(slots, position, live, tokens, logps)
