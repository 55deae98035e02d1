"""Choosing one of N responses: the best score, the most votes, the heaviest votes.

Answers are whole numbers, equal where the answers are, -1 for none (`coded`); scores
are numbers, NaN for none. A response without an answer is never chosen and votes for
nothing. Of equals the first one drawn is chosen: the lowest index for the best score,
the answer whose first response came first for a vote. Every rule gives the index of a
response, -1 where none can be chosen.

openr's names: min_max and last_max are `best` on the minimum and the last of the step
scores, min_vote and last_vote are `weighted` on them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def coded(answers: Sequence[Sequence[Hashable | None]]) -> np.ndarray:
    """Codes [I, n] of the answers of I items: equal within an item where they are.

    -1 for None. Items with fewer answers are filled up with -1: n responses were
    drawn, and those that are missing gave no answer (the protocol of PRM800K).
    """
    width = max((len(own) for own in answers), default=0)
    codes = np.full((len(answers), width), -1)
    for i, own in enumerate(answers):
        known: dict[Hashable, int] = {}
        for j, answer in enumerate(own):
            if answer is not None:
                codes[i, j] = known.setdefault(answer, len(known))
    return codes


def best(answers: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Best of n: the index [...] of the highest score [..., n] that has an answer."""
    answers, scores = _checked(answers, scores)
    usable = (answers >= 0) & ~np.isnan(scores)
    return _first(np.where(usable, scores, -np.inf), usable)


def majority(answers: ArrayLike) -> np.ndarray:
    """Majority vote: the index [...] of the first response with the commonest answer.

    Self-consistency (2203.11171). `answers` [..., n].
    """
    answers = np.asarray(answers)
    return weighted(answers, np.ones(answers.shape))


def weighted(answers: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Weighted vote: the index [...] of the first response whose answer has the most.

    An answer has the sum of the scores [..., n] of its responses; NaN counts nothing.
    Raises ValueError for scores below 0: a response more would speak against its own
    answer.
    """
    answers, scores = _checked(answers, scores)
    if (scores < 0).any():
        raise ValueError(
            f"weighted vote: a score of {np.nanmin(scores):g} would count against its "
            "answer; write probabilities, such as the sigmoid of a reward model's score"
        )
    usable = (answers >= 0) & ~np.isnan(scores)
    shape, n = answers.shape, answers.shape[-1]
    codes = np.where(usable, answers, 0).reshape(-1, n)
    weights = np.where(usable, scores, 0.0).reshape(-1, n)
    width = int(codes.max(initial=0)) + 1
    places = codes + width * np.arange(len(codes))[:, None]
    totals = np.bincount(places.ravel(), weights.ravel(), len(codes) * width)
    votes = np.where(usable, totals[places].reshape(shape), -np.inf)
    return _first(votes, usable)


def _checked(answers: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    answers, scores = np.asarray(answers), np.asarray(scores, float)
    if answers.shape != scores.shape:
        raise ValueError(f"answers {answers.shape} and scores {scores.shape} differ")
    return answers, scores


def _first(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The first of the highest values along the last axis; -1 where none is usable."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], -1)
    return np.where(usable.any(-1), values.argmax(-1), -1)
