"""One call of a reward function, whatever it does. The worker process runs this too,
so that nothing but the standard library is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

BOUND = 1e6
"""A reward beyond +-BOUND is a mistake: its sample is unscored."""

NOT_A_NUMBER = "the reward is nan"
_LONGEST = 300  # letters of a reason


class Noted(float):
    """A reward with a note of how it came about: a run counts the notes.

    A plain function may return one: Noted(1.0, "last number").
    """

    note: str

    def __new__(cls, value: float, note: str) -> Noted:
        made = super().__new__(cls, value)
        made.note = note
        return made


class Verdict(NamedTuple):
    """A reward, NaN where there is none; the note; why there is none."""

    value: float
    note: str
    problem: str


def call(
    function: Callable[..., Any], response: str, answer: str, arguments: dict[str, Any]
) -> Verdict:
    """The verdict of function(response, answer, **arguments). It never raises."""
    try:
        given = function(response, answer, **arguments)
        value, problem = number(given)
        return Verdict(value, str(getattr(given, "note", "")), problem)
    except (Exception, SystemExit) as error:  # a user's code: any error may come
        return failed(reason(error))


def failed(problem: str) -> Verdict:
    """The verdict of a call that gave no reward."""
    return Verdict(math.nan, "", problem)


def number(given: Any) -> tuple[float, str]:
    """(the float, "") of a number, or (NaN, why it is none that counts).

    A bool and a scalar of numpy or jax are numbers; text, None and arrays are not.
    """
    try:
        if isinstance(given, str | bytes) or getattr(given, "ndim", 0):
            raise TypeError
        value = float(given)
    except (TypeError, ValueError, OverflowError):
        shown = one_line(repr(given))
        return math.nan, f"the reward is {shown}, not a number"
    if math.isnan(value):
        return math.nan, NOT_A_NUMBER
    if math.isinf(value):
        return math.nan, f"the reward is {value}"
    if abs(value) > BOUND:
        return math.nan, f"the reward is {value:g}, beyond {BOUND:g}"
    return value, ""


def reason(error: BaseException) -> str:
    """An error in one line."""
    try:
        return one_line(f"{type(error).__name__}: {error}").removesuffix(":")
    except Exception:  # an error that cannot even be written as text
        return type(error).__name__


def one_line(text: str) -> str:
    """Text without line ends, cut where it is long."""
    line = " ".join(text[: 4 * _LONGEST].split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
