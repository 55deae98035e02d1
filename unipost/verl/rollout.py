"""verl's rollout correction in bypass mode: the sampler's log-probs are the old ones.

d = log(policy/old) per token, detached and clamped to +-20. It weighs tokens (rollout
importance sampling) and takes tokens or rows out of the mask (rejection sampling), so
that the aggregation's counts do not see them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.corrections import Correction
from unipost.levels import given
from unipost.parts import Scalar, part
from unipost.signals import Signal
from unipost.verl.aggregations import EPS
from unipost.weights import Mask, Truncate, Weight

Array = jax.Array
Level = Literal["token", "seq_sum", "seq_mean", "seq_max"]
Statistic = Literal["k1", "k2", "k3"]
LossType = Literal["ppo_clip", "reinforce"]
CLAMP = 20.0
OPTIONS: dict[str, tuple[Level, Statistic]] = {
    f"{level}_{statistic}": (level, statistic)
    for level in get_args(Level)
    for statistic in get_args(Statistic)
    if (level, statistic) != ("seq_max", "k1")
}


@part
class Rejection:
    """Keep what has lower <= statistic <= upper: k1 = -d, k2 = d^2/2, k3 = e^d - 1 - d.

    On tokens, or on the sum, mean (over n + 1e-8) or maximum of a row's tokens.
    """

    level: Level
    statistic: Statistic
    lower: Scalar
    upper: Scalar

    def keep(self, log_ratio: Array, mask: Array) -> Array:
        """True [P, G, T] or [P, G, 1] where tokens stay."""
        d = jnp.clip(log_ratio, -CLAMP, CLAMP)
        value = {"k1": -d, "k2": d**2 / 2, "k3": jnp.expm1(d) - d}[self.statistic]
        if self.level == "seq_max":  # k2 and k3 are not negative
            value = jnp.where(mask > 0, value, 0.0).max(-1, keepdims=True)
        elif self.level != "token":
            length = mask.sum(-1, keepdims=True) if self.level == "seq_mean" else 1.0
            eps = EPS if self.level == "seq_mean" else 0.0
            value = jnp.where(mask > 0, value, 0.0).sum(-1, keepdims=True)
            value = value / (length + eps)
        return (value >= self.lower) & (value <= self.upper)


@part
class RolloutCorrection:
    """What `rollout_correction` makes of verl's options.

    level      of the weight: none, token, or sequence (the product of a row's ratios)
    weight     Truncate (a threshold U) or Mask (IcePop: "L_U")
    normalise  "batch" divides the weights by their mean
    """

    loss_type: LossType = "ppo_clip"
    level: Literal["none", "token", "sequence"] = "none"
    weight: Weight = Truncate(2.0)
    normalise: Literal["no", "batch"] = "no"
    rejections: tuple[Rejection, ...] = ()

    def weights(self, log_ratio: Array, mask: Array) -> Array:
        """Importance weights [P, G, T] of `log_ratio`, 0 outside the mask."""
        if self.level == "sequence":
            log_ratio = jnp.broadcast_to(log_ratio.sum(-1, keepdims=True), mask.shape)
        log_ratio = jnp.clip(log_ratio, -CLAMP, CLAMP)
        weights = jnp.where(mask > 0, self.weight(log_ratio, log_ratio), 0.0)
        if self.normalise == "no":
            return weights
        if self.level == "token":
            mean = weights.sum() / (mask.sum() + EPS)
        else:
            rows = jnp.maximum((mask.sum(-1) > 0).sum(), 1)
            mean = (weights.sum(-1) / (mask.sum(-1) + EPS)).sum() / rows
        return weights / jnp.where(mean > EPS, mean, 1.0)

    def kept(self, log_ratio: Array, mask: Array) -> Array:
        """The mask without what a rejection takes out; every one must pass."""
        kept = mask
        for rejection in self.rejections:
            # each statistic is that of the whole row
            kept = jnp.where(rejection.keep(log_ratio, mask), kept, 0)
        return kept


def rollout_correction(
    loss_type: LossType = "ppo_clip",
    rollout_is: Literal["token", "sequence"] | None = None,
    rollout_is_threshold: float | str = 2.0,
    rollout_is_batch_normalize: bool = False,
    rollout_rs: str | None = None,
    rollout_rs_threshold: float | str | None = None,
) -> RolloutCorrection:
    """verl's `rollout_correction` config, for `policy_loss(mode="bypass_mode")`.

    rollout_is            weights exp(d) per token, or exp(sum_t d) per row; None: 1
    rollout_is_threshold  U: min(w, U); "L_U": w where L <= w <= U, else 0
    rollout_rs            "token_k1", "seq_mean_k3", ...: a level (token, seq_sum,
                          seq_mean, seq_max) and a statistic; several with commas
    rollout_rs_threshold  one for all or one per option: U, and for k1 "L_U" or U alone
                          (L = 1/U), bounds on the ratio

    Raises ValueError for what cannot be read, and for options without an effect:
    weights with ppo_clip, whose ratio corrects already, and thresholds of nothing.
    """
    weighs = rollout_is is not None
    if weighs and loss_type == "ppo_clip":
        _fail("rollout_is", rollout_is, "loss_type ppo_clip; write reinforce")
    if not weighs and rollout_is_threshold != 2.0:
        _fail("rollout_is_threshold", rollout_is_threshold, "no rollout_is")
    if not weighs and rollout_is_batch_normalize:
        _fail("rollout_is_batch_normalize", True, "no rollout_is")
    low, high = _bounds("rollout_is_threshold", rollout_is_threshold)
    return RolloutCorrection(
        loss_type=loss_type,
        level=rollout_is or "none",
        weight=Truncate(high) if low is None else Mask(high, low),
        normalise="batch" if rollout_is_batch_normalize else "no",
        rejections=_rejections(rollout_rs, rollout_rs_threshold),
    )


def _fail(name: str, value: object, problem: str) -> None:
    raise ValueError(f"verl.rollout_correction.{name}: {value!r} with {problem}")


def _bounds(name: str, text: float | str) -> tuple[float | None, float]:
    """("L_U" or U) -> (L or None, U), both positive."""
    low, _, high = str(text).strip().rpartition("_")
    try:
        lower, upper = float(low) if low else None, float(high)
    except ValueError:
        lower, upper = None, 0.0
    if upper <= 0.0 or (lower is not None and not 0.0 < lower < upper):
        raise ValueError(
            f"verl.rollout_correction.{name}: {text!r}; write U or 'L_U', 0 < L < U"
        )
    return lower, upper


def _rejections(
    options: str | None, thresholds: float | str | None
) -> tuple[Rejection, ...]:
    if options is None or thresholds is None:
        if options is not thresholds:
            raise ValueError(
                "verl.rollout_correction: write rollout_rs and rollout_rs_threshold "
                "together"
            )
        return ()
    names, bounds = (
        [x.strip() for x in str(text).split(",") if x.strip()]
        for text in (options, thresholds)
    )
    bounds = bounds * len(names) if len(bounds) == 1 else bounds
    if len(bounds) != len(names):
        _fail("rollout_rs_threshold", thresholds, f"{len(names)} options; write one")
    return tuple(_rejection(*pair) for pair in zip(names, bounds, strict=True))


def _rejection(option: str, threshold: str) -> Rejection:
    if option not in OPTIONS:
        raise ValueError(
            f"verl.rollout_correction.rollout_rs: {option!r}; write one or more of "
            f"{', '.join(OPTIONS)}"
        )
    level, statistic = OPTIONS[option]
    low, high = _bounds("rollout_rs_threshold", threshold)
    if statistic == "k1":
        lower, upper = math.log(1.0 / high if low is None else low), math.log(high)
    elif low is None:
        lower, upper = -math.inf, high
    else:
        raise ValueError(
            f"verl.rollout_correction.rollout_rs_threshold: {threshold!r} for "
            f"{option}; write an upper bound alone"
        )
    return Rejection(level, statistic, lower, upper)


@part
class Corrected(Signal):
    """Another signal, on the tokens that the correction keeps at the present policy.

    The weights are left in `batch.importance` for `RolloutWeight`: they are those of
    the whole mask.
    """

    signal: Signal
    correction: RolloutCorrection

    @property
    def needs(self):
        return self.signal.needs | {"current", "old"}

    def select(self, batch: Batch) -> Batch:
        if batch.current is None:  # drawn, not yet looked at by the policy
            return batch
        kept = batch.mask > 0
        log_ratio = jnp.where(kept, batch.current - given(batch, "old"), 0.0)
        mask = kept.astype(log_ratio.dtype)
        weights = None
        if self.correction.level != "none":
            weights = self.correction.weights(log_ratio, mask)
        mask = self.correction.kept(log_ratio, mask)
        return dataclasses.replace(batch, mask=mask, importance=weights)

    def rewarded(self, batch):
        return self.signal.rewarded(batch)

    def __call__(self, batch):
        return self.signal(batch)


@part
class RolloutWeight(Correction):
    """The weights that `Corrected` has computed."""

    @property
    def needs(self):
        return frozenset({"current", "old"})

    def __call__(self, batch, signal, streams):
        return given(batch, "importance")
