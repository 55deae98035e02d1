"""Advantages that need more than a group's rewards: a critic, returns, several rewards.

All are constants to autodiff and statistics over the logical batch.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.critic import gae, whiten
from unipost.levels import given
from unipost.parts import Scalar, concrete, in_range, part, require
from unipost.signals import (
    Advantage,
    BatchZScore,
    LeaveOneOut,
    Mean,
    Signal,
    Supervision,
)

Array = jax.Array


@part
class Given(Signal):
    """`batch.advantage` [P, G] or [P, G, T] as it is: computed elsewhere."""

    @property
    def needs(self):
        return frozenset({"advantage"})

    def __call__(self, batch):
        value = given(batch, "advantage")
        value = value if value.ndim == 3 else value[..., None]
        return jnp.broadcast_to(value, batch.mask.shape)


@part
class GAE(Signal):
    """Generalised advantage estimation from a critic's values (PPO), then whitened.

    delta_t = r_t + gamma V_next - V_t, A_t = delta_t + gamma lam A_next, over the
    unmasked tokens; outcome rewards stand on the last token. Whitened over all tokens
    of the scored rows of the logical batch: (A - mean) / sqrt(var + 1e-8), ddof 1;
    `count_eps` is added to the number of tokens (verl: 1e-8). A row with a NaN reward
    is unscored and gets 0. Source: 1506.02438.
    """

    gamma: Scalar = 1.0
    lam: Scalar = 0.95
    count_eps: Scalar = 0.0
    token_rewards: ClassVar[bool] = True

    def __post_init__(self):
        _check_discount("gae.gamma", self.gamma)
        _check_discount("gae.lam", self.lam)

    @property
    def needs(self):
        return frozenset({"rewards", "values"})

    def __call__(self, batch):
        advantage, _, scored = self._estimate(batch)
        return whiten(advantage, scored, count_eps=self.count_eps)

    def returns(self, batch: Batch) -> Array:
        """The critic's targets A_t + V_t [P, G, T], of A before it is whitened.

        0 outside the mask, NaN on an unscored row: there is no target.
        """
        _, returns, scored = self._estimate(batch)
        return jnp.where((batch.mask > 0) & (scored == 0), jnp.nan, returns)

    def _estimate(self, batch: Batch) -> tuple[Array, Array, Array]:
        """Advantages, returns, and the mask of the scored rows' tokens."""
        scored = batch.mask * scored_rows(batch)[..., None]
        values = given(batch, "values")
        found = gae(token_rewards(batch), values, scored, self.gamma, self.lam)
        return *found, scored


@part
class Returns(Signal):
    """Discounted reward to go per token, whitened over the logical batch: REINFORCE++.

    R_t = r_t + gamma R_next; outcome rewards stand on the last token, and the penalty
    in the reward is subtracted token by token, so that R_t carries the KL still to
    come. `count_eps` as in `GAE`. Source: 2501.03262.
    """

    gamma: Scalar = 1.0
    count_eps: Scalar = 0.0
    token_rewards: ClassVar[bool] = True

    def __post_init__(self):
        _check_discount("returns.gamma", self.gamma)

    @property
    def needs(self):
        return frozenset({"rewards"})

    def __call__(self, batch):
        rewards = token_rewards(batch)
        # the advantage of a critic that is 0 everywhere, lambda 1
        returns, _ = gae(rewards, jnp.zeros_like(rewards), batch.mask, self.gamma, 1.0)
        return whiten(returns, batch.mask, count_eps=self.count_eps)


@part
class Exponential(Signal):
    """min(e^(A/tau), cap) of another advantage A: advantage-weighted regression (AWR).

    With the linear link the minimiser is pi* proportional to mu e^(A/tau), the cap
    aside. Unscored rows (A = 0 by rule) keep weight 1. Source: 1910.00177.
    """

    tau: Scalar = 1.0
    cap: Scalar = 20.0
    advantage: Advantage = Mean()

    def __post_init__(self):
        in_range("exponential.tau", self.tau, 0.0, what="is not positive")
        what = "is not positive"
        in_range("exponential.cap", self.cap, 0.0, what=what, infinite=True)

    @property
    def needs(self):
        return self.advantage.needs

    def __call__(self, batch):
        log_weight = self.advantage(batch) / self.tau
        return jnp.exp(jnp.minimum(log_weight, jnp.log(self.cap)))


@part
class Shifted(Signal):
    """Another advantage minus `by` for every scored row: A = r - (mean + by), AsymRE.

    by < 0 gives the good responses more weight than the bad ones, which is what keeps
    off-policy REINFORCE from collapsing. Source: 2506.20520.
    """

    by: Scalar
    advantage: Advantage = Mean()

    def __post_init__(self):
        known = concrete(self.by)
        what = "changes nothing; write the advantage alone"
        require("shifted.by", self.by, known is None or known != 0.0, what)

    @property
    def needs(self):
        return self.advantage.needs

    def __call__(self, batch):
        rewards = given(batch, "rewards")
        scored = jnp.isfinite(rewards)
        scored = scored if scored.ndim == 3 else scored[..., None]
        return self.advantage(batch) - jnp.where(scored, self.by, 0.0)


@part
class Standardised(Advantage):
    """Another advantage as a z-score over the batch: (A - mean) / (std + eps).

    Over the rows that were compared: scored, in a group of two scored rows or more;
    the others get 0. With `LeaveOneOut` it is RLOO with normalised advantages.
    """

    advantage: Advantage = LeaveOneOut()
    ddof: int = 1
    eps: Scalar = 1e-6
    supervision: Supervision = "outcome"

    def __post_init__(self):
        BatchZScore(ddof=self.ddof, eps=self.eps)  # the same bounds
        if self.advantage.supervision != self.supervision:
            raise ValueError(
                f"standardised.supervision: {self.supervision} of an advantage with "
                f"{self.advantage.supervision}; write the same"
            )

    def _normalise(self, rewards, valid):
        advantage = self.advantage._normalise(rewards, valid)
        compared = valid & (valid.sum(-1, keepdims=True) > 1)
        batch = BatchZScore(ddof=self.ddof, eps=self.eps)
        return batch._normalise(jnp.where(compared, advantage, 0.0), compared)


@part
class OptimalValue(Signal):
    """A = r - V*, V* = tau log mean_j exp(r_j / tau) over the reference's responses.

    r_j are `batch.reference_rewards` [P, N]: V* is the value of the optimum of
    KL-regularised RL, from samples of the reference instead of a critic. Unscored rows
    and prompts without a scored response of the reference get 0. A*-PO, 2505.20686.
    """

    tau: Scalar = 0.5

    def __post_init__(self):
        in_range("optimal_value.tau", self.tau, 0.0, what="is not positive and finite")

    @property
    def needs(self):
        return frozenset({"rewards", "reference_rewards"})

    def __call__(self, batch):
        rewards, samples = given(batch, "rewards"), given(batch, "reference_rewards")
        if rewards.ndim != 2:
            raise ValueError(
                f"batch.rewards: shape {rewards.shape}; write [prompts, group]"
            )
        scored = jnp.isfinite(samples)
        total = jax.nn.logsumexp(jnp.where(scored, samples / self.tau, -jnp.inf), -1)
        value = self.tau * (total - jnp.log(scored.sum(-1)))
        advantage = rewards - value[:, None]
        advantage = jnp.where(jnp.isfinite(advantage), advantage, 0.0)
        return jnp.broadcast_to(advantage[..., None], batch.mask.shape)


def token_rewards(batch: Batch) -> Array:
    """Rewards per token [P, G, T], 0 outside the mask; NaN (unscored) counts 0."""
    rewards = given(batch, "rewards")
    if rewards.ndim == 2:
        rewards = at_the_end(rewards, batch.mask)
    return jnp.where((batch.mask > 0) & jnp.isfinite(rewards), rewards, 0.0)


def scored_rows(batch: Batch) -> Array:
    """Rows [P, G] without a NaN (unscored) among their rewards."""
    rewards = given(batch, "rewards")
    if rewards.ndim == 2:
        return jnp.isfinite(rewards)
    return (jnp.isfinite(rewards) | (batch.mask == 0)).all(-1)


def at_the_end(rewards: Array, mask: Array) -> Array:
    """Outcome rewards [P, G] on each row's last token; token rewards as they are."""
    if rewards.ndim == 3:
        return rewards
    after = jnp.flip(jnp.cumsum(jnp.flip(mask, -1), -1), -1)
    return jnp.where((mask > 0) & (after == 1.0), rewards[..., None], 0.0)


def _check_discount(where: str, value: Scalar) -> None:
    known = concrete(value)
    inside = known is None or 0.0 <= known <= 1.0
    require(where, value, inside, "is outside [0, 1]")
