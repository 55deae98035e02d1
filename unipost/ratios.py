"""Ratio treatments: what happens to the per-token log-ratio before its level is taken.

A treatment maps log u_t = log(policy/anchor) to another log-ratio per token; the sum,
the mean or the token itself then goes through f'. Gradients flow through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import jax
import jax.numpy as jnp

from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array


class Ratio(ABC):
    """A rule (log u, signal, mask) [P, G, T] -> log u [P, G, T], before the level."""

    @abstractmethod
    def __call__(self, log_u: Array, signal: Array, mask: Array) -> Array:
        """The treated log-ratio; `log_u` is 0 outside the mask and must stay so."""


@part
class GeometricClip(Ratio):
    """Clip log u_t at [-low, high], on the side that the sign of A would run away to.

    Upwards where A > 0 and downwards where A < 0; the geometric mean of the clipped
    ratios is GMPO's. Source: 2507.20673.
    """

    low: Scalar = 0.4
    high: Scalar = 0.4

    def __post_init__(self):
        for name in ("low", "high"):
            value = getattr(self, name)
            what = "is not positive"
            where = f"geometric_clip.{name}"
            in_range(where, value, 0.0, what=what, infinite=True)

    def __call__(self, log_u, signal, mask):
        upper = jnp.where(signal > 0, jnp.minimum(log_u, self.high), log_u)
        return jnp.where(signal < 0, jnp.maximum(upper, -self.low), upper)


@part
class LengthDesensitised(Ratio):
    """Tokens beyond the length of the pair's shorter response count `share` times.

    share 1 is plain DPO, share 0 compares prefixes of equal length. LD-DPO,
    2409.06411.
    """

    share: Scalar

    def __post_init__(self):
        known = concrete(self.share)
        inside = known is None or 0.0 <= known < 1.0
        what = "is outside [0, 1); write ratio: null for 1"
        require("length_desensitised.share", self.share, inside, what)

    def __call__(self, log_u, signal, mask):
        common = mask.sum(-1).min(-1)[:, None, None]
        position = jnp.cumsum(mask, -1)  # 1 at the first unmasked token
        return jnp.where(position <= common, log_u, self.share * log_u)


@part
class SequenceToken(Ratio):
    """The value of the sequence's geometric mean ratio with each token's own gradient.

    log u_t <- sg(mean_s log u_s) + log u_t - sg(log u_t): GSPO-token, 2507.18071 Eq 13.
    Equal to level sequence_mean where A is constant over the sequence.
    """

    def __call__(self, log_u, signal, mask):
        length = jnp.maximum(mask.sum(-1, keepdims=True), 1.0)
        mean = log_u.sum(-1, keepdims=True) / length
        own = log_u - jax.lax.stop_gradient(log_u)
        return jnp.where(mask > 0, jax.lax.stop_gradient(mean) + own, 0.0)


RATIOS = {
    "geometric_clip": GeometricClip,
    "length_desensitised": LengthDesensitised,
    "sequence_token": SequenceToken,
}
