"""What reward models are trained on: preferences of responses, labels of steps."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from unipost.aggregation import TokenMean
from unipost.batch import Batch, check_shapes
from unipost.levels import given
from unipost.parts import Scalar, concrete, part, require
from unipost.reward_model import pair_losses
from unipost.scalar.model import ScalarStreams
from unipost.scalar.objective import Layout, ScalarObjective
from unipost.signals import Preference

Array = jax.Array
WRONG, RIGHT = 0, 1
"""The labels of a process reward model, in the order of its scores."""


class Pairs(NamedTuple):
    """Prepared preferences of P pairs; a pair of weight 0 compares nothing.

    sign    [P]     +1 where response 0 is chosen, -1 where response 1 is
    weight  [P]     the loss is sum(weight * loss of a pair)
    mean    [P]     1 / number of pairs, for metrics
    margin  [P]     by how much the chosen response should be ahead
    last    [P, 2]  index of each response's last token, where it is scored
    """

    sign: Array
    weight: Array
    mean: Array
    margin: Array
    last: Array


@part
class BradleyTerry(ScalarObjective):
    """mean over pairs of -log sigmoid(r_c - r_r - m) + centering (r_c + r_r)^2.

    r is the score after the last token of a response, m the column of margins
    (`margin: column`, 2307.09288) or 0; `centering` fixes the constant that the
    likelihood leaves free (2312.09244). The larger of two rewards is chosen, without
    rewards response 0; ties and pairs with an empty response are left out.
    """

    margin: Literal["none", "column"] = "none"
    centering: Scalar | None = None
    follows: ClassVar[frozenset[str]] = frozenset({"preferences"})

    def __post_init__(self):
        if self.centering is not None:
            known = concrete(self.centering)
            ok = known is None or known > 0
            what = "is not positive; write centering: null for none"
            require("bradley_terry.centering", self.centering, ok, what)

    @property
    def needs(self):
        margin = {"margin"} if self.margin == "column" else set[str]()
        return frozenset({"scores"} | margin)

    def prepare(self, batch: Batch, signal: Array | None = None) -> Pairs:
        """Which response is chosen, and the weights of the pairs of the batch."""
        check_shapes(batch)
        mask = batch.mask > 0
        sign = Preference()(batch)[:, 0, 0]
        counts = mask.any(-1).all(-1) & (sign != 0)
        dtype = jnp.result_type(float)
        mean = counts.astype(dtype) / jnp.maximum(counts.sum(), 1)
        weight = mean if batch.weight is None else mean * batch.weight.prod(-1)
        margin = jnp.zeros_like(mean)
        if self.margin == "column":
            margin = jnp.where(counts, given(batch, "margin")[:, 0], 0.0)
        columns = jnp.arange(mask.shape[-1])
        last = jnp.where(mask, columns, 0).max(-1)
        return Pairs(sign, weight, mean, margin, last)

    def loss(self, streams: ScalarStreams, prepared: Pairs):
        """(loss, metrics); both add up over slices along P.

        Metrics, means over pairs of the raw scores: accuracy (share r_c > r_r), margin
        (r_c - r_r), chosen_reward, rejected_reward.
        """
        sign, weight, mean, margin, last = prepared
        scores = _scores(streams, 1)[..., 0]
        scores = jnp.take_along_axis(scores, last[..., None], -1)[..., 0]
        first = sign > 0
        chosen = jnp.where(first, scores[:, 0], scores[:, 1])
        rejected = jnp.where(first, scores[:, 1], scores[:, 0])
        value = pair_losses(chosen, rejected, margin, self.centering)
        loss = (weight * value).sum()
        return loss, {
            "loss": loss,
            "accuracy": (mean * (chosen > rejected)).sum(),
            "margin": (mean * (chosen - rejected)).sum(),
            "chosen_reward": (mean * chosen).sum(),
            "rejected_reward": (mean * rejected).sum(),
        }


class Ends(NamedTuple):
    """Prepared ends of steps, [P, G, T] each.

    right   whether the step is right
    weight  the loss is sum(weight * loss of an end)
    mean    1 / number of supervised ends, for metrics
    """

    right: Array
    weight: Array
    mean: Array


@part
class ProcessReward(ScalarObjective):
    """Mean over step ends of -log P(label), P = softmax of the scores [wrong, right].

    Labels are `batch.rewards` [P, G, T] where `batch.steps` is 1: +1 right, -1 wrong,
    0 neutral, NaN not labelled. neutral says what a 0 counts as: right (2305.20050
    scores solutions so), wrong, or skip: not supervised. until: first_wrong supervises
    no step after the first wrong one of a response (2305.20050), all does.
    """

    neutral: Literal["right", "wrong", "skip"] = "right"
    until: Literal["first_wrong", "all"] = "first_wrong"
    labels: ClassVar[int] = 2
    layout: ClassVar[Layout] = "token"
    follows: ClassVar[frozenset[str]] = frozenset({"steps"})

    @property
    def needs(self):
        return frozenset({"scores", "rewards", "steps"})

    def prepare(self, batch: Batch, signal: Array | None = None) -> Ends:
        """The supervised ends of the batch. ValueError for rewards of responses."""
        check_shapes(batch)
        labels, steps = given(batch, "rewards"), given(batch, "steps")
        if labels.ndim != 3:
            raise ValueError(
                f"batch.rewards: shape {labels.shape}; write a label for every step "
                "[prompts, group, tokens]"
            )
        known = (batch.mask > 0) & (steps > 0) & jnp.isfinite(labels)
        right = (labels > 0) | ((labels == 0) & (self.neutral == "right"))
        if self.neutral == "skip":
            known &= labels != 0
        if self.until == "first_wrong":
            wrong = (known & ~right).astype(jnp.int32)
            known &= jnp.cumsum(wrong, -1) - wrong == 0
        mean = TokenMean().weights(known.astype(jnp.result_type(float)))
        own = batch.weight
        weight = mean if own is None else mean * own[..., None]
        return Ends(right, weight, mean)

    def loss(self, streams: ScalarStreams, prepared: Ends):
        """(loss, metrics); both add up over slices along P.

        Metrics, means over the supervised ends: accuracy, right (share labelled so) and
        predicted_right (mean P(right)).
        """
        right, weight, mean = prepared
        log_p = jax.nn.log_softmax(_scores(streams, 2), -1)
        wanted = jnp.where(right, log_p[..., RIGHT], log_p[..., WRONG])
        loss = -(weight * jnp.where(weight != 0, wanted, 0.0)).sum()
        says_right = log_p[..., RIGHT] > log_p[..., WRONG]
        return loss, {
            "loss": loss,
            "accuracy": (mean * (says_right == right)).sum(),
            "right": (mean * right).sum(),
            "predicted_right": (mean * jnp.exp(log_p[..., RIGHT])).sum(),
        }


def _scores(streams: ScalarStreams, labels: int) -> Array:
    """Scores [P, G, T, labels]. Raises ValueError for another head, or none."""
    if streams.scores is None:
        raise ValueError("streams.scores: missing; a reward model's loss reads them")
    found = streams.scores.shape[-1]
    if found != labels:
        raise ValueError(f"streams.scores: {found} labels; write a head with {labels}")
    return streams.scores
