"""Signals: what the data say, as one number per token. All are constants to autodiff.

Advantages are computed over the logical batch before it is cut, from the non-empty
rows with a finite reward; an unscored (NaN) row gets advantage 0. A group whose
rewards are all equal gets exactly 0.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array
Supervision = Literal["outcome", "process"]
Alone = Literal["zero", "reward"]


class Signal(ABC):
    """A rule batch -> signal [P, G, T]. `needs` names the arrays it reads.

    `token_rewards` says that rewards are per token: outcome rewards then stand on the
    last token, and a penalty in the reward is subtracted token by token.
    """

    token_rewards: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Batch` that must be given."""
        return frozenset()

    def select(self, batch: Batch) -> Batch:
        """The part of the batch that the loss is about; all of it for most signals."""
        return batch

    def seen(self, batch: Batch) -> Batch:
        """The part of the batch that statistics are over; that of the loss for most."""
        return self.select(batch)

    def rewarded(self, batch: Batch) -> Batch:
        """`batch` with the rewards that the signal is about; as it is for most signals.

        A penalty in the reward is subtracted from these.
        """
        return batch

    @abstractmethod
    def __call__(self, batch: Batch) -> Array:
        """The signal [P, G, T] of a cleaned and rewarded batch."""


@part
class Ones(Signal):
    """1 on every token: demonstrations."""

    def __call__(self, batch):
        return jnp.ones_like(batch.mask)


@part
class Zeros(Signal):
    """0 on every token: an objective that is its penalty or entropy bonus alone."""

    def __call__(self, batch):
        return jnp.zeros_like(batch.mask)


@part
class Preference(Signal):
    """+1 on the chosen and -1 on the rejected response of a group of two.

    The larger reward is chosen; a tie or an unscored row gives 0 (no information).
    Without rewards response 0 is chosen and response 1 rejected.
    """

    def __call__(self, batch):
        if batch.mask.shape[1] != 2:
            raise ValueError(
                f"signal.preference: groups of {batch.mask.shape[1]}; "
                "write [prompts, 2, tokens], chosen first"
            )
        if batch.rewards is None:
            sign = jnp.ones(batch.mask.shape[:1])
        else:
            gap = batch.rewards[:, 0] - batch.rewards[:, 1]
            sign = jnp.where(jnp.isfinite(gap), jnp.sign(gap), 0.0)
        signs = jnp.stack([sign, -sign], axis=1)[..., None]
        return jnp.broadcast_to(signs, batch.mask.shape)


@part
class Chosen(Preference):
    """1 on the chosen responses of a preference; the rejected ones are left out.

    `on` "text" counts the tokens of `batch.text` too, the prompt's (ORPO in TRL). Ties
    and unscored pairs are left out.
    """

    on: Literal["response", "text"] = "response"

    @property
    def needs(self):
        return frozenset({"text"} if self.on == "text" else ())

    def select(self, batch):
        mask = batch.mask
        if self.on == "text":
            if batch.text is None:
                raise ValueError("batch.text: missing; the objective needs it")
            mask = batch.text
        sign = Preference.__call__(self, dataclasses.replace(batch, mask=mask))
        return dataclasses.replace(batch, mask=jnp.where(sign > 0, mask, 0))

    def __call__(self, batch):
        return jnp.ones_like(batch.mask)


@part
class Desirability(Signal):
    """+`desirable` where the reward is positive, -`undesirable` elsewhere (KTO).

    An unscored row gets 0.
    """

    desirable: Scalar = 1.0
    undesirable: Scalar = 1.0

    def __post_init__(self):
        for name in ("desirable", "undesirable"):
            what = "is not positive and finite"
            in_range(f"desirability.{name}", getattr(self, name), 0.0, what=what)

    @property
    def needs(self):
        return frozenset({"rewards"})

    def __call__(self, batch):
        rewards = batch.rewards
        if rewards is None or rewards.ndim != 2:
            raise ValueError("batch.rewards: write labels of shape [prompts, group]")
        value = jnp.where(rewards > 0, self.desirable, -self.undesirable)
        value = jnp.where(jnp.isfinite(rewards), value, 0.0)
        return jnp.broadcast_to(value[..., None], batch.mask.shape)


class Advantage(Signal, ABC):
    """r - baseline over the group, scaled; outcome rewards or per-step rewards.

    Process supervision (DeepSeekMath 4.1.3): the step rewards of all responses of the
    group are pooled and normalised, and a token's advantage is the sum of the
    normalised rewards of the steps that end at or after it.
    """

    supervision: Supervision

    @property
    def needs(self):
        steps = {"steps"} if self.supervision == "process" else set()
        return frozenset({"rewards"} | steps)

    def __call__(self, batch):
        rewards = batch.rewards
        if rewards is None:
            raise ValueError("batch.rewards: missing; the signal is an advantage")
        if self.supervision == "process":
            return self._process(batch, rewards)
        if rewards.ndim != 2:
            raise ValueError(
                f"batch.rewards: shape {rewards.shape}; write [prompts, group], or "
                "supervision: process for step rewards"
            )
        valid = (batch.mask.sum(-1) > 0) & jnp.isfinite(rewards)
        advantage = self._normalise(jnp.where(valid, rewards, 0.0), valid)
        return jnp.broadcast_to(advantage[..., None], batch.mask.shape)

    def _process(self, batch, rewards):
        if batch.steps is None or rewards.ndim != 3:
            raise ValueError(
                "batch.steps: process supervision needs rewards and steps of shape "
                "[prompts, group, tokens]"
            )
        valid = (batch.steps > 0) & jnp.isfinite(rewards)
        p, g, t = rewards.shape
        pooled = jnp.where(valid, rewards, 0.0).reshape(p, g * t)
        normal = self._normalise(pooled, valid.reshape(p, g * t)).reshape(p, g, t)
        return jnp.flip(jnp.cumsum(jnp.flip(normal, -1), -1), -1)

    @abstractmethod
    def _normalise(self, rewards: Array, valid: Array) -> Array:
        """Advantages of `rewards` [P, N] where valid, 0 elsewhere."""


def _mean(x, valid, axis):
    count = jnp.maximum(valid.sum(axis, keepdims=True), 1)
    return jnp.where(valid, x, 0.0).sum(axis, keepdims=True) / count


def centred(x, valid, axis):
    """x - mean over the valid entries; exactly 0 where all of them are equal."""
    top = jnp.where(valid, x, -jnp.inf).max(axis, keepdims=True)
    low = jnp.where(valid, x, jnp.inf).min(axis, keepdims=True)
    return jnp.where(valid & (top > low), x - _mean(x, valid, axis), 0.0)


def or_raw(advantage, rewards, valid, alone: Alone):
    """`advantage`, or the reward itself where the group has one scored row."""
    if alone == "zero":
        return advantage
    single = valid & (valid.sum(-1, keepdims=True) == 1)
    return jnp.where(single, rewards, advantage)


def _std(gap, valid, axis, ddof):
    free = jnp.maximum(valid.sum(axis, keepdims=True) - ddof, 1)
    squares = jnp.where(valid, gap, 0.0) ** 2
    return jnp.sqrt(squares.sum(axis, keepdims=True) / free)


def _scaled(gap, std, eps):
    # eps may be 0: equal rewards have gap 0 and stay 0
    flat = std <= 0
    return jnp.where(flat, 0.0, gap / jnp.where(flat, 1.0, std + eps))


@part
class Raw(Advantage):
    """The reward itself, A = r (REINFORCE without a baseline)."""

    supervision: Supervision = "outcome"

    def _normalise(self, rewards, valid):
        return jnp.where(valid, rewards, 0.0)


@part
class Mean(Advantage):
    """A = r - mean over the group (Dr. GRPO, LUFFY's released recipe).

    `alone` says what a group with one scored row gets: 0, or its reward (verl).
    """

    supervision: Supervision = "outcome"
    alone: Alone = "zero"

    def _normalise(self, rewards, valid):
        return or_raw(centred(rewards, valid, -1), rewards, valid, self.alone)


@part
class LeaveOneOut(Advantage):
    """A_i = r_i - mean_{j != i} r_j = n/(n-1) (r_i - mean): RLOO. `alone` as Mean."""

    supervision: Supervision = "outcome"
    alone: Alone = "zero"

    def __post_init__(self):
        if self.supervision == "process":
            raise ValueError(
                "leave_one_out.supervision: which steps of a response are left out is "
                "not defined; write mean"
            )

    def _normalise(self, rewards, valid):
        n = valid.sum(-1, keepdims=True)
        advantage = centred(rewards, valid, -1) * n / jnp.maximum(n - 1, 1)
        return or_raw(advantage, rewards, valid, self.alone)


@part
class ZScore(Advantage):
    """A = (r - mean) / (std + eps) over the group (GRPO).

    ddof 1 as torch.std; eps 1e-6 is verl's, 1e-4 TRL's. `alone` as in Mean: verl takes
    mean 0 and std 1 for a single row, r / (1 + eps).
    """

    ddof: int = 1
    eps: Scalar = 1e-6
    supervision: Supervision = "outcome"
    alone: Alone = "zero"

    def __post_init__(self):
        _check_scale("z_score", self.ddof, self.eps)

    def _normalise(self, rewards, valid):
        gap = centred(rewards, valid, -1)
        scaled = _scaled(gap, _std(gap, valid, -1, self.ddof), self.eps)
        return or_raw(scaled, rewards / (1.0 + self.eps), valid, self.alone)


@part
class BatchZScore(Advantage):
    """A = (r - mean) / (std + eps) with the standard deviation of the whole batch.

    center "batch" whitens over the batch (REINFORCE++); "group" subtracts the group's
    mean and scales by the batch's deviation of the rewards (TRL scale_rewards=batch).
    """

    center: Literal["batch", "group"] = "batch"
    ddof: int = 1
    eps: Scalar = 1e-6
    supervision: Supervision = "outcome"

    def __post_init__(self):
        _check_scale("batch_z_score", self.ddof, self.eps)

    def _normalise(self, rewards, valid):
        whole = centred(rewards, valid, (-2, -1))
        std = _std(whole, valid, (-2, -1), self.ddof)
        gap = whole if self.center == "batch" else centred(rewards, valid, -1)
        return _scaled(gap, std, self.eps)


def _check_scale(where: str, ddof: int, eps: Scalar) -> None:
    require(f"{where}.ddof", ddof, ddof in (0, 1), "is not 0 or 1")
    known = concrete(eps)
    require(f"{where}.eps", eps, known is None or known >= 0, "is negative")


SIGNALS = {
    "ones": Ones,
    "zeros": Zeros,
    "preference": Preference,
    "chosen": Chosen,
    "desirability": Desirability,
    "raw": Raw,
    "mean": Mean,
    "leave_one_out": LeaveOneOut,
    "z_score": ZScore,
    "batch_z_score": BatchZScore,
}
