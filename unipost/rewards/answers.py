"""Answers read out of text."""

import re
from fractions import Fraction

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
