"""verl's advantage estimators by `adv_estimator`, as signals."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.advantages import GAE, Returns
from unipost.baselines import (
    BestResponse,
    GreedyBaseline,
    InformativeMean,
    LengthWeighted,
    Whitened,
    reward_to_go,
)
from unipost.batch import Batch
from unipost.components import SumThenNormalise
from unipost.levels import given
from unipost.parts import Scalar, part
from unipost.signals import Advantage, LeaveOneOut, Mean, Signal, ZScore
from unipost.verl.aggregations import EPS
from unipost.verl.options import read

Array = jax.Array
COUNT_EPS = 1e-8  # what verl adds to a number of tokens
Estimator = Literal[
    "gae",
    "grpo",
    "grpo_nostd",
    "grpo_vectorized",
    "gdpo",
    "grpo_passk",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "rloo",
    "rloo_vectorized",
    "opo",
    "remax",
    "gpg",
    "optimal_token_baseline",
    "tir_optimal_token_baseline",
]


@part
class Outcome(Signal):
    """Another signal of outcome rewards, which are sums of token rewards where given.

    Rewards [P, G, T] are summed over all columns, also outside the mask, as verl does.
    The signal is 0 outside the mask.
    """

    signal: Signal

    @property
    def needs(self):
        return self.signal.needs

    def select(self, batch: Batch) -> Batch:
        rewards = batch.rewards
        if rewards is not None and rewards.ndim == 3:
            batch = dataclasses.replace(batch, rewards=rewards.sum(-1))
        return self.signal.select(batch)

    def rewarded(self, batch):
        return self.signal.rewarded(batch)

    def __call__(self, batch):
        return jnp.where(batch.mask > 0, self.signal(batch), 0.0)


@part
class Decoupled(Signal):
    """sum_k w_k A_k, A_k the advantage of reward component k by itself (gdpo).

    `batch.components` [P, G, K] with one weight each; NaN is not scored. A response
    without a token counts in the statistics.
    """

    weights: tuple[Scalar, ...]
    advantage: Advantage

    @property
    def needs(self):
        return frozenset({"components"})

    def __call__(self, batch):
        components = given(batch, "components")
        if components.shape[-1] != len(self.weights):
            raise ValueError(
                f"verl.advantage.gdpo_reward_weights: {len(self.weights)} weights and "
                f"{components.shape[-1]} components; write one per component"
            )
        rule = SumThenNormalise(self.advantage, empty="counted")
        total = jnp.zeros_like(batch.mask)
        for k, weight in enumerate(self.weights):
            one = dataclasses.replace(batch, rewards=components[..., k])
            total = total + weight * rule(one)
        return total


@part
class OptimalTokenBaseline(Signal):
    """A_t = G_t - B_t, G the reward to go, B_t = sum_i G_it W_it / (sum_i W_it + 1e-8).

    W_t = sum_{s <= t} w_s of the row, w = 1 - 2 pi + sum_v pi(v)^2 the squared norm of
    the score at a token, of the policy that gave `batch.old` and
    `batch.old_collision`; times the square of `batch.importance` where that is given.
    The sum over i is over the group at the same column: of the padded batch, or the
    same number of tokens into the response ("packed"). Where one response of the
    group is left, its baseline is 0.
    """

    columns: Literal["padded", "packed"] = "padded"

    @property
    def needs(self):
        return frozenset({"rewards", "old", "old_collision"})

    def __call__(self, batch):
        returns, energy = reward_to_go(batch), self._energy(batch)
        mask = batch.mask
        if self.columns == "padded":
            baseline = _token_baseline(returns, energy, mask)
            return jnp.where(mask > 0, returns - baseline, 0.0)
        order = jnp.argsort(mask <= 0, axis=-1, stable=True)  # tokens first
        packed = (jnp.take_along_axis(x, order, -1) for x in (returns, energy, mask))
        back = jnp.argsort(order, axis=-1)
        baseline = jnp.take_along_axis(_token_baseline(*packed), back, -1)
        return jnp.where(mask > 0, returns - baseline, 0.0)

    def _energy(self, batch: Batch) -> Array:
        policy, collision = given(batch, "old"), given(batch, "old_collision")
        energy = 1.0 - 2.0 * jnp.exp(policy) + jnp.exp(collision)
        if batch.importance is not None:
            weight = batch.importance
            weight = weight if weight.ndim == 3 else weight[..., None]
            energy = energy * weight**2
        return jnp.where(batch.mask > 0, energy, 0.0)


def _token_baseline(returns: Array, energy: Array, mask: Array) -> Array:
    weight = jnp.cumsum(energy, -1) * mask
    total = (returns * weight).sum(1, keepdims=True)
    baseline = total / (weight.sum(1, keepdims=True) + EPS)
    lengths = mask.sum(-1)
    ranked = jnp.sort(jnp.pad(lengths, ((0, 0), (1, 0))), axis=1)
    longest, second = ranked[:, -1:], ranked[:, -2:-1]
    alone = (lengths == longest) & (longest > second)
    tail = jnp.arange(mask.shape[-1]) >= second[..., None]
    return jnp.where(alone[..., None] & tail, 0.0, baseline)


def advantage(
    estimator: Estimator = "gae",
    gamma: Scalar = 1.0,
    lam: Scalar = 1.0,
    eps: Scalar = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    gdpo_reward_weights: tuple[Scalar, ...] | None = None,
    f_norm: Scalar = 1.0,
) -> Signal:
    """verl's advantage `estimator`, a signal of shape [P, G, T].

    `batch.rewards` are token rewards [P, G, T] or outcome rewards [P, G]; NaN marks the
    padding of a group. Token rewards of padding are NaN in every column. Each
    estimator is documented below, with what a group of one gets.

    Raises ValueError for an option that the estimator does not read, unless it has its
    default. verl computes statistics in float32 here and there; agreement is to 1e-6.
    """
    options = locals()
    if estimator not in ESTIMATORS:
        names = ", ".join(ESTIMATORS)
        raise ValueError(f"verl.advantage.estimator: {estimator!r}; write {names}")
    make, chosen = ESTIMATORS[estimator], f"estimator {estimator}"
    return make(**read("verl.advantage", chosen, make, options, DEFAULTS))


def gae(gamma: Scalar, lam: Scalar) -> Signal:
    """Generalised advantage estimation from `batch.values`, whitened over tokens."""
    return GAE(gamma, lam, COUNT_EPS)


def grpo(eps: Scalar, norm_adv_by_std_in_grpo: bool) -> Signal:
    """(s - mean) / (std + eps), ddof 1; alone s / (1 + eps). Without std: s - mean."""
    return _outcome(_grpo(eps, norm_adv_by_std_in_grpo))


def grpo_nostd() -> Signal:
    """s - mean over the group; alone s. grpo with norm_adv_by_std_in_grpo false."""
    return _outcome(Mean(alone="reward"))


def gdpo(
    eps: Scalar,
    norm_adv_by_std_in_grpo: bool,
    gdpo_reward_weights: tuple[Scalar, ...] | None,
) -> Signal:
    """sum_k w_k grpo_k of `batch.components`, whitened over tokens.

    Without weights the rewards are the one component.
    """
    advantage = _grpo(eps, norm_adv_by_std_in_grpo)
    if gdpo_reward_weights is None:
        return Whitened(_outcome(advantage))
    return Whitened(Decoupled(gdpo_reward_weights, advantage))


def grpo_passk(eps: Scalar, norm_adv_by_std_in_grpo: bool) -> Signal:
    """(best - second) / (std + eps) for the best row; alone 0, where verl raises."""
    scale = "std" if norm_adv_by_std_in_grpo else "none"
    return _outcome(BestResponse(eps, scale))


def reinforce_plus_plus(gamma: Scalar) -> Signal:
    """Discounted reward to go, whitened over tokens."""
    return Returns(gamma, COUNT_EPS)


def reinforce_plus_plus_baseline() -> Signal:
    """s - mean over the group (alone s), whitened over tokens."""
    return Whitened(_outcome(Mean(alone="reward")))


def rloo() -> Signal:
    """n/(n-1) (s - mean); alone s."""
    return _outcome(LeaveOneOut(alone="reward"))


def rloo_vectorized() -> Signal:
    """n/(n-1) (s - mean); alone 0."""
    return _outcome(LeaveOneOut())


def opo() -> Signal:
    """s - sum(length s) / sum(length); alone s."""
    return Outcome(LengthWeighted(alone="reward"))


def remax() -> Signal:
    """Reward to go minus `batch.baseline`, the reward of a greedy response."""
    return GreedyBaseline()


def gpg(f_norm: Scalar) -> Signal:
    """alpha (s - mean) / f_norm (alone alpha s), alpha = rows / rows with s != 0."""
    return _outcome(InformativeMean(f_norm, "rewards", "reward"))


def optimal_token_baseline() -> Signal:
    """A baseline per column, weighted by the norms of the scores so far."""
    return OptimalTokenBaseline()


def tir_optimal_token_baseline() -> Signal:
    """The same by the number of tokens so far: observations do not count."""
    return OptimalTokenBaseline("packed")


def _grpo(eps: Scalar, norm_adv_by_std_in_grpo: bool) -> Advantage:
    by_std = norm_adv_by_std_in_grpo
    return ZScore(eps=eps, alone="reward") if by_std else Mean(alone="reward")


def _outcome(advantage: Advantage) -> Signal:
    """verl counts a response without a token in the statistics of its group."""
    return Outcome(SumThenNormalise(advantage, empty="counted"))


ESTIMATORS: dict[str, Callable[..., Signal]] = {
    "gae": gae,
    "grpo": grpo,
    "grpo_nostd": grpo_nostd,
    "grpo_vectorized": grpo,
    "gdpo": gdpo,
    "grpo_passk": grpo_passk,
    "reinforce_plus_plus": reinforce_plus_plus,
    "reinforce_plus_plus_baseline": reinforce_plus_plus_baseline,
    "rloo": rloo,
    "rloo_vectorized": rloo_vectorized,
    "opo": opo,
    "remax": remax,
    "gpg": gpg,
    "optimal_token_baseline": optimal_token_baseline,
    "tir_optimal_token_baseline": tir_optimal_token_baseline,
}
DEFAULTS = {
    name: p.default
    for name, p in inspect.signature(advantage).parameters.items()
    if name != "estimator"
}
