"""Rewards for a right answer: plain functions (response, answer) -> float."""

import math as real
import re
from fractions import Fraction

from unipost.rewards import symbolic
from unipost.rewards.answers import (
    Way,
    boxed,
    find,
    last_number,
    lone_number,
    plain,
    reference,
    tagged,
)
from unipost.rewards.calls import Noted

NO_ANSWER = "no answer"
"""The note of a response in which no answer was found."""
FALLBACK = "last number"
"""The note of a response that was judged by its last number for want of better."""

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_LONGEST = 1000

WAYS: tuple[Way, ...] = ("tag", "boxed", "hashes", "number")


def numeric(response: str, answer: str, tolerance: float = 0.0) -> float:
    """1.0 where the last number r of the response equals that of the answer, a.

    Compared as exact fractions: |r - a| <= tolerance * |a|, so a tolerance of 0 means
    equal. Raises ValueError for an answer without a number.
    """
    _check("numeric", tolerance)
    right, given = last_number(answer), last_number(response)
    if right is None:
        raise ValueError(f"the answer {answer!r} holds no number; use the reward exact")
    return _close(given, right, tolerance)


def exact(response: str, answer: str) -> float:
    """1.0 where response and answer are the same text but for outer white space."""
    return float(response.strip() == answer.strip())


def boxed_answer(response: str, answer: str, tolerance: float = 0.0) -> float:
    """1.0 where the last \\boxed{...} of the response holds the answer.

    An answer that is a number is compared as `numeric` does, and the box must hold
    that number alone, maybe with a unit; another as text without white space and LaTeX
    that only dresses. Of a worked solution the answer is what is boxed or after ####.
    """
    _check("boxed_answer", tolerance)
    return _same(boxed(response), answer, tolerance)


def tagged_answer(response: str, answer: str, tolerance: float = 0.0) -> float:
    """1.0 where the last <answer>...</answer> of the response holds the answer.

    A box or a line after #### inside the tag is what counts of it. Compared as in
    `boxed_answer`. Source: the convention of DeepSeek-R1 (2501.12948).
    """
    _check("tagged_answer", tolerance)
    inside = tagged(response)
    given = None if inside is None else find(inside, ("boxed", "hashes", "text"))
    return _same(given.text if given else None, answer, tolerance)


def math(response: str, answer: str, extract: tuple[Way, ...] = WAYS) -> float:
    """1.0 where the response's answer is mathematically the right one (math-verify).

    Numbers, fractions, roots, expressions, sets, intervals, matrices and equations in
    LaTeX. `extract` lists where the answer may stand, the first that is there counts:
    tag, boxed, hashes, number (the last one, noted), text (all of the response, read
    by math-verify's own rules). Decimals agree to 6 places, 50% is 50 or 0.5, and an
    unevaluated 48/2 is 24. More than 1000 letters, and four times the right answer's,
    are wrong. Raises ValueError for an answer that holds no mathematics.
    It may take for ever: call it with a time limit.
    """
    if not extract:
        raise ValueError("math.extract: empty; write at least one of tag, boxed, ...")
    found = find(response, extract)
    if found is None:
        return Noted(0.0, NO_ANSWER)
    right, whole = reference(answer), found.way == "text"
    value = None if whole else _plainly(found.text, right)
    if value is None:
        value = symbolic.equal(found.text, right, whole)
    return Noted(value, FALLBACK) if found.way == "number" else value


def _plainly(given: str, right: str) -> float | None:
    """The verdict where none of mathematics is needed, which is slow."""
    if _INTEGER.fullmatch(given) and _INTEGER.fullmatch(right):
        return float(int(given) == int(right))
    return 0.0 if len(given) > max(_LONGEST, 4 * len(right)) else None


def _same(given: str | None, answer: str, tolerance: float) -> float:
    """1.0 for the same number, where the answer is one, or else the same text."""
    right = reference(answer)
    if not right:
        raise ValueError("the answer is empty")
    if given is None:
        return Noted(0.0, NO_ANSWER)
    number = lone_number(right)
    if number is None:
        return float(plain(given) == plain(right))
    return _close(lone_number(given), number, tolerance)


def _close(given: Fraction | None, right: Fraction, tolerance: float) -> float:
    if given is None:
        return 0.0
    return float(abs(given - right) <= Fraction(str(tolerance)) * abs(right))


def _check(name: str, tolerance: float) -> None:
    if not (real.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"{name}.tolerance: {tolerance} is not finite and >= 0")
