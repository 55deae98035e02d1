"""Runs whose arrays are stacked, and that take their steps as one program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.annealed import annealed_numbers, at_step
from unipost.loop import Carried, Loop
from unipost.policy import Array
from unipost.sources import Experience
from unipost.update import State
from unipost.vectorised.members import Member
from unipost.vectorised.programs import (
    Given,
    Own,
    Prepare,
    Shape,
    Single,
    Update,
    combined,
    judge_of,
)
from unipost.vectorised.sampling import Whole
from unipost.vectorised.stacks import (
    Stack,
    Way,
    advance,
    call,
    inside,
    joined,
    parted,
    stack,
    stacked,
)


def _own(loop: Loop, total: Array) -> Own:
    judge = loop.reference and loop.reference.params
    return Own(loop.experiment.optimizer, loop.frozen, judge, total)


class Part:
    """Some runs of a group, their states stacked on axis 0."""

    def __init__(self, members: Sequence[Member], way: Way):
        self._members, self._way = members, way
        loops = [member.loop for member in members]
        self._objectives = [loop.experiment.objective for loop in loops]
        self._anneals = bool(annealed_numbers(self._objectives[0]))
        self._objective = stack([at_step(x, 0) for x in self._objectives])
        self._state: State = joined([member.carried.state for member in members])
        settings = loops[0].experiment
        self._pieces = settings.minibatches
        self._updates = settings.inner_epochs * settings.minibatches
        total = jnp.asarray(settings.steps * self._updates)
        self._own = stack([_own(loop, total) for loop in loops])
        for member in members:
            member.carried = None

    @property
    def _shape(self) -> tuple[Any, ...]:
        loop = self._members[0].loop
        return loop.model.policy, loop.reference and loop.reference.policy, self._pieces

    @property
    def params(self) -> Whole:
        """The parameters of the policies."""
        return inside(self._own, lambda own: own.frozen), stacked(self._state.params)

    def step(self, step: int, drawn: Sequence[Experience]) -> dict[str, Array]:
        """Take the 0-based `step` on the experience of every run; {name: [R]}."""
        if self._anneals:
            self._objective = stack([at_step(x, step) for x in self._objectives])
        way, given = self._way, self._given(drawn)
        parts = self._objective, self._own, given
        if self._updates == 1:
            one = Single(*self._shape)
            self._state, values = advance(way, one, self._state, *parts)
            return values
        first = Prepare(*self._shape)
        whole = stacked(call(way, first, stacked(self._state), *parts))
        one, found = Update(self._members[0].loop.model.policy, self._pieces), []
        for i in range(self._updates):
            index = Stack([i % self._pieces], jax.tree.structure(0), (None,))
            parts = self._objective, self._own, whole, index
            self._state, values = advance(way, one, self._state, *parts)
            found.append(values)
        return call(way, combined, stacked(found))

    def _given(self, drawn: Sequence[Experience]) -> Stack:
        """The data of the runs, with what one reference says of rows that some share.

        A grid has the same rows in all runs of a seed: they are judged once.
        """
        several = list({id(one): one for one in drawn}.values())
        places = {id(one): np.asarray(i) for i, one in enumerate(several)}
        judged, objective = {}, self._objectives[0]
        judge = judge_of(Shape(*self._shape), objective, drawn[0].batch)
        reference = inside(self._own, lambda own: own.reference)
        shared = all(axis is None for axis in reference.axes)
        if judge is not None and shared and len(several) < len(drawn):
            rows = stacked(joined([one.rows for one in several]))
            judged = call(self._way, judge, reference, rows)
        return stack(
            [Given(one.rows, one.batch, judged, places[id(one)]) for one in drawn]
        )

    def settle(self) -> None:
        """Give every run its own state."""
        states = parted(self._state, len(self._members))
        for member, state in zip(self._members, states, strict=True):
            member.carried = Carried(state)
