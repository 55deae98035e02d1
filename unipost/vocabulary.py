"""Objectives over the whole vocabulary at each state, beside the one objective.

They have no implicit reward of a sampled token for a link to act on: the loss at a
state is a function of the whole distribution pi(. | s). Aggregation, batch and the
prepare/loss protocol are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.aggregation import Aggregation, TokenMean
from unipost.annealed import at_first_step
from unipost.batch import Batch, Prepared, Streams
from unipost.classical import ForwardKL, ReverseKL
from unipost.divergence import Divergence
from unipost.fitting import cleaned_streams
from unipost.levels import given, stream
from unipost.objective import Objective
from unipost.parametric import SkewJensenShannon
from unipost.parts import Scalar, concrete, in_range, part
from unipost.penalties import exact_divergence

Array = jax.Array


class Vocabulary(ABC):
    """L = Agg of a loss per state, from the log-probs of the whole vocabulary."""

    aggregation: Aggregation

    @property
    def needs(self) -> frozenset[str]:
        """Names of the streams and batch arrays that the loss reads."""
        return frozenset({"policy", "vocab"})

    @abstractmethod
    def per_state(self, streams: Streams, batch: Batch) -> Array:
        """Loss [P, G, T] at each state."""

    def __call__(self, logps: Streams, batch: Batch):
        """(loss, metrics) of a whole batch; `logps` must hold `vocab`."""
        return self.loss(logps, self.prepare(batch))

    def advantage(self, batch: Batch) -> Array:
        """1 on every token: these objectives follow demonstrations or a teacher."""
        return jnp.ones_like(batch.mask)

    @at_first_step
    def prepare(self, batch: Batch, signal: Array | None = None) -> Prepared:
        """Weights over the logical batch, before it is cut along P."""
        for name in sorted(self.needs - {"policy", "vocab"}):
            given(batch, name)
        return Objective(aggregation=self.aggregation).prepare(batch, signal)

    @at_first_step
    def loss(self, logps: Streams, prepared: Prepared):
        """(loss, metrics) of a prepared batch or of any slice of it along P."""
        streams = cleaned_streams(logps, prepared)
        kept = prepared.batch.mask > 0
        value = jnp.where(kept, self.per_state(streams, prepared.batch), 0.0)
        loss = (prepared.weight * value).sum()
        return loss, {"loss": loss}


@part
class Gem(Vocabulary):
    """sum_k q_k h_k (log pi_k - log pi_y), q = sg softmax(log pi / beta). 2408.16673.

    h = 1 ("linear") has the gradient of beta times the cross-entropy of the tempered
    policy pi^(1/beta): it fits the demonstration without flattening what else the
    policy would say. "log_sigmoid": h_k = sg sigmoid((log pi_k - log pi_y)/100).
    """

    beta: Scalar = 0.7
    h: Literal["linear", "log_sigmoid"] = "linear"
    aggregation: Aggregation = TokenMean()

    def __post_init__(self):
        in_range("gem.beta", self.beta, 0.0, what="is not positive and finite")

    def per_state(self, streams, batch):
        vocab = stream(streams, "vocab")
        gap = vocab - streams.policy[..., None]
        q = jax.nn.softmax(jax.lax.stop_gradient(vocab) / self.beta, -1)
        if self.h == "log_sigmoid":
            q = q * jax.nn.sigmoid(jax.lax.stop_gradient(gap) / 100.0)
        # a token that the policy forbids (-inf) has q = 0
        return (q * jnp.where(q > 0, gap, 0.0)).sum(-1)


@part
class Distillation(Vocabulary):
    """D_f(policy || teacher) at every state, both tempered: softmax(log p / T).

    The teacher stands in `batch.reference_vocab` [P, G, T, V]. forward_kl is the usual
    distillation, reverse_kl is mode-seeking, skew_jensen_shannon the generalised JSD.
    No factor T^2 (as TRL). Source: 2306.13649.
    """

    divergence: Divergence
    temperature: Scalar = 1.0
    aggregation: Aggregation = TokenMean()

    def __post_init__(self):
        what = "is not positive and finite"
        in_range("distillation.temperature", self.temperature, 0.0, what=what)
        if not self.divergence.centred:
            raise ValueError(
                f"distillation.divergence: {self.divergence!r} is uncentred, a score "
                "and not a distance; write forward_kl"
            )

    @property
    def needs(self):
        return frozenset({"policy", "vocab", "reference_vocab"})

    def per_state(self, streams, batch):
        policy, teacher = stream(streams, "vocab"), given(batch, "reference_vocab")
        tempered = [
            jax.nn.log_softmax(x / self.temperature, -1) for x in (policy, teacher)
        ]
        return exact_divergence(self.divergence, *tempered)


def gem(
    beta: Scalar = 0.7,
    h: Literal["linear", "log_sigmoid"] = "linear",
    aggregation: Aggregation = TokenMean(),
) -> Gem:
    """GEM: L = mean_t sum_k q_k h_k (log pi_k - log pi_y), q = sg softmax(log pi/beta).

    Source: 2408.16673, beta 0.7 as its code. See `Gem`.
    """
    return Gem(beta, h, aggregation)


def gkd(
    beta: Scalar = 0.5,
    temperature: Scalar = 1.0,
    aggregation: Aggregation = TokenMean(),
) -> Distillation:
    """Generalised JSD: L = mean_t [beta KL(teacher || m) + (1-beta) KL(policy || m)].

    m = beta teacher + (1-beta) policy; beta 0 is KL(teacher || policy), beta 1 is
    KL(policy || teacher), as in 2306.13649 and TRL. Default beta 0.5.
    """
    known = concrete(beta)
    if known in (0.0, 1.0):
        divergence = ForwardKL() if known == 0.0 else ReverseKL()
    else:
        divergence = SkewJensenShannon(beta)
    return Distillation(divergence, temperature, aggregation)
