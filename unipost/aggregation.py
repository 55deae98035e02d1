"""Aggregations: one denominator, counted over the logical batch before it is cut.

Each turns the mask into weights with loss = sum(weight * per-token loss), so that
microbatches, devices and packed rows only ever add. Empty rows are not counted unless
the aggregation says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array
Empty = Literal["left_out", "counted"]
EmptyRows = Literal["left_out", "counted", "counted_as_zero"]


class Aggregation(ABC):
    """A rule mask [P, G, T] -> weights [P, G, T]."""

    @property
    def counts_empty(self) -> bool:
        """Whether rows without a token count, at sequence level with their value."""
        return False

    @abstractmethod
    def weights(self, mask: Array) -> Array:
        """Weights of the per-token losses; all zero for an empty batch."""

    def row_weights(self, mask: Array) -> Array:
        """Weights [P, G] of per-row losses: those of the row's tokens together."""
        return self.weights(mask).sum(-1)


def _rows(mask, empty: EmptyRows):
    if empty != "left_out":
        return jnp.asarray(float(mask.shape[0] * mask.shape[1]), mask.dtype)
    return jnp.maximum((mask.sum(-1) > 0).sum(), 1).astype(mask.dtype)


@part
class TokenMean(Aggregation):
    """sum over tokens / number of tokens of the logical batch (SFT, DAPO, CISPO)."""

    def weights(self, mask):
        return mask / jnp.maximum(mask.sum(), 1.0)


@part
class SequenceMean(Aggregation):
    """Mean over rows of the mean over a row's tokens (GRPO); over pairs for DPO.

    empty "counted": rows without a token count in the denominator, and at sequence
    level with the value that they have at log u = 0 (TRL's RLOO and GMPO);
    "counted_as_zero": in the denominator only (TRL's GRPO). eps is added to a row's
    length (verl: 1e-8).
    """

    empty: EmptyRows = "left_out"
    eps: Scalar = 0.0

    def __post_init__(self):
        known = concrete(self.eps)
        ok = known is None or known >= 0.0
        require("sequence_mean.eps", self.eps, ok, "is negative")

    @property
    def counts_empty(self):
        return self.empty == "counted"

    def weights(self, mask):
        lengths = mask.sum(-1, keepdims=True)
        lengths = jnp.where(lengths > 0, lengths, 1.0) + self.eps
        return mask / lengths / _rows(mask, self.empty)

    def row_weights(self, mask):
        if self.empty != "counted":
            return self.weights(mask).sum(-1)
        return jnp.ones_like(mask[..., 0]) / _rows(mask, self.empty)


@part
class SequenceSum(Aggregation):
    """Mean over rows of the sum over a row's tokens: the true policy gradient."""

    empty: Empty = "left_out"

    def weights(self, mask):
        return mask / _rows(mask, self.empty)


@part
class Constant(Aggregation):
    """Sum over tokens / (rows * length), a fixed length instead of a counted one.

    `over="rows"` is Dr. GRPO. `over="nothing"` leaves out the number of rows and
    divides by the length alone, as LUFFY's released recipe does: the loss then grows
    with the batch. `over="all_rows"` counts empty rows too (TRL).
    """

    length: Scalar
    over: Literal["rows", "all_rows", "nothing"] = "rows"

    def __post_init__(self):
        in_range("constant.length", self.length, 0.0, what="is not positive")

    def weights(self, mask):
        if self.over == "nothing":
            return mask / self.length
        empty = "counted" if self.over == "all_rows" else "left_out"
        return mask / (_rows(mask, empty) * self.length)


@part
class Scaled(Aggregation):
    """Another aggregation times a factor, such as 1 / accumulation steps."""

    aggregation: Aggregation
    factor: Scalar

    def __post_init__(self):
        in_range("scaled.factor", self.factor, 0.0, what="is not positive and finite")

    @property
    def counts_empty(self):
        return self.aggregation.counts_empty

    def weights(self, mask):
        return self.factor * self.aggregation.weights(mask)

    def row_weights(self, mask):
        return self.factor * self.aggregation.row_weights(mask)


AGGREGATIONS = {
    "token_mean": TokenMean,
    "sequence_mean": SequenceMean,
    "sequence_sum": SequenceSum,
    "constant": Constant,
    "scaled": Scaled,
}
