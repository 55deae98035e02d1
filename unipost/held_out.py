"""The objective's own loss and metrics on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.data_needs import TRAINING, check_data
from unipost.diagnostics import merge
from unipost.model import Params, Policy
from unipost.objectives import Trainable
from unipost.scalar.ends import open_rows
from unipost.sources import EMPTY, Setting, Source, Stream
from unipost.update import Rows, streams_for


@dataclass(frozen=True)
class HeldOut:
    """Rows on which the loss and the metrics of the objective are measured.

    data   rows that do not change while the policy trains, all of them; `prompts` of
           them are computed at once
    every  steps between two measurements; None: after the last step alone
    """

    data: Source
    every: int | None = None

    def __post_init__(self):
        if self.every is not None and self.every < 1:
            raise ValueError(f"held_out.every: {self.every}; write 1 or more, or null")
        if self.data.varies == "step":
            name = type(self.data).__name__
            raise ValueError(
                f"held_out.data: {name} come from the policy as it trains; write rows "
                "that stay, or evaluation"
            )

    def check(self, objective: Trainable) -> None:
        """Raises ValueError for rows that the objective would misread or miss."""
        missing = sorted(objective.needs & TRAINING)
        if missing:
            raise ValueError(
                f"held_out: the objective reads batch.{missing[0]}, which only "
                "training fills; leave held_out out"
            )
        try:
            check_data(objective, self.data)
        except ValueError as error:
            raise ValueError(f"held_out.{error}") from error

    def due(self, step: int, last: int) -> bool:
        """Whether it is measured after 1-based `step` of `last`."""
        return step == last or (self.every is not None and step % self.every == 0)

    def open(
        self, objective: Trainable, policy: Policy, setting: Setting
    ) -> Callable[[Params], dict[str, float]]:
        """Reads the rows; gives a function of the parameters of `policy`.

        `setting` is that of a source. The result has held_out/loss, the other metrics
        as held_out/NAME, and held_out/groups, the number of groups measured.
        """
        stream = open_rows(objective, self.data, setting)
        rows, batch, count = _all_rows(stream, self.data.prompts, setting.params)
        pieces = rows.response.shape[0] // self.data.prompts

        def measured(params: Params) -> dict[str, float]:
            args = policy, pieces, objective, params, rows, batch
            found = jax.device_get(_measure(*args))
            numbers = {f"held_out/{k}": float(v) for k, v in found.items()}
            return numbers | {"held_out/groups": float(count)}

        return measured


def _all_rows(stream: Stream, prompts: int, params: Params) -> tuple[Rows, Batch, int]:
    """Every group of a stream once, as one logical batch filled up with empty rows."""
    steps, memory, drawn = -(-stream.size // prompts), EMPTY, []
    for step in range(steps):
        experience = stream.batch(step, params, memory)
        memory = experience.memory
        drawn.append((experience.rows, experience.batch))
    rows, batch = jax.tree.map(lambda *x: jnp.concatenate(x), *drawn)
    # what the last batch holds of the next epoch has been counted already
    first = jnp.arange(batch.mask.shape[0]) < stream.size
    mask = jnp.where(first[:, None, None], batch.mask, 0)
    batch = Batch(**{**vars(batch), "mask": mask})
    return rows, batch, stream.size


@partial(jax.jit, static_argnums=(0, 1))
def _measure(
    policy: Policy,
    pieces: int,
    objective: Trainable,
    params: Params,
    rows: Rows,
    batch: Batch,
) -> dict[str, jax.Array]:
    """Metrics of the whole batch, its streams computed piece by piece."""
    prepared = objective.prepare(batch)

    def one(piece):
        some, part = piece
        streams = streams_for(objective.needs, policy, params, some)
        return objective.loss(streams, part)[1]

    cut = jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), (rows, prepared))
    found = jax.lax.map(one, cut)
    total = {k: v[0] for k, v in found.items()}
    for i in range(1, pieces):
        total = merge(total, {k: v[i] for k, v in found.items()})
    return total
