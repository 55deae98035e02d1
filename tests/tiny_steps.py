"""A reward of steps in a module of its own, which its process imports."""

from dataclasses import dataclass

import numpy as np

from unipost.rewards.grades import Grades, grades_of
from unipost.rewards.learned import split_at


@dataclass(frozen=True)
class Pieces:
    """A step at every + of the response, 1 for the first and 0 for the others."""

    def score(self, samples):
        """The number of steps, and each of them."""
        steps = []
        for sample in samples:
            ends = [i + 1 for i, c in enumerate(sample.response) if c == "+"]
            steps.append([(end, float(k == 0)) for k, end in enumerate(ends)])
        values = np.array([float(len(own)) for own in steps])
        none = np.zeros((len(samples), 0))
        return Grades(values, none, (), 0, [], {}, steps)


@dataclass(frozen=True)
class EvenSteps:
    """Steps between + signs: 1 for one that starts with an even digit, else 0."""

    def score(self, samples):
        """Whether all steps are even, and each of them."""
        steps = []
        for sample in samples:
            spans = split_at(sample.response, "+")
            found = [(b, sample.response[a] in "02468") for a, b in spans]
            steps.append([(end, float(even)) for end, even in found])
        values = [float(all(v for _, v in own)) for own in steps]
        return grades_of(values, steps=steps)
