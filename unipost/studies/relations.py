"""Tests of claims about how numbers go together: over steps, runs, and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unipost.studies.claims import Effect, Test, bounds
from unipost.studies.frame import Frame
from unipost.studies.sample import Axis


@dataclass(frozen=True)
class Slope(Test):
    """Slope of `what` over the steps of the curve, in its unit per 100 steps.

    of      one arm, or two: the slope of the first minus that of the second
    since   the first step that counts; 0 is the base
    until   the last one; None: the last of the run
    axis    log2: against the logarithm of the steps, per doubling, from step 1 on
    """

    of: tuple[str, ...]
    what: str
    above: float | None = None
    below: float | None = None
    since: int = 0
    until: int | None = None
    axis: Axis = "steps"

    def __post_init__(self):
        bounds(self.above, self.below)
        _check_range(self.since, self.until, self.axis)
        if len(self.of) not in (1, 2):
            raise ValueError(f"of: {list(self.of)}; write one arm or two")

    def uses(self):
        return ((self.of, (self.what,), "final"),)

    def check(self, frame):
        super().check(frame)
        _check_points(frame, self.what, self.since, self.until)

    def text(self):
        return f"slope of {' - '.join(self.of)}, {self.what}"

    def unit(self, frame):
        per = "per 100 steps" if self.axis == "steps" else "per doubling"
        return f"{super().unit(frame)} {per}".strip()

    def effects(self, sample):
        asked = self.what, self.since, self.until, self.axis
        slopes = [sample.slope(arm, *asked) for arm in self.of]
        draws = slopes[0] if len(slopes) == 1 else slopes[0] - slopes[1]
        return [Effect(sample.over_runs(draws), *bounds(self.above, self.below))]


@dataclass(frozen=True)
class Line(Test):
    """R^2 of a line through `what` over the curve is above `above`: how straight it is.

    since, until, axis as of `Slope`; by default against the logarithm of the steps.
    The mean over runs of each run's R^2.
    """

    arm: str
    what: str
    above: float
    since: int = 1
    until: int | None = None
    axis: Axis = "log2"

    def __post_init__(self):
        _check_range(self.since, self.until, self.axis)

    def uses(self):
        return (((self.arm,), (self.what,), "final"),)

    def check(self, frame):
        super().check(frame)
        _check_points(frame, self.what, self.since, self.until, least=3)

    def text(self):
        return f"R^2 of a line, {self.arm}, {self.what}"

    def unit(self, frame):
        return ""

    def effects(self, sample):
        asked = self.what, self.since, self.until, self.axis
        draws = sample.over_runs(sample.line_r2(self.arm, *asked))
        return [Effect(draws, lower=self.above)]


@dataclass(frozen=True)
class Predictor(Test):
    """How much of y the number x tells, over runs: R^2 of a quadratic fit, or Spearman.

    over       the arms whose runs are the points
    points     final: a point per run; converged: those that reach `matched`; curve:
               every step of the curve too, the points of a run drawn together
    at_least   the statistic is above this, or
    more_than  it is above that of this other predictor, on the same points
    """

    x: str
    y: str
    over: tuple[str, ...]
    points: Literal["final", "converged", "curve"] = "final"
    statistic: Literal["r2", "spearman"] = "r2"
    at_least: float | None = None
    more_than: str | None = None

    def __post_init__(self):
        if (self.at_least is None) == (self.more_than is None):
            raise ValueError(
                "at_least, more_than: write one of them, a number or another predictor"
            )

    def uses(self):
        names = (self.x, self.y, *([self.more_than] if self.more_than else ()))
        return ((self.over, names, "final"),)

    def check(self, frame):
        super().check(frame)
        if self.points == "converged":
            frame.check_at("matched")
        if self.points == "curve":
            for name in self.uses()[0][1]:
                frame.check_at(frame.curve[0] if frame.curve else 0, name)

    def text(self):
        return _predicts(self)

    def unit(self, frame):
        return ""

    def effects(self, sample):
        known = (self.over, self.y, self.points, self.statistic)
        if self.more_than is None:
            draws = sample.relation([self.x], *known)
            return [Effect(draws[0], lower=self.at_least or 0.0)]
        first, second = sample.relation([self.x, self.more_than], *known)
        return [Effect(first - second, lower=0.0)]


@dataclass(frozen=True)
class Peak(Test):
    """The place of the best of `arms` is above (below) that of the best of `others`.

    Places count from 0 in the lists as written, the best is the largest mean of `what`
    (of `other_what`, if that is given). For "the best learning rate is lower for ...".
    """

    arms: tuple[str, ...]
    others: tuple[str, ...]
    what: str
    other_what: str | None = None
    above: float | None = None
    below: float | None = None

    def __post_init__(self):
        bounds(self.above, self.below)

    def uses(self):
        second = self.other_what or self.what
        return (
            (self.arms, (self.what,), "final"),
            (self.others, (second,), "final"),
        )

    def text(self):
        return f"place of the best of {len(self.arms)} - that of {len(self.others)}"

    def unit(self, frame):
        return ""

    def effects(self, sample):
        places = []
        for arms, quantities, _ in self.uses():
            means = [sample.mean(arm, quantities[0], "final") for arm in arms]
            places.append(np.argmax(np.stack(means), 0).astype(float))
        draws = places[0] - places[1]
        return [Effect(draws, *bounds(self.above, self.below))]


def _check_range(since: int, until: int | None, axis: Axis) -> None:
    if axis == "log2" and since < 1:
        raise ValueError(f"since: {since} has no logarithm; write 1 or more")
    if until is not None and until <= since:
        raise ValueError(f"until: {until}; write a step after {since}")


def _check_points(
    frame: Frame, what: str, since: int, until: int | None, least: int = 1
) -> None:
    top = max([since, *frame.curve]) if until is None else until
    steps = [s for s in frame.curve if since <= s <= top]
    if len(steps) < least:
        where = f"since: {since}" if until is None else f"since: {since} to {until}"
        wanted = "no step" if least == 1 else f"fewer than {least} steps"
        raise ValueError(f"{where}, and {wanted} of the curve is there; write curve")
    frame.check_at(steps[0], what)


def _predicts(test: Predictor) -> str:
    name = "R^2" if test.statistic == "r2" else "Spearman"
    rest = f" - {test.more_than}" if test.more_than else ""
    return f"{name} of {test.y} from {test.x}{rest}, {test.points} points"
