"""Corrections: detached weights [P, G, T] of the link's loss, the penalty untouched.

They answer for data that the policy did not sample just so: a sampler that computes
other log-probs, rollouts that have gone stale, tokens or rows that are left out. The
denominators do not see them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.batch import Batch, Streams
from unipost.levels import (
    Level,
    at_level,
    given,
    of_tokens,
    stream,
    token_log_ratio,
)
from unipost.parts import Scalar, concrete, in_range, part, require
from unipost.weights import Truncate, Weight

Array = jax.Array


class Correction(ABC):
    """A rule (batch, signal) -> weights [P, G, T].

    `needs` names what is read. A `local` correction reads nothing but its own rows:
    it is computed inside the loss, from the detached streams of the policy; the others
    over the logical batch before it is cut, without streams.
    """

    local: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Batch` or `Streams` that must be given."""
        return frozenset()

    @abstractmethod
    def __call__(self, batch: Batch, signal: Array, streams: Streams | None) -> Array:
        """The weights; what is outside the mask does not matter."""


@part
class SamplerCorrection(Correction):
    """weight(u), u = old/behavior: the policy as trained over the policy as sampled.

    Truncated importance sampling: `Truncate(2.0)`; masked: `Mask(3.0)`, with level
    sequence as TRL's default. With `Truncate(inf)` and a clip on policy/old this is
    decoupled PPO (2110.00641; AReaL 2505.24298 Eq 5). A token whose log-prob the
    sampler did not report (NaN) has ratio 1.
    """

    weight: Weight = Truncate(2.0)
    level: Level = "token"

    @property
    def needs(self):
        return frozenset({"old", "behavior"})

    def __call__(self, batch, signal, streams):
        log_u = _reported(given(batch, "old"), batch, "behavior")
        log_u = at_level(log_u, batch.mask, self.level)
        if self.level == "token":
            return self.weight(log_u, signal)
        weight = self.weight(log_u, signal[..., 0])
        return jnp.broadcast_to(weight[..., None], batch.mask.shape)


@part
class GivenWeight(Correction):
    """`batch.importance` as it is: weights that another program has computed."""

    @property
    def needs(self):
        return frozenset({"importance"})

    def __call__(self, batch, signal, streams):
        value = given(batch, "importance")
        value = value if value.ndim == 3 else value[..., None]
        return jnp.broadcast_to(value, batch.mask.shape)


@part
class StaleMask(Correction):
    """0 where A < 0 and the row's mean_t log(over/policy) > threshold, else 1.

    `over` names the snapshot: old, or behavior (the sampler), whose unreported tokens
    (NaN) count as log-ratio 0. DeepSeek-V3.2's off-policy sequence mask, 2512.02556.
    """

    threshold: Scalar
    over: Literal["old", "behavior"] = "old"
    local: ClassVar[bool] = True

    def __post_init__(self):
        known = concrete(self.threshold)
        ok = known is None or 0.0 <= known < math.inf
        what = "is negative or not finite"
        require("stale_mask.threshold", self.threshold, ok, what)

    @property
    def needs(self):
        return frozenset({self.over})

    def __call__(self, batch, signal, streams):
        drift = -_reported(stream(streams, "policy"), batch, self.over)
        drift = at_level(drift, batch.mask, "sequence_mean")
        stale = (drift > self.threshold)[..., None] & (signal < 0)
        return jnp.where(stale, 0.0, 1.0)


@part
class TopEntropy(Correction):
    """1 for the `share` of the logical batch's tokens with the highest entropy, else 0.

    The quantile interpolates linearly (as numpy's) over the unmasked tokens of the
    logical batch; a token at the threshold is kept. Source: 2506.01939. `of`
    off_policy: of the tokens flagged `batch.off_policy`, the others are all kept
    (Prefix-RFT, 2507.01679; its code takes the share of every microbatch).
    """

    share: Scalar
    of: Literal["all", "off_policy"] = "all"

    def __post_init__(self):
        known = concrete(self.share)
        inside = known is None or 0.0 < known < 1.0
        what = "is outside (0, 1); write no correction for 1"
        require("top_entropy.share", self.share, inside, what)

    @property
    def needs(self):
        flags = {"off_policy"} if self.of == "off_policy" else set()
        return frozenset({"current_entropy"} | flags)

    def __call__(self, batch, signal, streams):
        entropy, counted = given(batch, "current_entropy"), batch.mask > 0
        if self.of == "off_policy":
            counted = counted & of_tokens(given(batch, "off_policy") > 0)
        ranked = jnp.where(counted, entropy, jnp.nan)
        kept = entropy >= jnp.nanquantile(ranked, 1.0 - self.share)
        kept = kept | ~counted if self.of == "off_policy" else kept
        return kept.astype(entropy.dtype)


@part
class EntropyWeight(Correction):
    """scale e^(slope H) of a row, H = mean_t entropy of its tokens, detached: SRFT.

    slope < 0 trusts demonstrations less where the policy is uncertain. `rows`
    positive: of rows with A > 0, the others keep 1. Source: 2506.19767.
    """

    scale: Scalar = 0.5
    slope: Scalar = -1.0
    rows: Literal["all", "positive"] = "all"
    local: ClassVar[bool] = True

    def __post_init__(self):
        in_range("entropy_weight.scale", self.scale, 0.0, what="is not positive")
        known = concrete(self.slope)
        ok = known is None or (math.isfinite(known) and known != 0.0)
        what = "is no slope; write a number other than 0"
        require("entropy_weight.slope", self.slope, ok, what)

    @property
    def needs(self):
        return frozenset({"entropy"})

    def __call__(self, batch, signal, streams):
        entropy = jnp.where(batch.mask > 0, stream(streams, "entropy"), 0.0)
        mean = at_level(entropy, batch.mask, "sequence_mean")[..., None]
        weight = self.scale * jnp.exp(self.slope * mean)
        if self.rows == "positive":
            weight = jnp.where(signal > 0, weight, 1.0)
        return jnp.broadcast_to(weight, signal.shape)


@part
class Confidence(Correction):
    """exp(mean_t [log pi(y_t) - log sum_v pi(v)^2]): WPO's weight of a row.

    How likely the policy is to have written this row, relative to its own expected
    likelihood; a pair's weight is the product of its two. Source: 2406.11827.
    """

    local: ClassVar[bool] = True

    @property
    def needs(self):
        return frozenset({"collision"})

    def __call__(self, batch, signal, streams):
        rows = jnp.ones(batch.mask.shape[:2], bool)
        gap = stream(streams, "policy") - stream(streams, "collision")
        gap = token_log_ratio(gap, batch, "none", rows)
        gap = at_level(gap, batch.mask, "sequence_mean")
        return jnp.broadcast_to(jnp.exp(gap)[..., None], signal.shape)


def _reported(policy: Array, batch: Batch, anchor: Literal["old", "behavior"]) -> Array:
    """log(policy/anchor) per token, 0 where the anchor is NaN: not reported."""
    rows = jnp.ones(batch.mask.shape[:2], bool)
    log_u = token_log_ratio(policy, batch, anchor, rows)
    return jnp.where(jnp.isnan(given(batch, anchor)), 0.0, log_u)


CORRECTIONS = {
    "sampler_correction": SamplerCorrection,
    "given_weight": GivenWeight,
    "stale_mask": StaleMask,
    "top_entropy": TopEntropy,
    "entropy_weight": EntropyWeight,
    "confidence": Confidence,
}
