"""Rejection sampling: a model's own responses that its reward calls right, as rows.

Source: stage 3 of DeepSeek-R1 (2501.12948); RFT (2308.01825) is the same in one round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from unipost.rewards import Grader, Reward, Sample, numeric, open_reward
from unipost.rollouts import draws
from unipost.rollouts.questions import Questions, open_questions
from unipost.rows import Question
from unipost.sampling import BatchSampler, Completion, Sampler, Sampling
from unipost.sources import OnBadRow, Setting, TooLong
from unipost.wording import Wording

if TYPE_CHECKING:
    from unipost.rollouts.labelling import Labelling

COUNTED = "questions sampled right unscored truncated filtered kept".split()


@dataclass(frozen=True)
class Passing:
    """What a kept response must pass besides: a reward of `least` or more.

    `Passing(language, 0.95)` keeps one language, for example.
    """

    reward: Reward
    least: float = 1.0


@dataclass(frozen=True)
class Rejection:
    """What is sampled of every question of a file, and which responses are kept.

    samples    responses drawn per question, `prompts` questions at a time
    threshold  a response is right from this reward on
    keep       which of a question's right responses: all, or `most` of them: the first
               drawn, the best by reward, the shortest in tokens; of equal texts one
    filters    rewards that a right response has to pass too
    truncated  kept: a response that met its budget may be right too
    limit      only the first so many questions; None: all
    time_limit seconds that a reward may take for a sample (None: no limit)
    """

    path: str
    prompt_length: int
    sampling: Sampling
    reward: Reward = numeric
    samples: int = 8
    prompts: int = 16
    threshold: float = 1.0
    keep: Literal["all", "first", "best", "shortest"] = "first"
    most: int = 1
    filters: tuple[Passing, ...] = ()
    truncated: Literal["refused", "kept"] = "refused"
    limit: int | None = None
    time_limit: float | None = 5.0
    sampler: Sampler = BatchSampler()
    stop: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def __post_init__(self):
        for name in ("samples", "prompts", "most", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; write 1 or more")
        if self.keep == "all" and self.most != 1:
            raise ValueError(f"most: {self.most} beside keep: all; write keep: first")


class Rejected(NamedTuple):
    """Rows of demonstrations to write as JSONL, and numbers to report.

    rows     {prompt, completion, answer, reward}, `prompt` as in the file (text or
             messages, with `tools` where it has them), in the order of the questions
    numbers  counts: questions, sampled, right, unscored, truncated, filtered (right,
             but refused by a filter), kept; covered: share of the questions with a row
    """

    rows: list[dict[str, Any]]
    numbers: dict[str, float]


class _Response(NamedTuple):
    sample: Sample
    reward: float
    passes: bool


def rejection_sample(setting: Setting, rejection: Rejection) -> Rejected:
    """Sample, grade and keep: a function of its arguments and `setting.seed` alone.

    `setting.params` are the model's. Raises DataError for the file, and ValueError in
    one line where no response is kept.
    """
    questions = open_questions(
        rejection.path,
        setting.tokenizer,
        rejection.prompt_length,
        rejection.sampling.max_tokens,
        stop=rejection.stop,
        columns=rejection.columns,
        wording=rejection.wording,
        too_long=rejection.too_long,
        on_bad_row=rejection.on_bad_row,
    )
    rewards = [rejection.reward, *(x.reward for x in rejection.filters)]
    graders = [open_reward(reward, rejection.time_limit) for reward in rewards]
    rows, counts = [], Counter[str]()
    try:
        for samples in sampled(setting, rejection, questions):
            responses = _graded(samples, rejection, graders)
            _count(counts, responses, rejection)
            kept = _kept(responses, rejection)
            counts["kept"] += len(kept)
            counts["covered"] += bool(kept)
            question = questions.rows[samples[0].group]
            rows += [_row(question, x, rejection.columns) for x in kept]
    finally:
        for grader in graders:
            grader.close()
    if not rows:
        raise ValueError(
            f"{rejection.path}: none of {counts['sampled']} responses is kept "
            f"({counts['right']} are right); write a lower threshold or more samples"
        )
    covered = counts["covered"] / counts["questions"]
    numbers = {name: float(counts[name]) for name in COUNTED}
    return Rejected(rows, numbers | {"covered": covered})


def sampled(
    setting: Setting, rejection: Rejection | Labelling, questions: Questions
) -> Iterator[list[Sample]]:
    """The samples of one question after the other, of `prompts` drawn at once."""
    engine = rejection.sampler.open(
        setting.policy, setting.tokenizer, rejection.sampling, rejection.prompt_length
    )
    count = min(questions.size, rejection.limit or questions.size)
    budget, each = rejection.sampling.max_tokens, rejection.samples
    for start in range(0, count, rejection.prompts):
        # batches of one shape: the last is filled up with the last question
        block = np.minimum(start + np.arange(rejection.prompts), count - 1).tolist()
        requests = [
            questions.request(i, range(row * each, (row + 1) * each), budget)
            for row, i in enumerate(block)
        ]
        key = draws.key(setting.seed, draws.REJECTION, start)
        drawn = engine(setting.params, requests, key)
        for i, completions in list(zip(block, drawn, strict=True))[: count - start]:
            yield [_sample(questions, i, x, budget) for x in completions]


def _sample(questions: Questions, i: int, drawn: Completion, budget: int) -> Sample:
    question = questions.rows[i]
    return Sample(
        response=questions.tokenizer.decode(drawn.tokens.tolist()),
        answer=question.answer,
        prompt=questions.text(i),
        tokens=len(drawn.tokens),
        limit=budget,
        finished=drawn.finish == "stop",
        group=i,
        row=question.row,
    )


def _graded(
    samples: list[Sample], rejection: Rejection, graders: Sequence[Grader]
) -> list[_Response]:
    rewards, *others = (grader(samples).values for grader in graders)
    passes = np.ones(len(samples), bool)
    for values, rule in zip(others, rejection.filters, strict=True):
        passes &= np.nan_to_num(values, nan=-np.inf) >= rule.least
    triples = zip(samples, rewards.tolist(), passes.tolist(), strict=True)
    return [_Response(*triple) for triple in triples]


def _right(response: _Response, rejection: Rejection) -> bool:
    ended = response.sample.finished or rejection.truncated == "kept"
    text = response.sample.response.strip()
    return response.reward >= rejection.threshold and ended and bool(text)


def _count(counts: Counter[str], responses: list[_Response], rejection: Rejection):
    right = [x for x in responses if _right(x, rejection)]
    counts["questions"] += 1
    counts["sampled"] += len(responses)
    counts["right"] += len(right)
    counts["unscored"] += sum(np.isnan(x.reward) for x in responses)
    counts["truncated"] += sum(not x.sample.finished for x in responses)
    counts["filtered"] += sum(not x.passes for x in right)


def _kept(responses: list[_Response], rejection: Rejection) -> list[_Response]:
    """The right responses of one question that stay, without equal texts."""
    fits = [x for x in responses if x.passes and _right(x, rejection)]
    if rejection.keep == "best":
        fits.sort(key=lambda x: -x.reward)
    if rejection.keep == "shortest":
        fits.sort(key=lambda x: x.sample.tokens)
    unlike = {x.sample.response: x for x in reversed(fits)}
    fits = [x for x in fits if unlike[x.sample.response] is x]
    return fits if rejection.keep == "all" else fits[: rejection.most]


def _row(
    question: Question, response: _Response, columns: Mapping[str, str]
) -> dict[str, Any]:
    """The row of a demonstration: the prompt as the file has it."""
    asked, tools = (columns.get(x, x) for x in ("prompt", "tools"))
    if asked not in question.row:
        asked = columns.get("question", "question")
    row = {"prompt": question.row[asked], "completion": response.sample.response}
    if question.row.get(tools):
        row["tools"] = question.row[tools]
    return row | {"answer": question.answer, "reward": response.reward}
