"""A step of several runs as one program, over stacked arrays [R, ...]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from unipost.adapters import with_trained
from unipost.annealed import annealed_numbers, at_step
from unipost.diagnostics import combine
from unipost.loop import Carried
from unipost.policy import Array, Policy
from unipost.sources import Experience
from unipost.update import State, advantage, update, with_streams
from unipost.vectorised.members import Member
from unipost.vectorised.sampling import Whole
from unipost.vectorised.stacks import (
    Stack,
    Way,
    advance,
    call,
    joined,
    parted,
    stack,
    stacked,
)


@dataclass(frozen=True)
class Shape:
    """What the programs of a step are compiled for, beside the shapes of arrays.

    judge  the policy of the reference; None: there is no reference
    """

    policy: Policy
    judge: Policy | None
    minibatches: int

    def streams(self, objective, state, frozen, reference, rows, batch) -> Any:
        """The batch with the streams that the objective reads as data."""
        return with_streams(
            objective,
            self.policy,
            rows,
            batch,
            with_trained(frozen, state.params),
            reference,
            reference_policy=self.judge,
            microbatches=self.minibatches,
            minibatches=self.minibatches,
        )


@dataclass(frozen=True)
class Single(Shape):
    """A step with one update."""

    def __call__(
        self, state, objective, optimizer, frozen, reference, rows, batch, total
    ):
        """(state, metrics) after it."""
        batch = self.streams(objective, state, frozen, reference, rows, batch)
        own = objective, optimizer, state
        return update(self.policy, *own, rows, batch, 1, total, None, frozen)


@dataclass(frozen=True)
class Prepare(Shape):
    """What a step with several updates begins with."""

    def __call__(self, objective, state, frozen, reference, rows, batch):
        """(rows, batch with its streams, signal)."""
        batch = self.streams(objective, state, frozen, reference, rows, batch)
        whole, pieces = with_trained(frozen, state.params), self.minibatches
        own = objective, whole, rows, batch
        return rows, batch, advantage(self.policy, *own, pieces, pieces)


@dataclass(frozen=True)
class Update:
    """One of the updates of a step, on one of `count` minibatches."""

    policy: Policy
    count: int

    def __call__(self, state, objective, optimizer, frozen, whole, index, total):
        """(state, metrics) after that on the minibatch at `index`."""
        cut = partial(_piece, index=index, count=self.count)
        rows, batch, signal = jax.tree.map(cut, whole)
        own = objective, optimizer, state
        return update(self.policy, *own, rows, batch, 1, total, signal, frozen)


def _piece(x: Array, index: Any, count: int) -> Array:
    """`unipost.update.minibatch` at an index that is traced: one program for all."""
    size = x.shape[0] // count
    return jax.lax.dynamic_slice_in_dim(x, index * size, size)


def _alike(leaf: Any) -> Stack:
    """What is one for all runs."""
    return Stack([leaf], jax.tree.structure(leaf), (None,))


def _combined(updates: list[Any]) -> Any:
    return combine(updates)


class Part:
    """Runs whose arrays are stacked, and that take their steps as one program."""

    def __init__(self, members: Sequence[Member], way: Way):
        self._members, self._way = members, way
        loops = [member.loop for member in members]
        self._objectives = [loop.experiment.objective for loop in loops]
        self._anneals = bool(annealed_numbers(self._objectives[0]))
        self._objective = stack([at_step(x, 0) for x in self._objectives])
        self._state: State = joined([member.carried.state for member in members])
        self._frozen = stack([loop.frozen for loop in loops])
        judges = [loop.reference and loop.reference.params for loop in loops]
        self._reference = stack(judges)
        self._optimizer = stack([loop.experiment.optimizer for loop in loops])
        self._total = _alike(jnp.asarray(self._experiment.steps * self._updates))
        for member in members:
            member.carried = None

    @property
    def _experiment(self):
        return self._members[0].loop.experiment

    @property
    def _updates(self) -> int:
        return self._experiment.inner_epochs * self._experiment.minibatches

    @property
    def params(self) -> Whole:
        """The parameters of the policies."""
        return self._frozen, stacked(self._state.params)

    def step(self, step: int, drawn: Sequence[Experience]) -> dict[str, Array]:
        """Take the 0-based `step` on the experience of every run; {name: [R]}."""
        if self._anneals:
            self._objective = stack([at_step(x, step) for x in self._objectives])
        rows = stack([one.rows for one in drawn])
        batch = stack([one.batch for one in drawn])
        loop, way = self._members[0].loop, self._way
        pieces = self._experiment.minibatches
        shape = loop.model.policy, loop.reference and loop.reference.policy, pieces
        own = self._objective, self._optimizer, self._frozen
        given = self._reference, rows, batch
        if self._updates == 1:
            parts = *own, *given, self._total
            self._state, values = advance(way, Single(*shape), self._state, *parts)
            return values
        parts = self._objective, stacked(self._state), self._frozen, *given
        whole, found = stacked(call(way, Prepare(*shape), *parts)), []
        one = Update(loop.model.policy, pieces)
        for i in range(self._updates):
            parts = *own, whole, _alike(i % pieces), self._total
            self._state, values = advance(way, one, self._state, *parts)
            found.append(values)
        return call(way, _combined, stacked(found))

    def settle(self) -> None:
        """Give every run its own state."""
        states = parted(self._state, len(self._members))
        for member, state in zip(self._members, states, strict=True):
            member.carried = Carried(state)
