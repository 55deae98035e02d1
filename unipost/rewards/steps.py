"""Rewards of the steps of a response."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unipost.rewards.arithmetic import step_equations
from unipost.rewards.grades import Grades, Reward, Steps, grades_of
from unipost.rewards.sample import Sample

Split = Literal["line", "paragraph", "numbered"]
"""Where a step ends: with its line, at an empty line, or before the next `Step k:`."""

_ENDS = {
    "line": re.compile(r"\n"),
    "paragraph": re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+"),
}
_NUMBERED = re.compile(
    r"^[ \t*#]{0,8}Step[ \t]{1,4}[0-9]{1,4}[ \t*]{0,4}[:.]", re.M | re.I
)


def split_steps(text: str, split: Split) -> list[tuple[int, int]]:
    """(start, end) in the text of every step that is not blank, in order.

    No step starts or ends with white space. Of `numbered`, what is before the first
    `Step k:` belongs to the first step, and a text without one is a single step.
    """
    if split == "numbered":
        starts = [m.start() for m in _NUMBERED.finditer(text)]
        cuts = [(start, start) for start in starts[1:]]
    else:
        cuts = [m.span() for m in _ENDS[split].finditer(text)]
    starts = [0, *(after for _, after in cuts)]
    ends = [*(before for before, _ in cuts), len(text)]
    steps = []
    for start, end in zip(starts, ends, strict=True):
        piece = text[start:end].lstrip()
        if piece:
            start = end - len(piece)
            steps.append((start, start + len(piece.rstrip())))
    return steps


@dataclass(frozen=True)
class StepRewards:
    """A plain function called on every step of a response, and one number of them all.

    The function is called as reward(step, answer). A step that it does not score
    leaves the whole response unscored; a response without a step has a total of 0.
    """

    reward: Reward = step_equations
    split: Split = "line"
    total: Literal["mean", "sum", "min", "product", "last"] = "mean"

    @property
    def rewards(self) -> Mapping[str, Reward]:
        return {"steps": self.reward}

    def asked(self, samples: Sequence[Sample]) -> list[Sample]:
        """Every step as a sample of its own, in order; its length is not known."""
        return [
            replace(sample, response=sample.response[a:b], tokens=-1, limit=-1)
            for sample in samples
            for a, b in split_steps(sample.response, self.split)
        ]

    def combine(self, samples: Sequence[Sample], parts: Mapping[str, Grades]) -> Grades:
        known = iter(parts["steps"].values.tolist())
        steps: Steps = []
        totals = []
        for sample in samples:
            spans = split_steps(sample.response, self.split)
            own = [(end, next(known)) for _, end in spans]
            totals.append(_total([value for _, value in own], self.total))
            steps.append(own if math.isfinite(totals[-1]) else [])
        return grades_of(totals, steps=steps)


def _total(values: list[float], total: str) -> float:
    """The mean, sum, minimum, product or last of the values; NaN if one is."""
    if not values:
        return 0.0
    if total == "last":
        return values[-1] if np.isfinite(values).all() else math.nan
    reduce = {"mean": np.mean, "sum": np.sum, "min": np.min, "product": np.prod}[total]
    return float(reduce(values))
