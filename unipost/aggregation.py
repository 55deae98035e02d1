"""Aggregations: one denominator, counted over the logical batch before it is cut.

Each turns the mask into weights with loss = sum(weight * per-token loss), so that
microbatches, devices and packed rows only ever add. Empty rows are not counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.parts import Scalar, in_range, part

Array = jax.Array


class Aggregation(ABC):
    """A rule mask [P, G, T] -> weights [P, G, T]."""

    @abstractmethod
    def weights(self, mask: Array) -> Array:
        """Weights of the per-token losses; all zero for an empty batch."""


def _rows(mask):
    return jnp.maximum((mask.sum(-1) > 0).sum(), 1).astype(mask.dtype)


@part
class TokenMean(Aggregation):
    """sum over tokens / number of tokens of the logical batch (SFT, DAPO, CISPO)."""

    def weights(self, mask):
        return mask / jnp.maximum(mask.sum(), 1.0)


@part
class SequenceMean(Aggregation):
    """Mean over rows of the mean over a row's tokens (GRPO); over pairs for DPO."""

    def weights(self, mask):
        lengths = jnp.maximum(mask.sum(-1, keepdims=True), 1.0)
        return mask / lengths / _rows(mask)


@part
class SequenceSum(Aggregation):
    """Mean over rows of the sum over a row's tokens: the true policy gradient."""

    def weights(self, mask):
        return mask / _rows(mask)


@part
class Constant(Aggregation):
    """Sum over tokens / (rows * length), a fixed length instead of a counted one.

    `over="rows"` is Dr. GRPO. `over="nothing"` leaves out the number of rows and
    divides by the length alone, as LUFFY's released recipe does: the loss then grows
    with the batch.
    """

    length: Scalar
    over: Literal["rows", "nothing"] = "rows"

    def __post_init__(self):
        in_range("constant.length", self.length, 0.0, what="is not positive")

    def weights(self, mask):
        rows = _rows(mask) if self.over == "rows" else 1.0
        return mask / (rows * self.length)


AGGREGATIONS = {
    "token_mean": TokenMean,
    "sequence_mean": SequenceMean,
    "sequence_sum": SequenceSum,
    "constant": Constant,
}
