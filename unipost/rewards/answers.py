"""Answers read out of text: boxed, tagged, after a marker, or the last number."""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

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

_BRACES = re.compile(r"\\(?:boxed|fbox)[ \t]{0,8}\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed[ \t]{1,8}([^\s{}$\\]+)")
_TAG = re.compile(r"</?answer>")

# what dresses a number in LaTeX without changing it
_DRESS = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|mathbf)\s?\{[^{}]*\}(?:\^\{?[23]\}?)?"
    r"|\^\s?\{?\\circ\}?"
    r"|\\[!,;: %$()\[\]]|\\(?:left|right)(?![A-Za-z])|[$%{}]"
)
_WORDS = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf)\s?\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?<=[0-9])\s+(?!(?:pi|sqrt|or|and|over|by)\b)[A-Za-z]{2}[A-Za-z .]*$"
)
_NAMED = re.compile(r"^\s*[A-Za-z]\w{0,9}\s?=")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s?([0-9])\s?([0-9])")
_LONGEST = 1000  # letters of an answer that can be one number

Way = Literal["tag", "boxed", "hashes", "number", "text"]
"""Where an answer stands in a response.

tag     the last <answer>...</answer>, and what of the other ways is asked for inside it
boxed   the last \\boxed{...}, braces in it included
hashes  the line after the last ####, as GSM8K writes
number  the last number, wherever it stands: a fallback that is reported
text    all of the response
"""


class Found(NamedTuple):
    """An answer and how it was found."""

    text: str
    way: Way


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exactly; None where there is none.

    Reads 72, -7, .5, 1,000, 1.5e3, 3/4, \\frac{3}{4}; $ and % are decoration, so 50%
    is 50. With a `####` marker (GSM8K) only the line after the last one counts.
    """
    after = after_hashes(text)
    text = text if after is None else after
    found = _NUMBER.findall(_unwritten(text))
    return _value(*found[-1]) if found else None


def lone_number(text: str) -> Fraction | None:
    """The number that a short text is, exactly; None where it is anything else.

    A unit in words, a name before `=`, and LaTeX that only dresses are left out:
    `x = 24 \\text{ cm}`, `1{,}000`, `50\\%`. Not `2^{10}`, `1, 2` or `3 or 4`.
    """
    if len(text) > _LONGEST:
        return None
    text = _SHORT_FRACTION.sub(r"\1/\2", _unwritten(text))
    text = _NAMED.sub("", _DRESS.sub("", text)).strip().removesuffix(".")
    found = _NUMBER.fullmatch(_UNIT.sub("", text).strip())
    return _value(*found.groups("")) if found else None


def boxed(text: str) -> str | None:
    """What the last closed \\boxed{...} or \\fbox{...} holds; `\\boxed 5` holds 5.

    Of a box within a box the inner one counts. None where no box is closed.
    """
    opened: list[int] = []  # where the content of a box starts; -1 for a plain brace
    last = None
    for token in _BRACES.finditer(text):  # one pass, however the braces are nested
        if token[0][-1] == "{" and token[0] != r"\{":
            opened.append(token.end() if token[0] != "{" else -1)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start >= 0 and (last is None or start > last[0]):
                last = start, token.start()
    if last is not None:
        return text[slice(*last)].strip()
    bare = _BARE_BOX.findall(text)
    return bare[-1] if bare else None


def after_hashes(text: str) -> str | None:
    """The line after the last `####`; None without one."""
    if "####" not in text:
        return None
    return (text.rsplit("####", 1)[1].strip().splitlines() or [""])[0]


def tagged(text: str) -> str | None:
    """What the last <answer>...</answer> holds; None where the last is not closed."""
    tags = list(_TAG.finditer(text))
    if len(tags) < 2 or tags[-1][0] != "</answer>" or tags[-2][0] != "<answer>":
        return None
    return text[tags[-2].end() : tags[-1].start()].strip()


def find(text: str, ways: tuple[Way, ...]) -> Found | None:
    """The answer by the first of `ways` that finds one; None where none does.

    The last number is given as it is written, and only of the lines that `last_number`
    looks at.
    """
    if "tag" in ways and (inside := tagged(text)) is not None:
        rest: tuple[Way, ...] = tuple(w for w in ways if w in ("boxed", "hashes"))
        within = find(inside, rest)
        return Found(within.text if within else inside, "tag")
    for way in ways:
        given = _by(way, text)
        if given is not None:
            return Found(given, way)
    return None


def _by(way: Way, text: str) -> str | None:
    if way == "boxed":
        return boxed(text)
    if way == "hashes":
        return after_hashes(text)
    if way == "number":
        value = last_number(text)
        return None if value is None else str(value)
    return text if way == "text" else None


def reference(answer: str) -> str:
    """The answer to check against: of a worked solution what is marked, else all."""
    found = find(answer, ("hashes", "boxed"))
    return (found.text if found else answer).strip()


def plain(text: str) -> str:
    """Text without white space and LaTeX that only dresses, to be compared."""
    text = re.sub(r"\\[dt]frac", r"\\frac", text.replace("\u2212", "-"))
    text = _WORDS.sub(r"\1", text)
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])|\\[!,;: ()\[\]]|[$\s]", "", text)
    return text.strip().removesuffix(".")


def _unwritten(text: str) -> str:
    """Minus signs and fractions as they are typed."""
    return _LATEX_FRACTION.sub(r"\1/\2", text.replace("\u2212", "-"))


def _value(outer: str, inner: str, above: str, below: str) -> Fraction | None:
    try:
        value = Fraction(above.replace(",", ""))
        value /= Fraction(below.replace(",", "")) if below else 1
    except (ValueError, ZeroDivisionError):  # thousands of digits; a/0
        return None
    return -value if "-" in (outer, inner) else value
