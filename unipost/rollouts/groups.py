"""What becomes of groups that say nothing, as parts: `groups: {name: resample}`.

A group is mixed when its rewards are not all equal and two of its own rows are scored;
no other moves a group-relative objective.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unipost.rollouts.drawn import Drawn, mixed, put, taken


class GroupRule(ABC):
    """A rule for the groups of a batch."""

    @property
    def tries(self) -> int:
        """How many rounds of questions a step may ask."""
        return 1

    @abstractmethod
    def kept(self, drawn: Drawn, own: int) -> np.ndarray:
        """[n] groups that stay; the first `own` rows of each are the policy's own."""


@dataclass(frozen=True)
class Keep(GroupRule):
    """Every group stays: one whose rewards are all equal has advantage 0 (GRPO)."""

    def kept(self, drawn, own):
        return np.ones(len(drawn.index), bool)


@dataclass(frozen=True)
class Drop(GroupRule):
    """Groups that are not mixed are taken away: no denominator or statistic sees them.

    They are counted as `dropped_groups`; their places in the batch stay empty.
    """

    def kept(self, drawn, own):
        return mixed(drawn, own)


@dataclass(frozen=True)
class Resample(GroupRule):
    """DAPO's dynamic sampling: more questions are asked until all groups are mixed.

    Every round asks as many questions as the batch has places; the mixed groups of
    later rounds take the places of those that were not, in order. After `rounds` rounds
    the places left over stay empty (`absent_groups`). With the order epochs, questions
    drawn after the last one that was needed are asked again at the next step: none is
    skipped, and none used twice. Source: 2503.14476.
    """

    rounds: int = 4

    def __post_init__(self):
        if self.rounds < 2:
            raise ValueError(
                f"groups.rounds: {self.rounds}; write 2 or more, or groups: drop"
            )

    @property
    def tries(self) -> int:
        return self.rounds

    def kept(self, drawn, own):
        return mixed(drawn, own)


GROUPS: dict[str, type[GroupRule]] = {"keep": Keep, "drop": Drop, "resample": Resample}


class Filling(NamedTuple):
    """A batch while rounds of questions fill its places.

    batch  the groups, of the first round where no other has taken the place
    empty  [m] places without a group that is kept
    used   questions asked from the first on up to the last whose group was needed
    """

    batch: Drawn
    empty: np.ndarray
    used: int


def begun(drawn: Drawn, kept: np.ndarray) -> Filling:
    """The batch after the first round; `kept` [n] are its groups that stay."""
    return Filling(drawn, np.flatnonzero(~kept), len(kept))


def filled(before: Filling, drawn: Drawn, kept: np.ndarray, round: int) -> Filling:
    """The batch after a further round, the `round`-th from 0, of as many groups."""
    fits = np.flatnonzero(kept)[: len(before.empty)]
    batch = put(before.batch, before.empty[: len(fits)], taken(drawn, fits))
    empty, count = before.empty[len(fits) :], len(kept)
    last = count if len(empty) else int(fits[-1]) + 1
    return Filling(batch, empty, round * count + last)
