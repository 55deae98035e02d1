"""verl's choices of tokens, as detached weights of the loss.

Covariances are those of the logical batch, where verl takes a micro-batch's: there the
result depends on how the batch is cut, here it does not.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.corrections import Correction, GivenWeight
from unipost.levels import given, stream
from unipost.parts import Scalar, concrete, in_range, part, require
from unipost.verl.aggregations import EPS

Array = jax.Array


@part
class TrustRegion(Correction):
    """1 inside a trust region of the token's probability, else 0 (dppo_tv, dppo_kl).

    p = pi(y), q = old(y). tv: p - q <= high where A > 0, p - q >= -low elsewhere. kl:
    the divergence of (q, 1 - q) from (p, 1 - p), with 1e-8 added to 1 - q and 1 - p, is
    <= high (A > 0) or <= low, or the step goes back towards q.
    """

    low: Scalar
    high: Scalar
    measure: Literal["tv", "kl"]
    local: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("low", "high"):
            value = getattr(self, name)
            in_range(f"trust_region.{name}", value, 0.0, what="is not positive")

    @property
    def needs(self):
        return frozenset({"old"})

    def __call__(self, batch, signal, streams):
        new, old = stream(streams, "policy"), given(batch, "old")
        p, q = jnp.exp(new), jnp.exp(old)
        if self.measure == "tv":
            up, down = p - q <= self.high, p - q >= -self.low
        else:
            rest = jnp.log((1.0 - q + EPS) / (1.0 - p + EPS))
            kl = q * (old - new) + (1.0 - q) * rest
            up, down = (kl <= self.high) | (p <= q), (kl <= self.low) | (p >= q)
        return jnp.where(signal > 0, up, down).astype(signal.dtype)


@part
class CovarianceDrop(Correction):
    """0 for a share of the tokens of high covariance of A and log pi, else 1: Clip-Cov.

    Candidates have lower < (A - mean A)(log pi - mean log pi) < upper and are not
    clipped by the ratio's band [1 - low, 1 + high]. max(1, floor(share * tokens)) of
    them are dropped, drawn at random when there are more; the draw is a function of the
    batch's advantages. `dropped` [P, G, T] gives the tokens instead. 2505.22617.
    """

    share: Scalar = 2e-4
    lower: Scalar = 1.0
    upper: Scalar = 5.0
    low: Scalar = 0.2
    high: Scalar = 0.2
    dropped: Array | None = None

    def __post_init__(self):
        _check_share("covariance_drop", self.share)
        lower, upper = concrete(self.lower), concrete(self.upper)
        ok = lower is None or upper is None or lower < upper
        require("covariance_drop.lower", self.lower, ok, "is not below upper")

    @property
    def needs(self):
        known = self.dropped is not None
        return frozenset() if known else frozenset({"current", "old"})

    def __call__(self, batch, signal, streams):
        if self.dropped is not None:
            return jnp.where(self.dropped > 0, 0.0, 1.0)
        signal = jnp.where(batch.mask > 0, signal, 0.0)
        now, tokens = given(batch, "current"), batch.mask.sum()
        ratio = jnp.exp(now - given(batch, "old"))
        band = jnp.clip(ratio, 1.0 - self.low, 1.0 + self.high)
        cov = (signal - signal.sum() / (tokens + EPS)) * (
            now - now.sum() / (tokens + EPS)
        )
        candidate = (batch.mask > 0) & (signal * band >= signal * ratio)
        candidate = candidate & (cov > self.lower) & (cov < self.upper)
        order = jnp.where(candidate, jax.random.uniform(_key(signal), cov.shape), 2.0)
        count = jnp.maximum(jnp.floor(self.share * tokens), 1.0)
        return jnp.where(candidate & (_rank(order) < count), 0.0, 1.0)


@part
class TopCovariance(Correction):
    """1 for the share of tokens with the largest covariance, else 0: KL-Cov.

    The covariance of A and log pi as in `CovarianceDrop`; max(1, floor(share * tokens))
    tokens. Source: 2505.22617.
    """

    share: Scalar = 2e-4

    def __post_init__(self):
        _check_share("top_covariance", self.share)

    @property
    def needs(self):
        return frozenset({"current"})

    def __call__(self, batch, signal, streams):
        kept, now = batch.mask > 0, given(batch, "current")
        tokens = jnp.maximum(batch.mask.sum(), 1.0)
        signal = jnp.where(kept, signal, 0.0)
        cov = (signal - signal.sum() / tokens) * (now - now.sum() / tokens)
        count = jnp.maximum(jnp.floor(self.share * tokens), 1.0)
        return jnp.where(_rank(jnp.where(kept, -cov, jnp.inf)) < count, 1.0, 0.0)


@part
class RowGeometricMean(Correction):
    """exp(sum_t log(w_t + 1e-10) / (n + 1e-8)): one weight per row (geo_mean)."""

    weight: Correction = GivenWeight()

    def __post_init__(self):
        if self.weight.local:
            raise ValueError(
                f"row_geometric_mean.weight: {type(self.weight).__name__} is computed "
                "inside the loss; write given_weight or sampler_correction"
            )

    @property
    def needs(self):
        return self.weight.needs

    def __call__(self, batch, signal, streams):
        logs = jnp.log(self.weight(batch, signal, streams) + 1e-10)
        total = jnp.where(batch.mask > 0, logs, 0.0).sum(-1, keepdims=True)
        mean = total / (batch.mask.sum(-1, keepdims=True) + EPS)
        return jnp.broadcast_to(jnp.exp(mean), batch.mask.shape)


def _check_share(where: str, share: Scalar) -> None:
    known = concrete(share)
    inside = known is None or 0.0 < known <= 1.0
    require(f"{where}.share", share, inside, "is outside (0, 1]")


def _rank(values: Array) -> Array:
    """Place of each entry in ascending order, ties by position; shape as given."""
    order = jnp.argsort(values.reshape(-1))
    return jnp.argsort(order).reshape(values.shape)


def _key(signal: Array) -> Array:
    """A random key from the bits of `signal`, whatever the order of summation."""
    bits = jax.lax.bitcast_convert_type(signal.astype(jnp.float32), jnp.uint32)
    return jax.random.fold_in(jax.random.key(0), bits.sum(dtype=jnp.uint32))
