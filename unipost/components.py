"""Several rewards per response: summed then normalised, or normalised then summed.

`batch.components` [P, G, K] holds K rewards of every response, NaN where one was not
given. A response without any is unscored: advantage 0, and no statistic counts it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from unipost.aggregation import Empty
from unipost.batch import Batch
from unipost.levels import given
from unipost.parts import Scalar, concrete, part
from unipost.signals import Advantage, BatchZScore, Signal, ZScore

Array = jax.Array


@part
class SumThenNormalise(Signal):
    """An advantage of r = clip(sum_k weights_k r_k), the sum over the given rewards.

    weights    one per reward; None: one reward, `batch.rewards`
    clip       (low, high) for r, before a penalty in the reward; None: not clipped
    empty      "counted": a response without a token counts in the statistics with its
               reward (TRL); "left_out": it does not
    """

    advantage: Advantage = ZScore()
    weights: tuple[Scalar, ...] | None = None
    clip: tuple[Scalar, Scalar] | None = None
    empty: Empty = "left_out"

    def __post_init__(self):
        _check_outcome("sum_then_normalise", self.advantage)
        if self.clip is not None:
            low, high = (concrete(bound) for bound in self.clip)
            if low is not None and high is not None and not low < high:
                raise ValueError(
                    f"sum_then_normalise.clip: {low:g} is not below {high:g}"
                )

    @property
    def needs(self):
        rewards = "rewards" if self.weights is None else "components"
        return (self.advantage.needs - {"rewards"}) | {rewards}

    def rewarded(self, batch):
        if self.weights is None:
            rewards = given(batch, "rewards")
        else:
            rewards, known = _weighted(given(batch, "components"), self.weights)
            rewards = jnp.where(known, rewards, jnp.nan)
        if self.clip is not None:
            rewards = jnp.clip(rewards, *self.clip)
        return dataclasses.replace(batch, rewards=rewards)

    def __call__(self, batch):
        return self.advantage(_counting(batch, self.empty))


@part
class NormaliseThenSum(Signal):
    """BatchZScore of sum_k weights_k A_k, A_k the advantage of the k-th reward (GDPO).

    Each reward is normalised in its group before the sum, so that one of small spread
    is not drowned by one of large spread; the sum is then a z-score over the rows of
    the batch with any reward. weights None: 1 each. eps is that of the last
    division; `empty` as in `SumThenNormalise`. Source: 2601.05242.
    """

    advantage: Advantage = ZScore()
    weights: tuple[Scalar, ...] | None = None
    eps: Scalar = 1e-6
    empty: Empty = "left_out"

    def __post_init__(self):
        _check_outcome("normalise_then_sum", self.advantage)
        BatchZScore(eps=self.eps)  # the same bounds

    @property
    def needs(self):
        return (self.advantage.needs - {"rewards"}) | {"components"}

    def __call__(self, batch):
        batch = _counting(batch, self.empty)
        components = given(batch, "components")
        each = [
            self.advantage(dataclasses.replace(batch, rewards=components[..., k]))
            for k in range(components.shape[-1])
        ]
        normal = jnp.stack([advantage[..., 0] for advantage in each], -1)
        weights = self.weights or (1.0,) * len(each)
        total, known = _weighted(
            jnp.where(jnp.isfinite(components), normal, jnp.nan), weights
        )
        rewards = jnp.where(known, total, jnp.nan)
        batch = dataclasses.replace(batch, rewards=rewards)
        return BatchZScore(eps=self.eps)(batch)


def _weighted(values: Array, weights: tuple[Scalar, ...]) -> tuple[Array, Array]:
    """(sum_k w_k v_k over the finite v [P, G, K], where there is any) [P, G]."""
    if values.shape[-1] != len(weights):
        raise ValueError(
            f"batch.components: {values.shape[-1]} rewards and {len(weights)} weights; "
            "write one weight per reward"
        )
    known = jnp.isfinite(values)
    values = jnp.where(known, values, 0.0)
    terms = [w * values[..., k] for k, w in enumerate(weights)]
    return sum(terms[1:], terms[0]), known.any(-1)


def _counting(batch: Batch, empty: Empty) -> Batch:
    """`batch` with a token in every row where empty rows are to be counted."""
    if empty == "left_out":
        return batch
    return dataclasses.replace(batch, mask=jnp.ones_like(batch.mask))


def _check_outcome(where: str, advantage: Advantage) -> None:
    if advantage.supervision != "outcome":
        raise ValueError(
            f"{where}.advantage: {advantage.supervision} supervision has rewards per "
            "step; write outcome"
        )
