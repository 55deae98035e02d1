"""Claims: what is said of the arms of a study, with the test that decides it.

A claim is in the study's file before anything runs. Its test gives one or more effects,
each a number with its replicates and the bounds between which the claim puts it:

    supported       the interval lies within the bounds
    not supported   it lies wholly outside
    inconclusive    anything else

Accuracies are in percent, their differences in points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from unipost.studies.frame import At, Frame
from unipost.studies.sample import Sample


class Effect(NamedTuple):
    """A number between bounds: draws [1 + B], the estimate first; lower < x < upper.

    label  what it is, where a claim has several
    """

    draws: np.ndarray
    lower: float = -math.inf
    upper: float = math.inf
    label: str = ""


@dataclass(frozen=True)
class Test:
    """What decides a claim. A part: subclasses have a name in a config."""

    __test__ = False

    def uses(self) -> tuple[tuple[Sequence[str], Sequence[str], At], ...]:
        """(arms, quantities, when) that it reads."""
        raise NotImplementedError

    def effects(self, sample: Sample) -> list[Effect]:
        """The numbers that all have to lie within their bounds."""
        raise NotImplementedError

    def text(self) -> str:
        """The effect in words: what is measured of which arms, and when."""
        raise NotImplementedError

    def unit(self, frame: Frame) -> str:
        """The unit of the effect: points, %, or nothing."""
        return frame.quantity(self.uses()[0][1][0]).unit

    def paired(self, sample: Sample) -> float | None:
        """p of a paired test beside the interval; None where the test has none."""
        return None

    def check(self, frame: Frame) -> None:
        """Raises ValueError for a name that the study does not have."""
        for arms, quantities, at in self.uses():
            for arm in arms:
                frame.members(arm)
            for what in quantities:
                frame.quantity(what)
                frame.check_at(at, what)


@dataclass(frozen=True)
class Claim:
    """One sentence about the arms, who said it, and the test that decides it.

    says       the claim, so that it can fail
    paper      arXiv id of its source; "" for our own
    item       the figure or table
    published  what was found there, as text; "" where no number is known
    status     confirmatory: its interval is corrected for the number of such claims in
               the file (Holm); exploratory: it is not, and says so
    """

    says: str
    test: Test
    paper: str = ""
    item: str = ""
    published: str = ""
    status: Literal["confirmatory", "exploratory"] = "confirmatory"


def when(at: At) -> str:
    """`, at matched accuracy`, `, step 20`, or nothing for the last step."""
    if isinstance(at, int):
        return f", step {at}"
    return ", at matched accuracy" if at == "matched" else ""


def difference_unit(unit: str) -> str:
    """The unit of a difference of two numbers."""
    return "points" if unit == "%" else unit


def bounds(above: float | None, below: float | None) -> tuple[float, float]:
    """(lower, upper) of one threshold. Raises ValueError for none and for two."""
    if (above is None) == (below is None):
        raise ValueError("above, below: no threshold or two; write one of them")
    return (-math.inf if above is None else above, math.inf if below is None else below)


def quotient(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom; NaN where the divisor is 0."""
    return np.where(bottom == 0, np.nan, top / np.where(bottom == 0, 1.0, bottom))
