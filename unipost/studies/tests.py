"""Every test of a claim, by the name that a config gives it."""

from __future__ import annotations

from dataclasses import dataclass

from unipost.studies.claims import Test
from unipost.studies.comparisons import (
    Above,
    Below,
    Difference,
    Equivalence,
    Exclusive,
    Order,
    Ratio,
    Recovery,
)
from unipost.studies.relations import Line, Peak, Predictor, Slope


@dataclass(frozen=True)
class AllOf(Test):
    """Several tests that must all hold; one that fails decides."""

    tests: tuple[Test, ...]

    def __post_init__(self):
        if len(self.tests) < 2:
            raise ValueError("tests: write two or more")

    def uses(self):
        return tuple(use for test in self.tests for use in test.uses())

    def check(self, frame):
        for i, test in enumerate(self.tests):
            try:
                test.check(frame)
            except ValueError as error:
                raise ValueError(f"tests.{i}: {error}") from error

    def text(self):
        return f"all of {len(self.tests)}"

    def unit(self, frame):
        return self.tests[0].unit(frame)

    def effects(self, sample):
        return [
            effect._replace(label=effect.label or test.text())
            for test in self.tests
            for effect in test.effects(sample)
        ]


TESTS: dict[str, type[Test]] = {
    "difference": Difference,
    "equivalence": Equivalence,
    "above": Above,
    "below": Below,
    "order": Order,
    "ratio": Ratio,
    "recovery": Recovery,
    "exclusive": Exclusive,
    "slope": Slope,
    "line": Line,
    "predictor": Predictor,
    "peak": Peak,
    "all_of": AllOf,
}
"""Tests by the names that a config gives them."""
