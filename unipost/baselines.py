"""Baselines of a policy gradient beyond the group's mean; signals that wrap another.

As in `unipost.signals`: constants to autodiff, statistics over the logical batch, an
unscored (NaN) row gets 0. OPO, ReMax, pass@k, GPG, and whitening over tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.advantages import token_rewards
from unipost.batch import Batch
from unipost.critic import whiten
from unipost.levels import given, outcomes
from unipost.parts import Scalar, concrete, in_range, part, require
from unipost.signals import Advantage, Alone, Mean, Signal, Supervision

Array = jax.Array


@part
class LengthWeighted(Signal):
    """A_i = r_i - sum_j n_j r_j / sum_j n_j over the group, n the lengths: OPO.

    The variance of a sum over tokens grows with their number; this is the baseline of
    least variance when tokens are uncorrelated. `alone` says what the only scored row
    of a group gets: 0, or its reward (verl). Rewards are [P, G]. Source: 2505.23585.
    """

    alone: Alone = "zero"

    @property
    def needs(self):
        return frozenset({"rewards"})

    def __call__(self, batch):
        rewards = outcomes(batch, "length_weighted")
        scored = jnp.isfinite(rewards)
        rewards = jnp.where(scored, rewards, 0.0)
        length = jnp.where(scored, batch.mask.sum(-1), 0.0)
        total = jnp.maximum(length.sum(-1, keepdims=True), 1.0)
        baseline = (length * rewards).sum(-1, keepdims=True) / total
        if self.alone == "reward":
            single = scored.sum(-1, keepdims=True) == 1
            baseline = jnp.where(single, 0.0, baseline)
        advantage = jnp.where(scored, rewards - baseline, 0.0)
        return jnp.broadcast_to(advantage[..., None], batch.mask.shape)


@part
class GreedyBaseline(Signal):
    """A_t = sum_{s >= t} r_s - b, b the reward of the greedy response: ReMax.

    b is `batch.baseline` [P, G], equal within a group. Outcome rewards stand on the
    last token, so that A = r - b on every token. Source: 2310.10505.
    """

    token_rewards: ClassVar[bool] = True

    @property
    def needs(self):
        return frozenset({"rewards", "baseline"})

    def __call__(self, batch):
        rewards = given(batch, "rewards")
        scored = jnp.isfinite(rewards)
        scored = scored if rewards.ndim == 2 else scored.all(-1)
        advantage = reward_to_go(batch) - given(batch, "baseline")[..., None]
        return jnp.where((batch.mask > 0) & scored[..., None], advantage, 0.0)


@part
class BestResponse(Advantage):
    """(r_best - r_second) / (std + eps) for the group's best response, 0 for the rest.

    The gradient of the group's maximum, whose baseline is the maximum without that
    response: pass@k for k the size of the group. `scale` "none" leaves out the
    deviation (ddof 1). A group with fewer than two scored rows gets 0. 2503.19595.
    """

    eps: Scalar = 1e-6
    scale: Literal["std", "none"] = "std"
    supervision: ClassVar[Supervision] = "outcome"

    def __post_init__(self):
        known = concrete(self.eps)
        ok = known is None or known >= 0.0
        require("best_response.eps", self.eps, ok, "is negative")

    def _normalise(self, rewards, valid):
        ranked = jnp.where(valid, rewards, -jnp.inf)
        best = jax.nn.one_hot(ranked.argmax(-1), rewards.shape[-1], dtype=bool)
        second = jnp.where(best, -jnp.inf, ranked).max(-1, keepdims=True)
        contest = valid.sum(-1, keepdims=True) > 1
        lead = jnp.where(best & contest, rewards - jnp.where(contest, second, 0.0), 0.0)
        if self.scale == "none":
            return lead
        spread = jnp.where(contest, ranked, 0.0)
        std = spread.std(-1, keepdims=True, ddof=1, where=valid & contest)
        return jnp.where(lead > 0, lead / (jnp.where(contest, std, 1.0) + self.eps), 0)


@part
class InformativeMean(Advantage):
    """A = alpha (r - mean) / norm, alpha = rows / rows that carry a gradient: GPG.

    Groups whose rewards are all equal shrink the update; alpha undoes it. `count`
    "groups" counts the rows of the groups whose rewards differ; "rewards" the rows
    with a reward other than 0 (verl). alpha is over the logical batch. 2504.02546.
    """

    norm: Scalar = 1.0
    count: Literal["groups", "rewards"] = "groups"
    alone: Alone = "zero"
    supervision: ClassVar[Supervision] = "outcome"

    def __post_init__(self):
        in_range("informative_mean.norm", self.norm, 0.0, what="is not positive")

    def _normalise(self, rewards, valid):
        centred = Mean(alone=self.alone)._normalise(rewards, valid)
        if self.count == "groups":
            carries = valid & (centred != 0).any(-1, keepdims=True)
        else:
            carries = valid & (rewards != 0)
        return valid.sum() / jnp.maximum(carries.sum(), 1) * centred / self.norm


@part
class Whitened(Signal):
    """Another signal, whitened over the tokens: (A - mean) / sqrt(var + 1e-8), ddof 1.

    A long response counts as often as it has tokens. REINFORCE++ with a baseline is
    `Whitened(Mean())`. Source: 2501.03262.
    """

    signal: Signal

    @property
    def needs(self):
        return self.signal.needs

    def select(self, batch):
        return self.signal.select(batch)

    def rewarded(self, batch):
        return self.signal.rewarded(batch)

    def __call__(self, batch):
        return whiten(self.signal(batch), batch.mask)


def reward_to_go(batch: Batch) -> Array:
    """sum_{s >= t} r_s per token [P, G, T], undiscounted, of the unmasked tokens."""
    rewards = token_rewards(batch)
    return jnp.flip(jnp.cumsum(jnp.flip(rewards, -1), -1), -1)


BASELINES = {
    "length_weighted": LengthWeighted,
    "greedy_baseline": GreedyBaseline,
    "best_response": BestResponse,
    "informative_mean": InformativeMean,
    "whitened": Whitened,
}
