"""What a scalar head is trained on: the protocol of `Objective`, over other streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.scalar.model import ScalarStreams

Array = jax.Array
Layout = Literal["sequence", "token"]
"""Which class of transformers a model is written as: *ForSequenceClassification, whose
head has no bias and is read at the last token, or *ForTokenClassification, with a bias
and read at every token."""


class ScalarObjective(ABC):
    """A loss of a scalar head, with the needs/advantage/prepare/loss of `Objective`.

    Training asks no more of it. `prepare` puts every normaliser into arrays with the
    leading axis P, so that losses and metrics of any cut along P add up.

    labels   scores of the head
    layout   how the model is written
    follows  what data may give (`unipost.sources.FIELDS`)
    """

    labels: ClassVar[int] = 1
    layout: ClassVar[Layout] = "sequence"
    follows: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """STREAMS of the head (`unipost.scalar.model`) and fields of `Batch`."""

    def advantage(self, batch: Batch) -> Array:
        """1 on every token: these losses read labels, not advantages."""
        return jnp.ones_like(batch.mask)

    @abstractmethod
    def prepare(self, batch: Batch, signal: Array | None = None) -> Any:
        """Labels and weights over the logical batch, before it is cut along P."""

    @abstractmethod
    def loss(
        self, streams: ScalarStreams, prepared: Any
    ) -> tuple[Array, dict[str, Array]]:
        """(loss, metrics) of a prepared batch or of any slice of it along P."""
