"""TRL's losses of demonstrations, of a teacher and of a reward model."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from unipost import presets
from unipost.aggregation import Aggregation, Constant, SequenceSum, TokenMean
from unipost.levels import stream
from unipost.objective import Objective
from unipost.parts import Scalar, concrete, in_range, part
from unipost.reward_model import bradley_terry
from unipost.trl.members import Option, refuse_unread
from unipost.vocabulary import Distillation, Vocabulary

Array = jax.Array
Reduction = Literal["batchmean", "sum", "mean"]


@part
class LabelSmoothed(Vocabulary):
    """-(1-e) log pi(y) - e mean_v log pi(v): cross-entropy to a smoothed label."""

    smoothing: Scalar
    aggregation: Aggregation = TokenMean()

    def __post_init__(self):
        what = "is outside (0, 1); write sft() for 0"
        in_range("label_smoothed.smoothing", self.smoothing, 0.0, 1.0, what=what)

    def per_state(self, streams, batch):
        spread = stream(streams, "vocab").mean(-1)
        return -(1.0 - self.smoothing) * streams.policy - self.smoothing * spread


@part
class PerEntry(Distillation):
    """Distillation divided by the size of the vocabulary: a mean over [.., T, V]."""

    def per_state(self, streams, batch):
        entries = stream(streams, "vocab").shape[-1]
        return super().per_state(streams, batch) / entries


@part
class RewardLoss:
    """-log sigmoid(s_w - s_l - margin) + c (s_w + s_l)^2, the mean over pairs."""

    center_rewards_coefficient: Scalar | None = None

    def __call__(self, scores: Array, margin: Array | None = None):
        """(loss, metrics) of scores [2N] or [2N, 1], chosen first; margin [N]."""
        chosen, rejected = jnp.split(jnp.reshape(scores, -1), 2)
        centering = self.center_rewards_coefficient
        return bradley_terry(chosen, rejected, margin, centering)


def _counted(num_items_in_batch: Scalar | None) -> Aggregation:
    """The mean over tokens, or the sum over max(items, 1) as counted elsewhere."""
    if num_items_in_batch is None:
        return TokenMean()
    known = concrete(num_items_in_batch)
    if known is None:
        return Constant(jnp.maximum(num_items_in_batch, 1.0), over="nothing")
    return Constant(max(known, 1.0), over="nothing")


def sft(
    loss_type: Literal["nll", "dft"] = "nll",
    num_items_in_batch: Scalar | None = None,
    label_smoothing_factor: Scalar = 0.0,
) -> Objective | LabelSmoothed:
    """SFTConfig: L = sum_t -log pi (nll) or -sg(pi) log pi (dft), over the items.

    The items are the tokens of the batch, or `num_items_in_batch` (at least 1; with
    accumulation, those of the whole step). label_smoothing_factor e, with nll: (1-e)
    times that plus e times the mean over the vocabulary, which needs
    `Streams(vocab=...)`.
    """
    if loss_type not in ("nll", "dft"):
        raise ValueError(f"sft.loss_type: {loss_type!r}; write nll or dft")
    factor = label_smoothing_factor
    unread = Option("label_smoothing_factor", factor, 0.0, ("nll",))
    refuse_unread("sft", (loss_type,), unread)
    aggregation = _counted(num_items_in_batch)
    if concrete(factor) != 0.0:
        return LabelSmoothed(factor, aggregation)
    return (presets.dft if loss_type == "dft" else presets.sft)(aggregation)


def gkd(
    beta: Scalar = 0.5,
    temperature: Scalar = 1.0,
    reduction: Reduction = "batchmean",
    num_items_in_batch: Scalar | None = None,
    labels: Literal["given", "none"] = "given",
) -> Distillation:
    """generalized_jsd_loss: beta KL(teacher || m) + (1-beta) KL(student || m).

    m = beta teacher + (1-beta) student; beta 0: KL(teacher || student); beta 1:
    KL(student || teacher). Both tempered, no factor T^2. `Streams(vocab=...)` holds
    the student, `batch.reference_vocab` the teacher, the mask what labels select.

        batchmean   sum over tokens / number of tokens; `labels="none"` (a call without
                    labels): / number of rows
        sum, mean   the sum; the mean over tokens times vocabulary

    `num_items_in_batch` divides the sum whatever the reduction, which must then be
    batchmean. The unreduced values are `per_state`, summed over the vocabulary.
    """
    if reduction not in ("batchmean", "sum", "mean"):
        raise ValueError(f"gkd.reduction: {reduction!r}; write batchmean, sum or mean")
    if num_items_in_batch is not None and (reduction, labels) != ("batchmean", "given"):
        raise ValueError(
            f"gkd.num_items_in_batch: {num_items_in_batch} replaces reduction and "
            "labels; write reduction='batchmean', labels='given'"
        )
    if labels == "none" and reduction != "batchmean":
        raise ValueError(
            f"gkd.labels: none with reduction {reduction}, the same as given; write "
            "labels='given'"
        )
    if num_items_in_batch is not None:
        aggregation = Constant(num_items_in_batch, over="nothing")
    elif reduction == "sum":
        aggregation = Constant(1.0, over="nothing")
    else:
        rows = labels == "none"
        aggregation = SequenceSum(empty="counted") if rows else TokenMean()
    objective = presets.gkd(beta, temperature, aggregation)
    if reduction == "mean":
        return PerEntry(objective.divergence, temperature, aggregation)
    return objective


def reward(center_rewards_coefficient: Scalar | None = None) -> RewardLoss:
    """RewardConfig: L = mean -log sigmoid(s_w - s_l - margin) + c mean (s_w + s_l)^2.

    c = center_rewards_coefficient, None for none. See `unipost.reward_model`.
    """
    return RewardLoss(center_rewards_coefficient)
