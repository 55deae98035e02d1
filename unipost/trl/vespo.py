"""VESPO's weight as TRL computes it: clamped, in log space, the sampler inside."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.corrections import Correction, GivenWeight
from unipost.levels import given, stream, token_log_ratio
from unipost.parts import Scalar, concrete, part, require

Array = jax.Array
LOW, HIGH = math.log(1e-8), 20.0
LEAST_RATE = 1e-4


@part
class ClampedGamma(Correction):
    """W^k e^(rate (1 - W)), W the product of pi/old and the sampler's ratios of a row.

    log W = sum_t clip(log pi/old, +-20) + sum_t clip(log w, log 1e-8, 20), then clipped
    to [log 1e-8, 20]; k and rate by the sign of A, in float32, rate at least 1e-4; a
    weight that is not finite counts 0. `weights.GammaWeight` is the same without the
    clamps. `sampler` gives w, inside the power and not beside it; a weight per row
    (`batch.importance` [P, G]) enters once. `over` self: pi/old is 1.

    TRL also sums log w over the padding, where a clip that excludes 1 would make the
    loss depend on the padded length; here the padding has no part.
    """

    k_pos: Scalar = 2.0
    rate_pos: Scalar = 3.0
    k_neg: Scalar = 3.0
    rate_neg: Scalar = 2.0
    over: Literal["old", "self"] = "old"
    sampler: Correction | None = None
    local: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("k_pos", "rate_pos", "k_neg", "rate_neg"):
            known = concrete(getattr(self, name))
            ok = known is None or 0.0 <= known < math.inf
            what = "is negative or not finite"
            require(f"clamped_gamma.{name}", getattr(self, name), ok, what)

    @property
    def needs(self):
        own = {"old"} if self.over == "old" else set[str]()
        return frozenset(own) | (self.sampler.needs if self.sampler else frozenset())

    def __call__(self, batch, signal, streams):
        rows = jnp.ones(batch.mask.shape[:2], bool)
        log_u = token_log_ratio(stream(streams, "policy"), batch, self.over, rows)
        log_w = jnp.clip(log_u, -HIGH, HIGH).sum(-1) + self._sampler(batch, signal)
        log_w = jnp.clip(log_w, LOW, HIGH)[..., None]

        def single(up, down):  # TRL holds the constants in float32
            value = jnp.where(signal >= 0, jnp.float32(up), jnp.float32(down))
            return value.astype(log_w.dtype)

        k = single(self.k_pos, self.k_neg)
        rate = jnp.maximum(single(self.rate_pos, self.rate_neg), LEAST_RATE)
        weight = jnp.exp(rate + k * log_w - rate * jnp.exp(log_w))
        return jnp.where(jnp.isfinite(weight), weight, 0.0)

    def _sampler(self, batch: Batch, signal: Array) -> Array | float:
        """log of the sampler's ratios of a row [P, G], clamped per token."""
        if self.sampler is None:
            return 0.0
        log_w = jnp.log(self.sampler(batch, signal, None))
        log_w = jnp.clip(log_w, LOW, HIGH)
        per_row = isinstance(self.sampler, GivenWeight)
        if per_row and given(batch, "importance").ndim == 2:
            return log_w[..., 0]
        return jnp.where(batch.mask > 0, log_w, 0.0).sum(-1)
