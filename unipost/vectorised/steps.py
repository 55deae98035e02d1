"""How the runs of a group take their steps, which one program computes for all.

vmap  over all runs at once: what an accelerator wants, which a small model alone
      leaves idle
map   over the runs one after the other, the group cut into a part for each core: what
      a CPU wants, whose caches hold one small model, and whose cores speed up a small
      step little but take a part each without loss
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from unipost.policy import Array
from unipost.profiling import on_device, phase
from unipost.vectorised.drawing import Drawing
from unipost.vectorised.meeting import cores
from unipost.vectorised.members import Member
from unipost.vectorised.part import Part
from unipost.vectorised.sampling import Asked, answered
from unipost.vectorised.stacks import Way

T = TypeVar("T")


def default_way() -> Way:
    """The way that is faster than one run after the other on the devices there are."""
    return "map" if jax.default_backend() == "cpu" else "vmap"


def parts_of(runs: int, way: Way) -> int:
    """The number of parts that a group is cut into."""
    return min(runs, cores()) if way == "map" else 1


class Taken(NamedTuple):
    """What a step of all runs gave.

    values  metrics on the device, {name: [runs of the part]} of every part
    drawn   of each run, what its data report
    tokens  of each run, the tokens trained on
    """

    values: list[dict[str, Array]]
    drawn: list[dict[str, float]]
    tokens: list[int]


class Steps:
    """Takes the steps of runs that stand at the same step; a context manager.

    Every part is computed in a thread of its own. All parts are of one size, so that
    one program serves them: the last run fills up the last part.
    """

    def __init__(self, members: Sequence[Member], drawing: Drawing, way: Way):
        self._members, self._drawing = members, drawing
        parts = parts_of(len(members), way)
        self._size = -(-len(members) // parts)
        whole = self._filled(members)
        cut = range(0, len(whole), self._size)
        self._parts = [Part(whole[i : i + self._size], way) for i in cut]
        # what one thread hands to a CPU is done in order, so each part has its own
        self._threads = [ThreadPoolExecutor(1) for _ in self._parts]
        self._known: set[str] = set()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *exception) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True)

    def _filled(self, items: Sequence[T]) -> list[T]:
        """`items` with the last repeated until all parts are full."""
        return [*items, *[items[-1]] * (-len(items) % self._size)]

    def step(self, step: int) -> Taken:
        """Take the 0-based `step` of every run; one that has failed computes on."""
        with phase("data"):
            drawn = self._drawing(self._members, step, self._answered)
        whole, size = self._filled(drawn), self._size

        def one(i: int) -> dict[str, Array]:
            return self._parts[i].step(step, whole[i * size : (i + 1) * size])

        with on_device("update") as gives:
            found = self._each("update", one, range(len(self._parts)))
            values = [found[i] for i in range(len(self._parts))]
            gives(values)
        epochs = self._members[0].loop.experiment.inner_epochs
        counts = [int(np.sum(one.rows.response_mask)) * epochs for one in drawn]
        return Taken(values, [one.metrics for one in drawn], counts)

    def settle(self) -> None:
        """Give every run its own state, for whoever reads it."""
        for part in self._parts:
            part.settle()

    def _each(
        self, program: str, function: Callable[[int], T], parts: Iterable[int]
    ) -> dict[int, T]:
        """`function` of every part, side by side once its program is compiled."""
        if program not in self._known:
            self._known.add(program)
            return {i: function(i) for i in parts}
        begun = {i: self._threads[i].submit(function, i) for i in parts}
        return {i: future.result() for i, future in begun.items()}

    def _answered(self, asked: dict[int, Asked]) -> dict[int, Any]:
        """The completions that runs ask for, by their places among the members."""
        size = self._size

        def one(part: int) -> dict[int, Any]:
            own = {i - part * size: x for i, x in asked.items() if i // size == part}
            found = answered(self._parts[part].params, own, size)
            return {part * size + i: x for i, x in found.items()}

        parts = sorted({i // size for i in asked})
        with phase("generate"):
            found = self._each("generate", one, parts)
        return {i: x for each in found.values() for i, x in each.items()}
