"""verl's treatments of the log-ratio, where they differ from the papers'."""

from __future__ import annotations

import jax.numpy as jnp

from unipost.parts import Scalar, in_range, part
from unipost.ratios import Ratio, SequenceToken
from unipost.verl.aggregations import EPS


@part
class CappedSequenceToken(SequenceToken):
    """`SequenceToken` with log u at most `cap`, and no gradient beyond it (gspo)."""

    cap: Scalar = 10.0

    def __call__(self, log_u, signal, mask):
        return jnp.minimum(SequenceToken.__call__(self, log_u, signal, mask), self.cap)


@part
class RowGeometricClip(Ratio):
    """sum_t e_t / (n + 1e-8) of the row on each of its tokens (geo_mean).

    e_t is log u_t clipped to [-low, high] on the side that the sign of A_t would run
    away to, and 0 where A_t = 0. Per token, so that A may differ between tokens:
    the mean of -A_t exp(.) over a row is verl's -mean(A) exp(.).
    """

    low: Scalar = 0.2
    high: Scalar = 0.2

    def __post_init__(self):
        for name in ("low", "high"):
            value = getattr(self, name)
            in_range(f"row_geometric_clip.{name}", value, 0.0, what="is not positive")

    def __call__(self, log_u, signal, mask):
        up = jnp.where(signal > 0, jnp.minimum(log_u, self.high), 0.0)
        kept = jnp.where(signal < 0, jnp.maximum(log_u, -self.low), up)
        total = jnp.where(mask > 0, kept, 0.0).sum(-1, keepdims=True)
        mean = total / (mask.sum(-1, keepdims=True) + EPS)
        return jnp.where(mask > 0, mean, 0.0)
