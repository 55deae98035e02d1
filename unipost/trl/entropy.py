"""TRL's choice of the tokens with the highest entropy, in its single precision."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.corrections import Correction
from unipost.levels import given
from unipost.parts import Scalar, concrete, part, require
from unipost.signals import Signal

Array = jax.Array


def high_entropy(entropy: Array, mask: Array, share: Scalar) -> Array:
    """1 where `entropy` [P, G, T] is at or above its (1 - share) quantile, else 0.

    The quantile interpolates linearly over the unmasked tokens of the batch, with
    values and rank in float32 as TRL computes it: where the rank is a whole number the
    threshold is one token's rounded entropy, and rounding decides about that token.
    """
    kept = mask > 0
    values = jnp.sort(jnp.where(kept, entropy, jnp.inf).astype(jnp.float32).ravel())
    last = jnp.maximum(kept.sum() - 1, 0).astype(jnp.float32)
    rank = jnp.asarray(1.0 - share, jnp.float32) * last
    low = values[jnp.floor(rank).astype(int)]
    high = values[jnp.ceil(rank).astype(int)]
    gap, step = high - low, rank - jnp.floor(rank)
    near_low, near_high = low + step * gap, high - gap * (1.0 - step)
    threshold = jnp.where(step < 0.5, near_low, near_high)
    # without a token all values are inf, and inf - inf is no threshold
    threshold = jnp.where(kept.any(), threshold, jnp.inf)
    return (kept & (entropy >= threshold.astype(entropy.dtype))).astype(mask.dtype)


def _check_share(where: str, share: Scalar) -> None:
    known = concrete(share)
    inside = known is None or 0.0 < known < 1.0
    require(f"{where}.share", share, inside, "is outside (0, 1)")


@part
class HighEntropy(Correction):
    """`corrections.TopEntropy` with TRL's float32 threshold: top_entropy_quantile."""

    share: Scalar

    def __post_init__(self):
        _check_share("high_entropy", self.share)

    @property
    def needs(self):
        return frozenset({"current_entropy"})

    def __call__(self, batch, signal, streams):
        return high_entropy(given(batch, "current_entropy"), batch.mask, self.share)


@part
class OnHighEntropy(Signal):
    """Another signal, on the `share` of tokens with the highest entropy only.

    The other tokens leave the mask, and so every length and denominator; the signal
    itself is that of all rows, also of those that are left without a token.
    """

    signal: Signal
    share: Scalar

    def __post_init__(self):
        _check_share("on_high_entropy", self.share)

    @property
    def needs(self):
        return self.signal.needs | {"current_entropy"}

    def select(self, batch):
        kept = batch.mask > 0
        entropy = jnp.where(kept, given(batch, "current_entropy"), 0.0)
        mask = high_entropy(entropy, kept.astype(jnp.result_type(float)), self.share)
        return dataclasses.replace(batch, mask=mask)

    def rewarded(self, batch):
        return self.signal.rewarded(batch)

    def __call__(self, batch: Batch) -> Array:
        return self.signal(dataclasses.replace(batch, mask=jnp.ones_like(batch.mask)))
