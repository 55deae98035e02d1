"""Exact distances between two policies at the states of given responses."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unipost.classical import ReverseKL
from unipost.head import by_columns, default_chunk
from unipost.penalties import exact_divergence
from unipost.policy import Params, Policy
from unipost.scoring import response_hidden
from unipost.update import Rows

Array = jax.Array


class Distances(NamedTuple):
    """Per response [P G], in nats; states are those before each response token.

    reverse, forward  sum over states of KL(policy || reference), and the other way
    entropy           mean over states of the policy's entropy
    """

    reverse: Array
    forward: Array
    entropy: Array


@partial(jax.jit, static_argnums=0)
def state_distances(
    policy: Policy, params: Params, reference: Params, rows: Rows
) -> Distances:
    """`Distances` of `params` from `reference` along rows [P G ...].

    Sums over the whole vocabulary, in chunks of columns: no [P G T V] is formed.
    """
    shape = rows.response.shape
    flat = [x.reshape(-1, x.shape[-1]) for x in rows[:4]]
    hidden = [response_hidden(policy, p, *flat) for p in (params, reference)]
    # two heads at once
    chunk = max(1, default_chunk(partial(policy.head, params), hidden[0], ()) // 2)

    def piece(new: Array, old: Array) -> tuple[Array, Array, Array]:
        new = jax.nn.log_softmax(policy.head(params, new), -1)
        old = jax.nn.log_softmax(policy.head(reference, old), -1)
        surprise = -jnp.exp(new) * jnp.where(new > -jnp.inf, new, 0.0)
        both = (
            exact_divergence(ReverseKL(), new, old),
            exact_divergence(ReverseKL(), old, new),
        )
        return *both, surprise.sum(-1)

    mask = rows.response_mask
    found = (x.reshape(shape) for x in by_columns(piece, chunk, *hidden))
    reverse, forward, surprise = (jnp.where(mask, x, 0.0).sum(-1) for x in found)
    return Distances(reverse, forward, surprise / jnp.maximum(mask.sum(-1), 1))
