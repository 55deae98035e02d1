"""What becomes of groups that say nothing, as parts: `groups: {name: resample}`.

A group is mixed when its rewards are not all equal and two of its own rows are scored;
no other moves a group-relative objective.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from unipost.rollouts.drawn import Drawn, mixed


class GroupRule(ABC):
    """A rule for the groups of a batch."""

    @property
    def rounds(self) -> int:
        """How often further questions are asked, at most, the first time included."""
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

    most: int = 4

    def __post_init__(self):
        if self.most < 2:
            raise ValueError(f"groups.most: {self.most}; write 2 or more, or drop")

    @property
    def rounds(self) -> int:
        return self.most

    def kept(self, drawn, own):
        return mixed(drawn, own)


GROUPS: dict[str, type[GroupRule]] = {"keep": Keep, "drop": Drop, "resample": Resample}
