"""The gradient coefficient as a number: what stands before grad log pi."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unipost.batch import Batch, Streams
from unipost.mixture import Mixture
from unipost.objective import Objective, at_present
from unipost.objectives import AnyObjective, terms
from unipost.pair_links import PairLink
from unipost.vocabulary import Vocabulary

Array = jax.Array


def gradient_coefficient(
    objective: AnyObjective, logps: Array | Streams, batch: Batch
) -> Array:
    """GC [P, G, T] with grad L = -sum_it w_it GC_it grad log pi(y_t | s_t).

    w is the aggregation's weight of the token's unit, row weights included: that of the
    token (1/tokens for a token mean), of the row at sequence level (1/rows), of the
    pair for a preference (1/pairs, so that GC of DPO is +-beta sigmoid(-margin)). GC is
    0 outside the mask. It says how hard the objective raises (GC > 0) or lowers the
    log-probability of a token, the penalty included. Source: 2402.03300 section 5.2.

    Of a mixture w is 1/tokens of the batch for the whole sum, since every term has its
    own denominator. Of an objective over the vocabulary GC is [P, G, T, V] with grad L
    = -sum_itk w_it GC_itk grad log pi(k | s_t), and adds up to 0 over k: then it is
    minus the gradient in the logits as well.

    Raises ValueError for a value gauge, an entropy bonus or an exact penalty, whose
    gradient also goes through the other tokens of the vocabulary.
    """
    check(objective)
    prepared = objective.prepare(at_present(objective, logps, batch))
    streams = logps if isinstance(logps, Streams) else Streams(policy=logps)
    return of_prepared(objective, streams, prepared, batch.mask)


def of_prepared(
    objective: AnyObjective, streams: Streams, prepared: Any, mask: Array
) -> Array:
    """`gradient_coefficient` of a batch that has been prepared; `mask` is its own."""
    if isinstance(objective, Vocabulary):
        return _over_vocabulary(objective, streams, prepared)

    def loss(policy: Array):
        return objective.loss(dataclasses.replace(streams, policy=policy), prepared)[0]

    grad = jax.grad(loss)(jnp.asarray(streams.policy))
    if isinstance(objective, Mixture):
        kept = mask > 0
        return jnp.where(kept, -grad * jnp.maximum(kept.sum(), 1.0), 0.0)
    weight, rows = prepared.weight, prepared.row_weight[..., None]
    if isinstance(objective.link, PairLink):
        unit = rows.sum(-2, keepdims=True)
    else:
        unit = weight if objective.level == "token" else rows
    return jnp.where(weight != 0, -grad / jnp.where(unit != 0, unit, 1.0), 0.0)


def check(objective: AnyObjective) -> None:
    """Refuse an objective whose gradient is not one number per token."""
    for term in terms(objective):
        if isinstance(term, Objective):
            _refuse(term)
        elif isinstance(objective, Mixture):
            raise ValueError(
                f"mixture: {type(term).__name__} has a coefficient for every token of "
                "the vocabulary, the others one; ask for each term by itself"
            )


def _refuse(objective: Objective) -> None:
    for name, used in {
        "gauge": objective.gauge != "zero",
        "entropy_bonus": objective.entropy_bonus is not None,
        "penalty": objective.penalty is not None
        and objective.penalty.estimator == "exact",
    }.items():
        if used:
            raise ValueError(
                f"objective.{name}: its gradient goes through the whole vocabulary, no "
                "multiple of grad log pi of the token; drop it to see the rest"
            )


def _over_vocabulary(objective: Vocabulary, streams: Streams, prepared) -> Array:
    """Minus the gradient in the logits over the weight of the state [P, G, T, V].

    The token's own log-prob is a stream by itself: its share goes to the entry of the
    vocabulary with that log-prob.
    """

    def loss(policy: Array, vocab: Array) -> Array:
        given = dataclasses.replace(streams, policy=policy, vocab=vocab)
        return objective.loss(given, prepared)[0]

    policy, vocab = jnp.asarray(streams.policy), jnp.asarray(streams.vocab)
    of_token, of_vocab = jax.grad(loss, (0, 1))(policy, vocab)
    token = jnp.argmin(jnp.abs(vocab - policy[..., None]), -1)
    hot = jax.nn.one_hot(token, vocab.shape[-1], dtype=vocab.dtype)
    grad = of_vocab + of_token[..., None] * hot
    grad = grad - jnp.exp(vocab) * grad.sum(-1, keepdims=True)
    weight = prepared.weight[..., None]
    return jnp.where(weight != 0, -grad / jnp.where(weight != 0, weight, 1.0), 0.0)
