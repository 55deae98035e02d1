"""Rejection sampling: a model's own responses that its reward calls right, as rows.

Source: the third stage of DeepSeek-R1 (2501.12948); STaR and RFT (2308.01825) are the
same with one model and one round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from unipost.rewards import Reward, numeric
from unipost.sampling import BatchSampler, Sampler, Sampling
from unipost.sources import OnBadRow, Setting, TooLong

Keep = Literal["all", "best", "first", "shortest"]
Filter = Callable[[str, str], bool]


@dataclass(frozen=True)
class Rejection:
    """What is sampled of every question of a file, and which responses are kept.

    samples    responses drawn per question, `prompts` questions at a time
    threshold  a response is right from this reward on
    keep       the order among the right ones of a question: all (as drawn), first (the
               same, one of each text), best (highest reward first), shortest (fewest
               tokens first)
    most       at most so many per question
    filters    functions (prompt, response) -> bool that a kept response passes
    truncated  whether a response that met its budget may be kept
    limit      only the first so many questions; None: all
    """

    path: str
    prompt_length: int
    sampling: Sampling
    reward: Reward = numeric
    samples: int = 8
    prompts: int = 16
    threshold: float = 1.0
    keep: Keep = "all"
    most: int = 1
    filters: tuple[Filter, ...] = ()
    truncated: Literal["refused", "kept"] = "refused"
    limit: int | None = None
    time_limit: float = 5.0
    sampler: Sampler = BatchSampler()
    stop: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"


class Rejected(NamedTuple):
    """Rows of demonstrations to write as JSONL, and numbers to report.

    rows     {prompt, completion, answer, reward}, `prompt` as in the file (text or
             messages), in the order of the questions
    numbers  questions, sampled, right, kept, covered (share of questions with a row),
             unscored, truncated, and filtered
    """

    rows: list[dict[str, Any]]
    numbers: dict[str, float]


def rejection_sample(setting: Setting, rejection: Rejection) -> Rejected:
    """Sample, grade and keep: a pure function of its arguments and `setting.seed`.

    `setting.params` are the model's. Raises DataError for the file, ValueError where
    nothing is kept (one line).
    """
    raise NotImplementedError
