"""One score of a response from the scores of its steps, as process rewards give them.

| rule | score | source |
|---|---|---|
| product | prod_j p_j: the probability that every step is right | 2305.20050, App. F |
| min | min_j p_j: that of its worst step | 2305.20050; openr |
| last | p_J: that of the last step | openr `last` |
| mean | (1/J) sum_j p_j | |

The product favours short responses, the mean forgives one wrong step among many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

Neutral = Literal["right", "wrong"]


def step_probability(ratings: Mapping[str, float], neutral: Neutral = "right") -> float:
    """P(a step is right) from the probabilities of PRM800K's labels "1", "0", "-1".

    P(1) + P(0) where a neutral step counts as right (the paper's choice), else P(1).
    """
    return ratings["1"] + (ratings["0"] if neutral == "right" else 0.0)


def _mean(steps: Sequence[float]) -> float:
    return math.fsum(steps) / len(steps)


STEP_RULES: dict[str, Callable[[Sequence[float]], float]] = {
    "product": math.prod,
    "min": min,
    "last": lambda steps: steps[-1],
    "mean": _mean,
}
"""How the scores of steps become one; none looks at an empty list."""


def step_scores(steps: Sequence[Sequence[float]], rule: str) -> np.ndarray:
    """Scores [N] of N responses from those of their steps; NaN where there is none.

    `rule` is a key of STEP_RULES. A response without steps was not scored: it is
    never the best and has no vote of its own.
    """
    reduce = STEP_RULES[rule]
    return np.array([reduce(own) if len(own) else math.nan for own in steps], float)
