"""Rows as the pooling of transformers sees them where texts end with their padding.

A sequence classification is read at the last token that is not the pad token. Where a
tokenizer pads with its end token, that is the token before the end: so it is trained.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp

from unipost.model import Params
from unipost.objectives import Trainable
from unipost.scalar.objective import ScalarObjective
from unipost.sources import EMPTY, Experience, Memory, Setting, Source, Stream


@dataclass(frozen=True)
class WithoutEnd:
    """The rows of a stream without the token `end` where a response ends with it."""

    stream: Stream
    end: int

    @property
    def size(self) -> int:
        return self.stream.size

    def batch(self, step: int, params: Params, memory: Memory = EMPTY) -> Experience:
        drawn = self.stream.batch(step, params, memory)
        rows, batch = drawn.rows, drawn.batch
        mask = rows.response_mask.astype(bool)
        after = jnp.flip(jnp.cumsum(jnp.flip(mask, -1), -1), -1)
        kept = mask & ~((after == 1) & (rows.response == self.end))
        batch = dataclasses.replace(batch, mask=jnp.where(kept, batch.mask, 0))
        return drawn._replace(rows=rows._replace(response_mask=kept), batch=batch)


def open_rows(objective: Trainable, data: Source, setting: Setting) -> Stream:
    """The stream of a source as `objective` reads its rows."""
    stream = data.open(setting)
    tokenizer = setting.tokenizer
    pooled = isinstance(objective, ScalarObjective) and objective.layout == "sequence"
    if pooled and tokenizer.pad_token == tokenizer.eos_token:
        return WithoutEnd(stream, tokenizer.eos_token)
    return stream
