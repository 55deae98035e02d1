"""Verifiable rewards: plain functions (response, answer) -> float.

A response that holds no number scores 0. A reward that raises or is not finite leaves
its sample unscored (NaN), which training and evaluation count and leave out.
"""

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

Reward = Callable[[str, str], float]

# An exponent of at most three digits: Fraction("1e999999999") would never return.
_MAGNITUDE = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+",
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?",
)
_UNSIGNED = f"(?:{_MAGNITUDE[0]}){_MAGNITUDE[1]}"
# A sign counts where no operand stands before it: 5-3 ends in 3, x = -3 in -3.
_SIGN = r"(?:(?<![\w.)%])[-+])?"
_NUMBER = re.compile(rf"({_SIGN})\$?({_SIGN})({_UNSIGNED})(?:\s?/\s?\$?({_UNSIGNED}))?")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exactly; None where there is none.

    Reads 72, -7, .5, 1,000, 1.5e3, 3/4, \\frac{3}{4}; $ and % are decoration, so 50%
    is 50. With a `####` marker (GSM8K) only the line after the last one counts.
    """
    if "####" in text:
        text = (text.rsplit("####", 1)[1].strip().splitlines() or [""])[0]
    text = _LATEX_FRACTION.sub(r"\1/\2", text.replace("\u2212", "-"))
    found = _NUMBER.findall(text)
    if not found:
        return None
    outer, inner, above, below = found[-1]
    try:
        value = Fraction(above.replace(",", ""))
        value /= Fraction(below.replace(",", "")) if below else 1
    except (ValueError, ZeroDivisionError):  # thousands of digits; a/0
        return None
    return -value if "-" in (outer, inner) else value


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


REWARDS: dict[str, Reward] = {"numeric": numeric, "exact": exact}


class Scores(NamedTuple):
    """Rewards [N], NaN where unscored; how many are, and why the first one is."""

    values: np.ndarray
    unscored: int
    reason: str


def score_texts(
    reward: Reward, responses: Sequence[str], answers: Sequence[str]
) -> Scores:
    """Score N responses against N answers; a failing reward marks its sample only."""
    values = np.full(len(responses), np.nan)
    reasons = []
    for i, (response, answer) in enumerate(zip(responses, answers, strict=True)):
        try:
            value = float(reward(response, answer))
        except Exception as error:  # the reward is the user's code: any error may come
            reasons.append(f"sample {i}: {type(error).__name__}: {error}")
            continue
        if math.isfinite(value):
            values[i] = value
        else:
            reasons.append(f"sample {i}: the reward is {value}")
    return Scores(values, len(reasons), reasons[0] if reasons else "")
