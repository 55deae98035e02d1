"""What a reward is shown of one response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One response and what belongs to it.

    response  the text that is graded
    answer    the file's reference answer, as text
    prompt    the text that was answered
    tokens    length of the response in tokens (-1: not known)
    limit     how many tokens it might have had (-1: not known)
    finished  whether it ended by itself, before its limit
    group     samples of one prompt have the same number
    row       the other columns of the file
    """

    response: str
    answer: str = ""
    prompt: str = ""
    tokens: int = -1
    limit: int = -1
    finished: bool = True
    group: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)


def length_of(sample: Sample, reward: str) -> int:
    """Its length in tokens. Raises ValueError, naming the reward, if not known."""
    if sample.tokens < 0:
        raise ValueError(f"{reward}: the length in tokens is not known here")
    return sample.tokens


def limit_of(sample: Sample, given: int | None, reward: str) -> int:
    """`given`, or where that is None the sample's own limit in tokens."""
    if given is not None:
        return given
    if sample.limit < 0:
        raise ValueError(f"{reward}: the limit is not known here; write max_length")
    return sample.limit
