"""Tests of claims about how numbers go together: over steps, runs, and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unipost.studies.claims import Effect, Test, bounds


@dataclass(frozen=True)
class Slope(Test):
    """Slope of `what` over the steps of the curve, in its unit per 100 steps.

    of      one arm, or two: the slope of the first minus that of the second
    since   the first step that counts; 0 is the base
    """

    of: tuple[str, ...]
    what: str
    above: float | None = None
    below: float | None = None
    since: int = 0

    def __post_init__(self):
        bounds(self.above, self.below)
        if len(self.of) not in (1, 2):
            raise ValueError(f"of: {list(self.of)}; write one arm or two")

    def uses(self):
        return ((self.of, (self.what,), "final"),)

    def check(self, frame):
        super().check(frame)
        steps = [s for s in frame.curve if s >= self.since]
        if not steps:
            raise ValueError(
                f"since: {self.since}, and no step of the curve is there; write curve"
            )
        frame.check_at(steps[0], self.what)

    def text(self):
        return f"slope of {' - '.join(self.of)}, {self.what}"

    def unit(self, frame):
        return f"{super().unit(frame)} per 100 steps".strip()

    def effects(self, sample):
        slopes = [sample.slope(arm, self.what, self.since) for arm in self.of]
        draws = slopes[0] if len(slopes) == 1 else slopes[0] - slopes[1]
        return [Effect(sample.over_runs(draws), *bounds(self.above, self.below))]


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


def _predicts(test: Predictor) -> str:
    name = "R^2" if test.statistic == "r2" else "Spearman"
    rest = f" - {test.more_than}" if test.more_than else ""
    return f"{name} of {test.y} from {test.x}{rest}, {test.points} points"
