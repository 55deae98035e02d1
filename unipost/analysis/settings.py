"""What `unipost analyze` draws, measures and shows: settings, all of them optional."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from unipost.classical import ReverseKL
from unipost.divergence import Divergence
from unipost.model import Compute
from unipost.rewards import Reward
from unipost.rewards.answers import Way
from unipost.sources import OnBadRow, TooLong
from unipost.wording import Wording

BUDGET = 256
"""Response tokens where none are asked for and the model has room."""


@dataclass(frozen=True)
class Analysis:
    """How two models are compared on the prompts of a file.

    kind       of the rows: questions (graded), demonstrations, prompts; None: by the
               columns of the file
    prompt_length, response_length  in tokens; None: the longest prompt, and 256 or what
               the models' positions leave
    limit      only the first so many rows; None: all
    samples    responses per prompt and model at temperature 1, besides the greedy one
    rows       responses that go through a model at once
    reward     what is right (from 1 on); None: numeric where there are answers
    answer     where an answer is looked for, for votes and distinct answers
    divergence, beta  the implicit reward beta f'(p/q) of a token
    separator  the text that ends a step of a response
    shown      prompts whose responses are on the page
    wording    how a question becomes a prompt; None: it is one
    """

    kind: Literal["questions", "demonstrations", "prompts"] | None = None
    prompt_length: int | None = None
    response_length: int | None = None
    limit: int | None = 256
    samples: int = 4
    rows: int = 256
    reward: Reward | None = None
    answer: tuple[Way, ...] = ("tag", "boxed", "hashes", "number")
    time_limit: float | None = 5.0
    divergence: Divergence = ReverseKL()
    beta: float = 1.0
    separator: str = "\n"
    shown: int = 12
    seed: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"
    compute: Compute = Compute()

    def __post_init__(self):
        names = "prompt_length", "response_length", "limit", "samples", "rows", "shown"
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; write 1 or more")
        if self.time_limit is not None and not 0 < self.time_limit < math.inf:
            raise ValueError(f"time_limit: {self.time_limit}; write seconds > 0")
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta: {self.beta}; write a number > 0")
        if not self.separator:
            raise ValueError("separator: empty; write the text that ends a step")
        if not self.answer:
            raise ValueError("answer: nowhere to look for one; write [number]")
