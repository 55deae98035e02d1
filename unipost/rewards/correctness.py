"""Rewards for a right answer: plain functions (response, answer) -> float."""

import math
from fractions import Fraction

from unipost.rewards.answers import last_number


def numeric(response: str, answer: str, tolerance: float = 0.0) -> float:
    """1.0 where the last number r of the response equals that of the answer, a.

    Compared as exact fractions: |r - a| <= tolerance * |a|, so a tolerance of 0 means
    equal. Raises ValueError for an answer without a number.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"numeric.tolerance: {tolerance} is not finite and >= 0")
    right, given = last_number(answer), last_number(response)
    if right is None:
        raise ValueError(f"the answer {answer!r} holds no number; use the reward exact")
    if given is None:
        return 0.0
    return float(abs(given - right) <= Fraction(str(tolerance)) * abs(right))


def exact(response: str, answer: str) -> float:
    """1.0 where response and answer are the same text but for outer white space."""
    return float(response.strip() == answer.strip())
