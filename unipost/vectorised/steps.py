"""How the runs of a group take their steps.

vmap  one program of all runs, over stacked arrays: what an accelerator wants, which a
      small model alone leaves idle
turn  the program of one run, launched for each without waiting: what a CPU wants, whose
      caches hold one small model and whose cores take a run each
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from unipost.vectorised.members import Member

Way = Literal["vmap", "turn"]


class Taken(NamedTuple):
    """What a step of all runs gave.

    values  metrics on the device: {name: [R]}, or a list of each run's {name: scalar}
    drawn   of each run, what its data report
    tokens  of each run, the tokens trained on
    """

    values: Any
    drawn: list[dict[str, float]]
    tokens: list[Any]


class Steps(Protocol):
    """The runs of a group, all after the same number of steps."""

    def step(self, step: int) -> Taken:
        """Take the 0-based `step` of every run that has not failed."""
        ...

    def settle(self) -> None:
        """Give every run its own state, for whoever reads it."""
        ...


class Turns:
    """The runs one after the other, none waited for."""

    def __init__(self, members: Sequence[Member]):
        self._members = members

    def step(self, step: int) -> Taken:
        """See `Steps.step`."""
        taken = Taken([], [], [])
        for member in self._members:
            numbers, tokens = {}, 0
            if member.error is None:
                parts = member.carried, step, member.ahead
                member.carried, numbers, tokens = member.loop.step(*parts)
            taken.values.append(numbers)
            taken.drawn.append({})
            taken.tokens.append(tokens)
        return taken

    def settle(self) -> None:
        """See `Steps.settle`: they have it."""
