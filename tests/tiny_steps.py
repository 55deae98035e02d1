"""A reward of steps in a module of its own, which its process imports."""

from dataclasses import dataclass

import numpy as np

from unipost.rewards.grades import Grades


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
