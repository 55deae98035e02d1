"""Rewards made of others with weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unipost.rewards.grades import Grades, Reward, Steps, grades_of
from unipost.rewards.sample import Sample


@dataclass(frozen=True)
class Weighted:
    """A reward and its weight in a sum; a weight of 0 only reports it."""

    reward: Reward
    weight: float = 1.0

    def __post_init__(self):
        if not math.isfinite(self.weight):
            raise ValueError(f"weight: {self.weight}; write a finite number")


@dataclass(frozen=True)
class WeightedSum:
    """sum_k weight_k r_k of named rewards; the parts are reported without weights.

    A part that fails leaves the total unscored, unless its weight is 0. Where a part
    has steps the sum has them too: each step counts with the part's weight, and a part
    without steps where the last one ends.
    """

    parts: dict[str, Weighted]

    def __post_init__(self):
        if not self.parts:
            raise ValueError("sum.parts: empty; write at least one reward")

    @property
    def rewards(self) -> Mapping[str, Reward]:
        return {name: part.reward for name, part in self.parts.items()}

    def combine(self, samples: Sequence[Sample], parts: Mapping[str, Grades]) -> Grades:
        components = np.stack([parts[name].values for name in self.parts], -1)
        weights = np.array([part.weight for part in self.parts.values()])
        counted = weights != 0
        totals = components[:, counted] @ weights[counted]
        return grades_of(
            totals,
            components=components,
            names=tuple(self.parts),
            steps=self._steps(samples, parts),
        )

    def _steps(
        self, samples: Sequence[Sample], parts: Mapping[str, Grades]
    ) -> Steps | None:
        """Per sample the value at every end of a step: what ends together adds up."""
        counted = {n: w.weight for n, w in self.parts.items() if w.weight}
        if all(parts[name].steps is None for name in counted):
            return None
        merged = []
        for i, sample in enumerate(samples):
            own: dict[int, float] = {}
            # parts without steps last: they count where the last step ends
            for name in sorted(counted, key=lambda name: parts[name].steps is None):
                steps = parts[name].steps
                last = max(own, default=len(sample.response))
                value = float(parts[name].values[i])
                for end, v in [(last, value)] if steps is None else steps[i]:
                    own[end] = own.get(end, 0.0) + counted[name] * v
            merged.append(list(own.items()) if np.isfinite(sum(own.values())) else [])
        return merged
