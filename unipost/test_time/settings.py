"""What is sampled, what is right, and by which scores a response is chosen."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from unipost.rewards import Reward, numeric
from unipost.rewards.answers import Way
from unipost.sampling import BatchSampler, Sampler, Sampling
from unipost.sources import OnBadRow, TooLong
from unipost.wording import Wording

WAYS: tuple[Way, ...] = ("tag", "boxed", "hashes", "number")
StepRule = Literal["product", "min", "last", "mean"]


@dataclass(frozen=True)
class Graded:
    """The score of a reward: learned, or computed from the text.

    steps   how the rewards of a response's steps become one score; None: the reward
            itself (an outcome reward)
    weight  what a vote counts: the score, its sigmoid (a reward model's score is a
            log-odds), or none: no weighted vote by it
    """

    reward: Reward
    steps: StepRule | None = None
    weight: Literal["score", "sigmoid", "none"] = "score"


@dataclass(frozen=True)
class Likelihood:
    """The model's own probability of the response, as it was drawn.

    per  response: exp(sum log p); token: exp(mean log p), the geometric mean
    """

    per: Literal["response", "token"] = "token"


Score = Graded | Likelihood
SCORES: dict[str, type[Score]] = {"graded": Graded, "likelihood": Likelihood}
"""Scores by the names that a config gives them."""


@dataclass(frozen=True)
class BestOf:
    """Responses per question, and how one of them is chosen.

    reward   says what is right: a response from 1 on
    samples  n, the responses drawn per question
    sizes    the N at which accuracy is told; None: the powers of two below n, and n
    scores   what best of N and the weighted vote go by, besides the majority
    answer   where an answer is looked for, in this order; equal numbers and equal
             texts are one answer
    pattern  a regular expression in place of `answer`: its last match is the answer,
             of it the first group if there is one
    trials   random subsets per N
    prompts  questions sampled at once
    limit    only the first so many questions; None: all
    wording  how a question becomes a prompt; None: it is one
    """

    path: str
    prompt_length: int
    sampling: Sampling
    reward: Reward = numeric
    samples: int = 64
    sizes: tuple[int, ...] | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    answer: tuple[Way, ...] = WAYS
    pattern: str | None = None
    trials: int = 400
    prompts: int = 16
    limit: int | None = None
    seed: int = 0
    time_limit: float | None = 5.0
    sampler: Sampler = BatchSampler()
    stop: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def __post_init__(self):
        for name in ("samples", "trials", "prompts", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; write 1 or more")
        if self.time_limit is not None and not 0 < self.time_limit < math.inf:
            raise ValueError(f"time_limit: {self.time_limit}; write seconds > 0")
        if self.sampling.temperature == 0 and self.samples > 1:
            raise ValueError(
                "sampling.temperature: 0, so that all responses are one; write 1.0"
            )
        for size in self.sizes or ():
            if not 1 <= size <= self.samples:
                raise ValueError(f"sizes: {size}; write 1 to {self.samples} (samples)")
        if not self.answer:
            raise ValueError("answer: nowhere to look for one; write [number]")
        if self.pattern is not None:
            _check_pattern(self.pattern, self.answer)
        silent = getattr(self.sampler, "logprobs", None) == "none"
        if silent and Likelihood in map(type, self.scores.values()):
            raise ValueError("scores: likelihood, but the sampler tells no log-probs")

    @property
    def voting(self) -> tuple[str, ...]:
        """The scores that are weights of a vote too."""
        silent = [getattr(x, "weight", "score") == "none" for x in self.scores.values()]
        pairs = zip(self.scores, silent, strict=True)
        return tuple(name for name, left_out in pairs if not left_out)

    @property
    def points(self) -> tuple[int, ...]:
        """The N at which accuracy is told."""
        if self.sizes is not None:
            return self.sizes
        powers = [2**i for i in range(self.samples.bit_length())]
        return tuple(dict.fromkeys([*(p for p in powers), self.samples]))


def _check_pattern(pattern: str, ways: tuple[Way, ...]) -> None:
    if ways != WAYS:
        raise ValueError("answer: beside pattern nothing reads it; leave one out")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern: {pattern!r} is none ({error})") from error
