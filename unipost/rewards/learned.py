"""Rewards that a model gives: of a response, and of every step of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from unipost.rewards.grades import Grades, Steps, grades_of
from unipost.rewards.sample import Sample

if TYPE_CHECKING:
    from unipost.scalar.loading import ScalarModel

Aggregate = Literal["product", "min", "last", "mean"]
Text = tuple[list[int], list[int]]
"""Token ids, and the places at which scores are read."""


@dataclass(frozen=True)
class RewardModel:
    """The score of a reward model after prompt, response and the end token.

    path   folder of a sequence classification with one label, and its tokenizer: what
           training with bradley_terry writes, or any such checkpoint of transformers
    rows   texts computed at once
    dtype  of the products

    Prompt and response are tokenised apart, as rows of preferences are. Where the
    checkpoint's pad token is its end token, none is added, since transformers does not
    look at it. A text longer than the model's positions leaves its sample unscored.
    """

    path: str
    rows: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        _check_rows("reward_model", self.rows)

    def open(self) -> OpenRewardModel:
        """Loads the model. Raises ValueError for one with other labels."""
        model = _loaded(self.path, self.dtype, 1, "reward_model")
        return OpenRewardModel(model, _reader(model, self.rows))

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
    rows       texts computed at once
    dtype      of the products

    Steps that are blank are left out; a response without a step scores 0. The steps
    are rewards for a signal with supervision: process.
    """

    path: str
    aggregate: Aggregate = "product"
    separator: str = "\n"
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
        model = _loaded(self.path, self.dtype, 2, "process_reward_model")
        return OpenProcessRewardModel(self, model, _reader(model, self.rows))

    def score(self, samples: Sequence[Sample]) -> Grades:
        """Scores of a model that is loaded for this call alone; see `open`."""
        return self.open().score(samples)


Reader = Callable[[Sequence[Text]], list[np.ndarray | None]]


@dataclass(frozen=True)
class OpenRewardModel:
    """A reward model in memory."""

    model: ScalarModel
    read: Reader

    def score(self, samples: Sequence[Sample]) -> Grades:
        """One score per sample, NaN with a reason where the text does not fit."""
        tokenizer = self.model.tokenizer
        padded = (self.model.generation or {}).get("pad_token_id")
        end = [] if padded == tokenizer.eos_token else [tokenizer.eos_token]
        texts: list[Text] = []
        for sample in samples:
            ids = _prompt(tokenizer, sample) + tokenizer.encode(sample.response)
            ids += [] if ids[-1:] == end else end
            texts.append((ids, [len(ids) - 1]))
        found = self.read(texts)
        values = [math.nan if x is None else float(x[0, 0]) for x in found]
        return grades_of(values, reasons=_too_long(found))


@dataclass(frozen=True)
class OpenProcessRewardModel:
    """A process reward model in memory."""

    settings: ProcessRewardModel
    model: ScalarModel
    read: Reader

    def score(self, samples: Sequence[Sample]) -> Grades:
        """The aggregate of every sample, and its steps with their ends in the text."""
        from unipost.scalar.steps import step_tokens

        tokenizer, separator = self.model.tokenizer, self.settings.separator
        texts, spans = [], []
        for sample in samples:
            own = split_at(sample.response, separator)
            steps = [sample.response[a:b] for a, b in own]
            ids, ends = step_tokens(tokenizer, steps, separator)
            before = _prompt(tokenizer, sample)
            texts.append((before + ids, [len(before) + end for end in ends]))
            spans.append(own)
        found = self.read(texts)
        values: list[float] = []
        steps: Steps = []
        for scores, own in zip(found, spans, strict=True):
            right = _right(scores) if scores is not None else []
            values.append(math.nan if scores is None else self._total(right))
            ends = [end for _, end in own] if scores is not None else []
            steps.append(list(zip(ends, right, strict=True)))
        return grades_of(values, reasons=_too_long(found), steps=steps)

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
    gap = scores[:, 0] - scores[:, 1]
    return [float(x) for x in 1.0 / (1.0 + np.exp(gap.astype(np.float64)))]


def _prompt(tokenizer, sample: Sample) -> list[int]:
    """Ids of a prompt, with the tokens that start a text."""
    start = list(getattr(tokenizer, "start_tokens", ()))
    ids = list(tokenizer.encode(sample.prompt)) if sample.prompt else []
    return ids if ids[: len(start)] == start else [*start, *ids]


def _too_long(found: Sequence[np.ndarray | None]) -> list[str]:
    return [
        f"sample {i}: the text is longer than the reward model's positions"
        for i, x in enumerate(found)
        if x is None
    ]


def _check_rows(where: str, rows: int) -> None:
    if rows < 1:
        raise ValueError(f"{where}.rows: {rows}; write 1 or more")


def _loaded(path: str, dtype: Literal["float32", "bfloat16"], labels: int, name: str):
    # these load jax, which the rest of the package does without
    from unipost.model import Compute
    from unipost.scalar.loading import read_scalar

    model = read_scalar(path, Compute(dtype=dtype))
    if model.labels != labels:
        raise ValueError(
            f"{name}.path: the head of {path} has {model.labels} labels; write a model "
            f"with {labels}"
        )
    return model


def _reader(model: ScalarModel, rows: int) -> Reader:
    """Scores [places, labels] of each text, None for one that is too long.

    Texts of like lengths are computed together, in rows of a power of two: few shapes
    occur, so few programs are compiled.
    """
    import jax

    config = model.config
    assert config is not None
    limit = config.max_position_embeddings
    logits = jax.jit(partial(model.policy.logits))

    def read(texts: Sequence[Text]) -> list[np.ndarray | None]:
        found: list[np.ndarray | None] = [None] * len(texts)
        fit = [i for i, (ids, _) in enumerate(texts) if 0 < len(ids) <= limit]
        fit.sort(key=lambda i: len(texts[i][0]))
        for first in range(0, len(fit), rows):
            some = fit[first : first + rows]
            longest = len(texts[some[-1]][0])
            width = min(limit, max(16, 1 << (longest - 1).bit_length()))
            tokens = np.zeros((rows, width), np.int32)
            mask = np.zeros((rows, width), bool)
            for row, i in enumerate(some):
                ids = texts[i][0]
                tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
            scores = np.asarray(logits(model.params, tokens, mask))
            for row, i in enumerate(some):
                found[i] = scores[row, texts[i][1]]
        return found

    return read
