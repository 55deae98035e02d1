"""What one run computes in a step, as functions that a program is made of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax

from unipost.adapters import with_trained
from unipost.batch import Batch
from unipost.diagnostics import combine
from unipost.objectives import Trainable
from unipost.optimizers import Optimizer
from unipost.policy import Array, Policy
from unipost.update import REFERENCE, Rows, State, advantage, annotate, update
from unipost.update import with_streams as streams_with


class Own(NamedTuple):
    """What a run has of its own all along, beside its objective.

    total  the length of its schedule
    """

    optimizer: Optimizer
    frozen: Any
    reference: Any
    total: Array


class Given(NamedTuple):
    """The data of a run in a step.

    judged  fields of `Batch` that the reference makes of S batches of rows [S, ...]
    index   which of these are the run's
    """

    rows: Rows
    batch: Batch
    judged: dict[str, Array]
    index: Any


@dataclass(frozen=True)
class Shape:
    """What a program is compiled for, beside the shapes of arrays.

    judge  the policy of the reference; None: there is no reference
    """

    policy: Policy
    judge: Policy | None
    minibatches: int

    def streams(self, objective: Trainable, state: State, own: Own, given: Given):
        """The batch with the streams that the objective reads as data."""
        judged = {name: x[given.index] for name, x in given.judged.items()}
        return streams_with(
            objective,
            self.policy,
            given.rows,
            dataclasses.replace(given.batch, **judged),
            with_trained(own.frozen, state.params),
            own.reference,
            reference_policy=self.judge,
            microbatches=self.minibatches,
            minibatches=self.minibatches,
        )


@dataclass(frozen=True)
class Single(Shape):
    """A step with one update."""

    def __call__(self, state: State, objective: Trainable, own: Own, given: Given):
        """(state, metrics) after it."""
        batch = self.streams(objective, state, own, given)
        parts = objective, own.optimizer, state, given.rows, batch
        return update(self.policy, *parts, 1, own.total, None, own.frozen)


@dataclass(frozen=True)
class Prepare(Shape):
    """What a step with several updates begins with."""

    def __call__(self, state: State, objective: Trainable, own: Own, given: Given):
        """(rows, batch with its streams, signal)."""
        batch, pieces = self.streams(objective, state, own, given), self.minibatches
        params = with_trained(own.frozen, state.params)
        parts = objective, params, given.rows, batch
        return given.rows, batch, advantage(self.policy, *parts, pieces, pieces)


@dataclass(frozen=True)
class Update:
    """One of the updates of a step, on one of `count` minibatches."""

    policy: Policy
    count: int

    def __call__(self, state: State, objective: Trainable, own: Own, whole, index):
        """(state, metrics) after that on the minibatch at `index` of `whole`."""
        rows, batch, signal = jax.tree.map(partial(self._piece, index), whole)
        parts = objective, own.optimizer, state, rows, batch
        return update(self.policy, *parts, 1, own.total, signal, own.frozen)

    def _piece(self, index: Any, x: Array) -> Array:
        # as `unipost.update.minibatch`, at a traced index: one program for all
        size = x.shape[0] // self.count
        return jax.lax.dynamic_slice_in_dim(x, index * size, size)


@dataclass(frozen=True)
class Judge:
    """What the reference says of rows: its log-probs, and `extras` of them."""

    policy: Policy
    extras: tuple[str, ...]
    pieces: int

    def __call__(self, reference: Any, rows: Rows) -> dict[str, Array]:
        """Fields of `Batch`."""
        parts = self.policy, reference, rows, self.extras, self.pieces
        streams = annotate(*parts)
        extras = {f"reference_{x}": getattr(streams, x) for x in self.extras}
        return {"reference": streams.policy} | extras


def judge_of(shape: Shape, objective: Trainable, batch: Batch) -> Judge | None:
    """What the reference has to say of rows of `batch`; None: nothing."""
    asked = (objective.needs & REFERENCE) - {"mismatched"}
    missing = {name for name in asked if getattr(batch, name) is None}
    if shape.judge is None or not missing:
        return None
    extras = tuple(x for x in ("lse", "vocab") if f"reference_{x}" in objective.needs)
    return Judge(shape.judge, extras, shape.minibatches)


def combined(updates: list[Any]) -> Any:
    """The metrics of a step from those of its updates."""
    return combine(updates)
