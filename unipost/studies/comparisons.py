"""Tests of claims that compare arms, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unipost.studies.claims import (
    Effect,
    Test,
    bounds,
    difference_unit,
    quotient,
    when,
)
from unipost.studies.frame import At


@dataclass(frozen=True)
class Difference(Test):
    """of[0] - of[1] in `what`, above (or below) a threshold, paired by seed and item.

    of  two arms, arms of a grid by their common name (their mean), or `base`
    """

    of: tuple[str, str]
    what: str
    above: float | None = None
    below: float | None = None
    at: At = "final"

    def __post_init__(self):
        bounds(self.above, self.below)

    def uses(self):
        return ((self.of, (self.what,), self.at),)

    def text(self):
        return f"{self.of[0]} - {self.of[1]}, {self.what}{when(self.at)}"

    def unit(self, frame):
        return difference_unit(super().unit(frame))

    def paired(self, sample):
        return sample.paired_p(*self.of, self.what, self.at)

    def effects(self, sample):
        draws = sample.difference(*self.of, self.what, self.at)
        return [Effect(draws, *bounds(self.above, self.below))]


@dataclass(frozen=True)
class Equivalence(Test):
    """|of[0] - of[1]| in `what` is smaller than `margin`: two one-sided tests.

    The interval is that at 1 - 2 alpha.
    """

    of: tuple[str, str]
    what: str
    margin: float
    at: At = "final"

    def __post_init__(self):
        if not self.margin > 0:
            raise ValueError(f"margin: {self.margin:g}; write a number above 0")

    def uses(self):
        return ((self.of, (self.what,), self.at),)

    def text(self):
        return f"{self.of[0]} - {self.of[1]}, {self.what}{when(self.at)}"

    def unit(self, frame):
        return difference_unit(super().unit(frame))

    def paired(self, sample):
        return sample.paired_p(*self.of, self.what, self.at)

    def effects(self, sample):
        draws = sample.difference(*self.of, self.what, self.at)
        return [Effect(draws, -self.margin, self.margin)]


@dataclass(frozen=True)
class Above(Test):
    """`what` of one arm is above a threshold."""

    arm: str
    what: str
    above: float
    at: At = "final"

    def uses(self):
        return (((self.arm,), (self.what,), self.at),)

    def text(self):
        return f"{self.arm}, {self.what}{when(self.at)}"

    def effects(self, sample):
        return [Effect(sample.mean(self.arm, self.what, self.at), lower=self.above)]


@dataclass(frozen=True)
class Below(Test):
    """`what` of one arm is below a threshold."""

    arm: str
    what: str
    below: float
    at: At = "final"

    def uses(self):
        return (((self.arm,), (self.what,), self.at),)

    def text(self):
        return f"{self.arm}, {self.what}{when(self.at)}"

    def effects(self, sample):
        return [Effect(sample.mean(self.arm, self.what, self.at), upper=self.below)]


@dataclass(frozen=True)
class Order(Test):
    """`what` falls from each arm to the next, by more than `by`; all pairs must hold.

    All neighbours hold together, so no correction for their number is needed.
    """

    arms: tuple[str, ...]
    what: str
    by: float = 0.0
    at: At = "final"

    def __post_init__(self):
        if len(self.arms) < 2 or len({*self.arms}) < len(self.arms):
            raise ValueError(
                f"arms: {list(self.arms)}; write two different ones or more"
            )

    def uses(self):
        return ((self.arms, (self.what,), self.at),)

    def text(self):
        return f"{' > '.join(self.arms)}, {self.what}{when(self.at)}"

    def unit(self, frame):
        return difference_unit(super().unit(frame))

    def effects(self, sample):
        pairs = zip(self.arms, self.arms[1:], strict=False)
        return [
            Effect(
                sample.difference(a, b, self.what, self.at),
                lower=self.by,
                label=f"{a} - {b}, {self.what}{when(self.at)}",
            )
            for a, b in pairs
        ]


@dataclass(frozen=True)
class Ratio(Test):
    """mean(of[0]) / mean(of[1]) in `what`, above (or below) a threshold."""

    of: tuple[str, str]
    what: str
    above: float | None = None
    below: float | None = None
    at: At = "final"

    def __post_init__(self):
        bounds(self.above, self.below)

    def uses(self):
        return ((self.of, (self.what,), self.at),)

    def text(self):
        return f"{self.of[0]} / {self.of[1]}, {self.what}{when(self.at)}"

    def unit(self, frame):
        return ""

    def effects(self, sample):
        top, bottom = (sample.mean(arm, self.what, self.at) for arm in self.of)
        return [Effect(quotient(top, bottom), *bounds(self.above, self.below))]


@dataclass(frozen=True)
class Recovery(Test):
    """Share of the gap from `worse` to `better` that `arm` recovers is above `above`.

    (arm - worse) / (better - worse) in `what`; 0.6 is 60%. Not shown at all where the
    gap is not: its own effect, gap > 0, is part of the claim.
    """

    arm: str
    worse: str
    better: str
    what: str
    above: float
    at: At = "final"

    def uses(self):
        return (((self.arm, self.worse, self.better), (self.what,), self.at),)

    def text(self):
        return (
            f"{self.arm} from {self.worse} to {self.better}, {self.what}{when(self.at)}"
        )

    def unit(self, frame):
        return ""

    def effects(self, sample):
        gap = sample.difference(self.better, self.worse, self.what, self.at)
        part = sample.difference(self.arm, self.worse, self.what, self.at)
        share = np.where(gap > 0, quotient(part, gap), np.nan)
        known = Effect(
            gap, lower=0.0, label=f"{self.better} - {self.worse}, {self.what}"
        )
        return [Effect(share, lower=self.above, label=self.text()), known]


@dataclass(frozen=True)
class Exclusive(Test):
    """Percent of items that of[0] solves and of[1] does not is above `above`.

    what  TASK or TASK/METRIC of right and wrong answers; solved where it is 1
    """

    of: tuple[str, str]
    what: str
    above: float
    at: Literal["final"] | int = "final"

    def uses(self):
        return ((self.of, (self.what,), self.at),)

    def check(self, frame):
        super().check(frame)
        if len(frame.quantity(self.what).terms) != 1 or self.what == "gain":
            raise ValueError(f"what: {self.what!r} is no single task; write a TASK")
        for arm in self.of:
            if len(frame.members(arm)) > 1:
                raise ValueError(
                    f"of: {arm} stands for {', '.join(frame.members(arm))}; write one"
                )

    def text(self):
        return f"{self.of[0]} alone, not {self.of[1]}, {self.what}{when(self.at)}"

    def unit(self, frame):
        return "%"

    def effects(self, sample):
        draws = sample.exclusive(*self.of, self.what, self.at)
        return [Effect(draws, lower=self.above)]
