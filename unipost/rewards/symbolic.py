"""Mathematical equality of two answers, by math-verify."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any


def equal(given: str, right: str, whole: bool = False) -> float:
    r"""1.0 where `given` is the same mathematics as `right`, both LaTeX or plain.

    `whole`: given is a text in which math-verify looks for the answer itself.
    Raises ValueError where `right` holds no mathematics.
    """
    parse, verify = _checker()
    truth = parse(rf"\boxed{{{right}}}")
    if not truth:
        raise ValueError(f"the answer {right!r} holds no mathematics; use exact")
    return float(verify(truth, parse(given if whole else rf"\boxed{{{given}}}")))


@functools.cache
def _checker() -> tuple[Callable[[str], list[Any]], Callable[[Any, Any], bool]]:
    """math-verify's parse and verify without their own time limits.

    Those are alarm signals, which fail outside a main thread and leave a C call
    running; the limit of the worker process stands instead.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    for name in ("parser", "grader"):  # each warns once that it has no limit
        logging.getLogger(f"math_verify.{name}").setLevel(logging.ERROR)
    targets = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    return (
        lambda text: parse(text, targets, parsing_timeout=0),
        lambda truth, given: verify(truth, given, timeout_seconds=0),
    )
