"""Equations between numbers, as they stand in worked solutions."""

import operator
import re
from fractions import Fraction

_RUN = re.compile(
    r"(?:[0-9$(+\-]|\.(?=[0-9]))[0-9+\-*/().,=$%\u00d7\u00f7\u2212\u2013 \t]{0,1000}"
)
_TIMES = re.compile(r"(?<=[0-9%)]) ?[xX] ?(?=[0-9($.])")
_BREAK = re.compile(r"[,.][ \t]")  # 2+2=4, 3+3=6
_ITEM = re.compile(r"^(?:[0-9]+\)|[-+*/])[ \t]+")  # 1) or - before an item of a list
_TOKEN = re.compile(
    r"[ \t]*(?:([0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|([-+*/()%]))"
)
_BINDS = "_^:)}]!*/\u00d7\u00f7\u221a"  # beside a run: it is part of a larger term
_TYPED = str.maketrans(
    {"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "\u2013": "-", "$": " "}
)
_LONGEST = 300  # letters of one side
_ORDER = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "negative": 3}
_OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def step_equations(
    response: str,
    answer: str,
    right: float = 1.0,
    wrong: float = -1.0,
    none: float = 0.0,
) -> float:
    """`right` where all equations in a text hold, `wrong` where one fails, else `none`.

    An equation is arithmetic on both sides of `=`: 16 - 3 * 4 = 4, <<48/2=24>>, $2 * 3
    = $6, 50% * 8 = 4, also in a chain. A decimal is right to its last digit, 10/3 =
    3.33. What has letters or powers in it, or cannot be read, is not looked at.
    """
    verdicts = equations(response)
    if not verdicts:
        return none
    return right if all(verdicts) else wrong


def equations(text: str) -> list[bool]:
    """Whether each equation between numbers in a text holds."""
    found = []
    text = _TIMES.sub("*", text)
    for run in _RUN.finditer(text):
        if "=" in run[0] and not _in_a_term(text, *run.span()):
            for piece in _BREAK.split(run[0]):
                found += _chain(piece)
    return found


def _in_a_term(text: str, start: int, end: int) -> bool:
    """Whether letters or powers belong to it: y + 3 = 8, 2 = 5x, 2^3 = 8."""
    before = text[max(0, start - 9) : start]
    spaced = before.rstrip(" \t")
    if text[start] in "+-" or spaced[-1:] in ("*", "/", "\u00d7", "\u00f7"):
        before = spaced
    after = text[end : end + 1] if text[end - 1].isdigit() else ""
    return any(c.isalpha() or c in _BINDS for c in before[-1:] + after)


def _chain(text: str) -> list[bool]:
    """The verdicts on a = b = c, of which a side that cannot be read is skipped."""
    sides = [
        side.rstrip(" \t,.").lstrip() for side in text.translate(_TYPED).split("=")
    ]
    values = [value_of(side) for side in sides]
    verdicts = []
    for left, right, written in zip(values, values[1:], sides[1:], strict=False):
        if left is None or right is None:
            continue
        digits = re.fullmatch(r"-?[0-9,]*\.([0-9]+)", written)
        slack = Fraction(1, 2 * 10 ** len(digits[1])) if digits else 0
        verdicts.append(abs(left - right) <= slack)
    return verdicts


def value_of(side: str) -> Fraction | None:
    """The value of + - * / ( ) % between numbers, exactly; None where it has none."""
    side = _ITEM.sub("", side)
    if not side or len(side) > _LONGEST:
        return None
    values: list[Fraction] = []
    waiting: list[str] = []
    place, operand = 0, True  # whether an operand is to come
    try:
        while place < len(side):
            token = _TOKEN.match(side, place)
            if token is None:
                return None
            place = token.end()
            operand = _step(token[1] or "", token[2] or "", operand, values, waiting)
        while waiting:
            _apply(values, waiting)
    except (IndexError, KeyError, ZeroDivisionError):  # 1 +, (1, 1 / 0
        return None
    return values[0] if len(values) == 1 and not operand else None


def _step(
    number: str, sign: str, operand: bool, values: list[Fraction], waiting: list[str]
) -> bool:
    """One token of the shunting yard; whether an operand is to come after it.

    Raises KeyError for a token in the wrong place.
    """
    if number or sign == "(":
        if not operand:
            raise KeyError(number or sign)
        if number:
            values.append(Fraction(number.replace(",", "")))
        else:
            waiting.append(sign)
        return not number
    if operand:  # a sign, or a mistake
        if sign in "+-":
            waiting += ["negative"] if sign == "-" else []
            return True
        raise KeyError(sign)
    if sign == "%":
        values[-1] /= 100
        return False
    if sign == ")":
        while waiting[-1] != "(":
            _apply(values, waiting)
        waiting.pop()
        return False
    while waiting and _ORDER[waiting[-1]] >= _ORDER[sign]:
        _apply(values, waiting)
    waiting.append(sign)
    return True


def _apply(values: list[Fraction], waiting: list[str]) -> None:
    """The operator that waits last, on the last values."""
    sign = waiting.pop()
    last = values.pop()
    if sign == "negative":
        values.append(-last)
    else:
        values.append(_OPERATORS[sign](values.pop(), last))
