"""Rewards that a model gives: of a response, and of every step of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unipost.rewards.grades import Grades, Steps, grades_of
from unipost.rewards.sample import Sample

if TYPE_CHECKING:  # these load jax, which rewards of text do without
    from unipost.scalar.loading import ScalarModel
    from unipost.scalar.reading import Reader, Text

Aggregate = Literal["product", "min", "last", "mean"]
Template = Literal["none", "chat"]


@dataclass(frozen=True)
class RewardModel:
    """The score of a reward model after prompt, response and the end token.

    path   folder of a sequence classification with one label, and its tokenizer: what
           training with bradley_terry writes, or any such checkpoint of transformers
    rows   texts computed at once
    dtype  of the products

    template  none: prompt and response are tokenised apart and joined, as rows of text
              are in training; chat: the tokenizer's chat template makes a conversation
              of them, of the row's own messages where its prompt is a list

    It is read where transformers reads it, at the last token that is not the pad token
    of config.json. A text longer than the model's positions leaves its sample unscored.
    """

    path: str
    template: Template = "none"
    rows: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        _check_rows("reward_model", self.rows)

    def open(self) -> OpenRewardModel:
        """Loads the model. Raises ValueError for one with other labels."""
        from unipost.scalar.reading import opened, pad_of, reader

        model = opened(self.path, self.dtype, 1, "reward_model")
        chat = _chat("reward_model", self.template, model)
        return OpenRewardModel(model, reader(model, self.rows), chat, pad_of(self.path))

    def score(self, samples: Sequence[Sample]) -> Grades:
        """Scores of a model that is loaded for this call alone; see `open`."""
        return self.open().score(samples)


@dataclass(frozen=True)
class ProcessRewardModel:
    """P(right) of every step of a response, and one number of them all.

    path       folder of a token classification with the labels wrong and right, and
               its tokenizer: what training with process_reward writes (TRL's layout)
    aggregate  product of the steps' probabilities (2305.20050), their min, last, mean
    separator  what ends a step in the response, and is read after each in training
    template   of the prompt, as for reward_model
    rows       texts computed at once
    dtype      of the products

    Steps that are blank are left out; a response without a step scores 0. The steps
    are rewards for a signal with supervision: process.
    """

    path: str
    aggregate: Aggregate = "product"
    separator: str = "\n"
    template: Template = "none"
    rows: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        _check_rows("process_reward_model", self.rows)
        if not self.separator:
            raise ValueError(
                "process_reward_model.separator: empty; write what ends a step"
            )

    def open(self) -> OpenProcessRewardModel:
        """Loads the model. Raises ValueError for one with other labels."""
        from unipost.scalar.reading import opened, reader

        model = opened(self.path, self.dtype, 2, "process_reward_model")
        chat = _chat("process_reward_model", self.template, model)
        return OpenProcessRewardModel(self, model, reader(model, self.rows), chat)

    def score(self, samples: Sequence[Sample]) -> Grades:
        """Scores of a model that is loaded for this call alone; see `open`."""
        return self.open().score(samples)


@dataclass(frozen=True)
class OpenRewardModel:
    """A reward model in memory."""

    model: ScalarModel
    read: Reader
    chat: Any = None
    pad: int | None = None

    def score(self, samples: Sequence[Sample]) -> Grades:
        """One score per sample, NaN with a reason where the text does not fit."""
        texts, problems = _texts(self._text, samples)
        found = self.read(texts)
        values = [math.nan if x is None else float(x[0, 0]) for x in found]
        return grades_of(values, reasons=_reasons(found, problems))

    def _text(self, sample: Sample) -> Text:
        """The whole text without the pad tokens at its end, read at its last token."""
        ids = self._ids(sample)
        while len(ids) > 1 and ids[-1] == self.pad:
            ids.pop()
        return ids, [len(ids) - 1]

    def _ids(self, sample: Sample) -> list[int]:
        """The whole text, with its end."""
        if self.chat is not None:
            said = {"role": "assistant", "content": sample.response}
            prompt, (answer,) = self.chat.answers(_turns(sample), [said])
            return [*prompt.ids, *answer.ids]
        tokenizer = self.model.tokenizer
        ids = _prompt(tokenizer, sample) + list(tokenizer.encode(sample.response))
        return ids if ids[-1:] == [tokenizer.eos_token] else [*ids, tokenizer.eos_token]


@dataclass(frozen=True)
class OpenProcessRewardModel:
    """A process reward model in memory."""

    settings: ProcessRewardModel
    model: ScalarModel
    read: Reader
    chat: Any = None

    def score(self, samples: Sequence[Sample]) -> Grades:
        """The aggregate of every sample, and its steps with their ends in the text."""
        texts, problems = _texts(self._text, samples)
        found = self.read(texts)
        values: list[float] = []
        steps: Steps = []
        for sample, scores in zip(samples, found, strict=True):
            right = [] if scores is None else _right(scores)
            values.append(math.nan if scores is None else self._total(right))
            spans = split_at(sample.response, self.settings.separator)
            ends = [] if scores is None else [end for _, end in spans]
            steps.append(list(zip(ends, right, strict=True)))
        return grades_of(values, reasons=_reasons(found, problems), steps=steps)

    def _text(self, sample: Sample) -> Text:
        """Prompt and steps, read at the last token of the separator after each step."""
        from unipost.scalar.steps import step_tokens

        tokenizer, separator = self.model.tokenizer, self.settings.separator
        if self.chat is None:
            before = _prompt(tokenizer, sample)
        else:
            before = [*self.chat.prompt(_turns(sample)).ids]
        spans = split_at(sample.response, separator)
        pieces = [sample.response[a:b] for a, b in spans]
        ids, ends = step_tokens(tokenizer, pieces, separator)
        return before + ids, [len(before) + end for end in ends]

    def _total(self, right: list[float]) -> float:
        """One number of the steps' probabilities, 0 without a step."""
        if not right:
            return 0.0
        match self.settings.aggregate:
            case "product":
                return math.prod(right)
            case "min":
                return min(right)
            case "last":
                return right[-1]
        return sum(right) / len(right)


def split_at(text: str, separator: str) -> list[tuple[int, int]]:
    """(start, end) of the steps between separators that are not blank."""
    spans, start = [], 0
    for piece in text.split(separator):
        spans.append((start, start + len(piece)))
        start += len(piece) + len(separator)
    return [(a, b) for a, b in spans if text[a:b].strip()]


def _right(scores: np.ndarray) -> list[float]:
    """P(right) of scores [steps, (wrong, right)]."""
    gap = (scores[:, 0] - scores[:, 1]).astype(np.float64)
    return np.exp(-np.logaddexp(0.0, gap)).tolist()


def _prompt(tokenizer, sample: Sample) -> list[int]:
    """Ids of a prompt, with the tokens that start a text."""
    start = list(getattr(tokenizer, "start_tokens", ()))
    ids = list(tokenizer.encode(sample.prompt)) if sample.prompt else []
    return ids if ids[: len(start)] == start else [*start, *ids]


def _turns(sample: Sample) -> list[dict[str, Any]]:
    """The conversation that the response answers."""
    for name in ("prompt", "question"):
        value = sample.row.get(name)
        if isinstance(value, list):
            return value
    return [{"role": "user", "content": sample.prompt}]


def _chat(where: str, template: Template, model: ScalarModel) -> Any:
    """The tokenizer's chat template where it is asked for."""
    if template == "none":
        return None
    from unipost.chat import PlainChat, chat_of

    chat = chat_of(model.tokenizer)
    if isinstance(chat, PlainChat):
        raise ValueError(
            f"{where}.template: chat, but the tokenizer has no chat template; write "
            "template: none"
        )
    return chat


def _texts(
    make: Callable[[Sample], Text], samples: Sequence[Sample]
) -> tuple[list[Text], dict[int, str]]:
    """The text of every sample, empty where it cannot be encoded, and why not."""
    texts, problems = [], {}
    for i, sample in enumerate(samples):
        try:
            texts.append(make(sample))
        except (ValueError, KeyError) as error:
            texts.append(([], []))
            problems[i] = f"the reward model cannot read the text: {error}"
    return texts, problems


def _reasons(
    found: Sequence[np.ndarray | None], problems: Mapping[int, str]
) -> list[str]:
    long = "the text is longer than the reward model's positions"
    return [
        f"sample {i}: {problems.get(i, long)}" for i, x in enumerate(found) if x is None
    ]


def _check_rows(where: str, rows: int) -> None:
    if rows < 1:
        raise ValueError(f"{where}.rows: {rows}; write 1 or more")
