"""Reference points: what an implicit reward is measured from, z = beta (f'(u) - point).

They are statistics over the logical batch, constants to autodiff, taken before the
batch is cut: the same for every microbatch, device and process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.aggregation import Empty
from unipost.batch import Batch
from unipost.levels import Anchor, given
from unipost.parts import part

Array = jax.Array
Measured = Callable[[Anchor], Array]
"""anchor -> [P, G] log(current/anchor) on the objective's units, treated as z's is."""


class ReferencePoint(ABC):
    """A rule (batch, signal, measured) -> points [P, G].

    `needs` names the arrays it reads; `measured` reads `batch.current`.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Fields of `Batch` that must be given."""
        return frozenset()

    @abstractmethod
    def __call__(self, batch: Batch, signal: Array, measured: Measured) -> Array:
        """The point of each row of a cleaned batch."""


@part
class MismatchedMean(ReferencePoint):
    """max(0, mean of sum_t log(pi/ref) over mismatched pairs): KTO's z0.

    A mismatched pair is a prompt with the response of another; the mean is over the
    rows of the logical batch that have one (NaN: none). It estimates KL(pi || ref).
    `empty` "counted": those of rows without a token too (TRL). Source: 2402.01306
    section 4.1.
    """

    empty: Empty = "left_out"

    @property
    def needs(self):
        return frozenset({"mismatched"})

    def __call__(self, batch, signal, measured):
        value = given(batch, "mismatched")
        valid = jnp.isfinite(value) & _counted(batch, self.empty)
        total = jnp.where(valid, value, 0.0).sum()
        mean = total / jnp.maximum(valid.sum(), 1)
        return jnp.full(value.shape, jnp.maximum(mean, 0.0))


@part
class OrderStatistics(ReferencePoint):
    """Compare quantiles over the batch instead of a pair with itself: AOT. 2406.05882.

    of "margins": the k-th smallest policy margin log pi_w - log pi_l is compared with
    the k-th smallest margin of the reference. of "rows": the k-th smallest log-ratio of
    the chosen responses with the k-th smallest of the rejected (unpaired AOT).
    `empty` "counted": an empty response has log-ratio 0 in the order (TRL).
    """

    of: Literal["margins", "rows"] = "margins"
    empty: Empty = "left_out"

    @property
    def needs(self):
        return frozenset({"current", "reference"})

    def __call__(self, batch, signal, measured):
        ratio, policy = measured("reference"), measured("none")
        sign = signal[..., 0]
        # pairs that compare nothing stand at the end of every order
        valid = _counted(batch, self.empty).all(-1) & (sign != 0).all(-1)
        if self.of == "margins":
            margin, own = (sign * policy).sum(-1), (sign * (policy - ratio)).sum(-1)
            shift = jnp.where(valid, _partner(margin, own, valid) - own, 0.0)
            return jnp.where(sign > 0, shift[:, None], 0.0)
        chosen = jnp.where(sign > 0, ratio, 0.0).sum(-1)
        rejected = jnp.where(sign < 0, ratio, 0.0).sum(-1)
        up = _partner(chosen, rejected, valid)[:, None]
        down = _partner(rejected, chosen, valid)[:, None]
        return jnp.where(valid[:, None], jnp.where(sign > 0, up, down), 0.0)


def _counted(batch: Batch, empty: Empty) -> Array:
    """Rows [P, G] that count."""
    return (batch.mask.sum(-1) > 0) | (empty == "counted")


def _partner(values: Array, others: Array, valid: Array) -> Array:
    """For each of `values` [P], the one of `others` that has the same rank."""
    values, others = (jnp.where(valid, x, jnp.inf) for x in (values, others))
    rank = jnp.argsort(jnp.argsort(values))
    return jnp.sort(others)[rank]


REFERENCE_POINTS = {
    "mismatched_mean": MismatchedMean,
    "order_statistics": OrderStatistics,
}
