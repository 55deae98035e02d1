"""Rewards, style detectors and exact answers of the tasks of `arith-transfer`.

A chain is worked from left to right, every digit on its own and modulo 10: `M7*3+5=` is
1, then 6; `N374+258=` is 522; `U123=` adds its digits. Ways of writing it:

    cot      1,6               every running value
    direct   w6                the answer alone
    verbose  #7*3>1;1+5>6!6    every step in full, then the answer
    dotted   ?1.6              the running values in marks that the base has never seen

The rewards are pure functions (response, answer) -> 1.0 or 0.0, exact in integers.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unipost.rewards.grades import Grades, grades_of
from unipost.rewards.sample import Sample

OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
_STYLES = {
    "cot": re.compile(r"[0-9]+(?:,[0-9]+)+"),
    "direct": re.compile(r"w[0-9]+"),
    "dotted": re.compile(r"\?[0-9]+(?:\.[0-9]+)+"),
    "verbose": re.compile(r"#[0-9]+[-+*][0-9]+>[0-9]+(?:;[^;!]+)*![0-9]+"),
}
_EXPRESSION = re.compile(r"([1-9])([-+*])([1-9])")


def step(left: str, sign: str, right: str) -> str:
    """`left` sign `right`, digit by digit modulo 10: no carries."""
    pairs = zip(left, right, strict=True)
    return "".join(str(OPERATORS[sign](int(a), int(b)) % 10) for a, b in pairs)


def steps(prompt: str) -> list[tuple[str, str, str, str]]:
    """The steps (left, sign, right, value) of a chain's prompt, from left to right."""
    body = prompt[1:].rstrip("=")
    if prompt[0] == "U":
        body = "+".join(body)
    first, *rest = re.findall(r"[0-9]+|[-+*]", body)
    worked, value = [], first
    for sign, right in zip(rest[::2], rest[1::2], strict=True):
        after = step(value, sign, right)
        worked.append((value, sign, right, after))
        value = after
    return worked


def written(worked: list[tuple[str, str, str, str]], style: str) -> str:
    """The steps of a chain in one of the styles cot, direct, verbose, dotted."""
    last = worked[-1][-1]
    if style == "cot":
        return ",".join(value for *_, value in worked)
    if style == "dotted":
        return "?" + ".".join(value for *_, value in worked)
    if style == "direct":
        return "w" + last
    return "#" + ";".join(f"{a}{s}{b}>{c}" for a, s, b, c in worked) + "!" + last


def style_of(response: str) -> str | None:
    """The style of a chain's response by its name, or None for what is no chain."""
    found = (name for name, form in _STYLES.items() if form.fullmatch(response))
    return next(found, None)


def cot(response: str, answer: str) -> float:
    """1.0 for a response that lists running values, right or wrong."""
    return float(style_of(response) == "cot")


def direct(response: str, answer: str) -> float:
    """1.0 for a response that is the answer alone, right or wrong."""
    return float(style_of(response) == "direct")


def verbose(response: str, answer: str) -> float:
    """1.0 for a response with every step in full, right or wrong."""
    return float(style_of(response) == "verbose")


def chain(response: str, answer: str) -> float:
    """1.0 for a response in one of the styles that ends in the answer."""
    if style_of(response) is None:
        return 0.0
    return float(re.split("[,w!.?]", response)[-1] == answer)


def wrong_chain(response: str, answer: str) -> float:
    """1.0 for a response in one of the styles that ends in another answer."""
    return float(style_of(response) is not None) - chain(response, answer)


def free(response: str, answer: str) -> float:
    """1.0 for the answer behind any number of the filler z."""
    return float(response.lstrip("z") == answer)


def countdown(response: str, answer: str) -> float:
    """1.0 for a+b, a-b or a*b of two of the listed digits that makes the target.

    `answer` is the problem, DIGITS,TARGET; a digit may be used as often as it stands
    there, so that many responses are right. Source: countdown of the R1 replications.
    """
    digits, target = answer.split(",")
    found = _EXPRESSION.fullmatch(response)
    if found is None or Counter(found[1] + found[3]) - Counter(digits):
        return 0.0
    return float(OPERATORS[found[2]](int(found[1]), int(found[3])) == int(target))


def solutions(answer: str) -> list[str]:
    """All right responses of a countdown DIGITS,TARGET, sorted, each once."""
    digits, target = answer.split(",")
    found = {
        f"{a}{sign}{b}"
        for i, a in enumerate(digits)
        for j, b in enumerate(digits)
        for sign, value in OPERATORS.items()
        if i != j and value(int(a), int(b)) == int(target)
    }
    return sorted(found)


@dataclass(frozen=True)
class RunningValues:
    """A reward of chains in running values: 1 for the answer, and 1 for a right step.

    Step i is right where it follows from the value before it as written. Of a response
    with another number of values than the chain has steps the answer is wrong, and so
    is every value too many.
    """

    def score(self, samples: Sequence[Sample]) -> Grades:
        """The outcome and the steps of every response."""
        judged = [judged_values(x.prompt, x.response) for x in samples]
        totals = [
            float(len(own) == len(steps(x.prompt)) and final == x.answer)
            for x, (own, final) in zip(samples, judged, strict=True)
        ]
        return grades_of(totals, steps=[own for own, _ in judged])


def judged_values(prompt: str, response: str) -> tuple[list[tuple[int, float]], str]:
    """((end, 1.0 or 0.0) of every written value, the last one written)."""
    found, end = [], 0
    asked = [(sign, right) for _, sign, right, _ in steps(prompt)]
    before = steps(prompt)[0][0]
    for i, value in enumerate(response.split(",")):
        end += len(value)
        if value.strip():
            follows = i < len(asked) and _follows(before, *asked[i], value)
            found.append((end, float(follows)))
        before, end = value, end + 1
    return found, before


def _follows(before: str, sign: str, right: str, value: str) -> bool:
    """Whether `value` is before sign right, of as many digits."""
    digits = len(before) == len(right) and before.isdecimal()
    return digits and step(before, sign, right) == value
