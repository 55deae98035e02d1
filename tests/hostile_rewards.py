"""Rewards that a run has to survive, importable by the process that grades."""

import os
import time


def hostile(response: str, answer: str) -> float:
    """By the response's first character: raises, hangs, NaN, inf, huge, dies, or 1."""
    kind = ord(response[0]) % 8 if response else 7
    if kind == 0:
        raise ValueError("no")
    if kind == 1:
        time.sleep(600)
    if kind == 2:
        return float("nan")
    if kind == 3:
        return -float("inf")
    if kind == 4:
        return 1e300
    if kind == 5:
        os._exit(3)
    return float(len(response) + kind)


def never(response: str, answer: str) -> float:
    """Nothing is ever scored."""
    raise RuntimeError("never")
