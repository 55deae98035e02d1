"""Rewards of groups: texts to samples, grades to arrays, steps to tokens."""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from unipost.rewards import Grader, Sample
from unipost.rewards.grading import shared
from unipost.rollouts import draws
from unipost.rollouts.drawn import Drawn, Texts
from unipost.rollouts.questions import Questions


class Graded(NamedTuple):
    """Groups with their rewards, names of the parts, and how often what was noted."""

    drawn: Drawn
    names: tuple[str, ...]
    notes: dict[str, int]


def graded(
    grader: Grader,
    questions: Questions,
    index: np.ndarray,
    texts: Texts,
    names: tuple[str, ...],
    process: bool,
) -> Graded:
    """The groups of n prompts with the reward of every row that is there.

    `names` are the parts that a composed reward is to have; with `process` the rewards
    of steps are placed on tokens too. Raises ValueError where the reward gives others
    or no steps.
    """
    where = np.argwhere(texts.present)
    length = texts.mask.shape[-1]
    samples = [_sample(questions, index, texts, group, row) for group, row in where]
    grades = shared(grader, samples, len(index))
    if grades.unscored == len(samples) > 0 and grades.reasons:
        warnings.warn(f"reward: no sample is scored; {grades.reasons[0]}", stacklevel=2)
    if names and grades.names != names and grades.unscored < len(samples):
        raise ValueError(
            f"reward: its parts are {', '.join(grades.names) or 'none'}, expected "
            f"{', '.join(names)}"
        )
    if process and grades.steps is None and grades.unscored < len(samples):
        raise ValueError(
            "reward: it gives no steps; write data.supervision: outcome, or a reward "
            "of steps"
        )
    shape = texts.finished.shape
    rewards = np.full(shape, np.nan)
    components = np.full((*shape, len(names)), np.nan)
    steps = np.full((*shape, length if process else 0), np.nan)
    rewards[tuple(where.T)] = grades.values
    if names and grades.names == names:
        components[tuple(where.T)] = grades.components
    if process and grades.steps is not None:
        for (group, row), sample, own in zip(where, samples, grades.steps, strict=True):
            tokens = texts.tokens[group, row][texts.mask[group, row]].tolist()
            for place, value in on_tokens(questions, tokens, sample.response, own):
                steps[group, row, place] = value
    return Graded(Drawn(index, texts, rewards, components, steps), names, grades.notes)


def _sample(questions: Questions, index, texts: Texts, group: int, row: int) -> Sample:
    question = questions.rows[index[group]]
    tokens = texts.tokens[group, row][texts.mask[group, row]].tolist()
    return Sample(
        response=questions.tokenizer.decode(tokens),
        answer=question.answer,
        prompt=questions.text(index[group]),
        tokens=len(tokens),
        limit=texts.mask.shape[-1],
        finished=bool(texts.finished[group, row]),
        group=int(group),
        row=question.row,
    )


def on_tokens(
    questions: Questions,
    tokens: Sequence[int],
    response: str,
    steps: Sequence[tuple[int, float]],
) -> list[tuple[int, float]]:
    """Steps (end in the text, value) as (index of the token that ends it, value).

    That is the first token whose prefix decodes to as much text, the last token where
    none does; of steps that end in one token the last stands.
    """
    counts = range(1, len(tokens) + 1)

    def reach(count: int) -> int:
        return len(questions.tokenizer.decode(tokens[:count]))

    placed = {}
    for end, value in steps:
        place = bisect.bisect_left(counts, min(end, len(response)), key=reach)
        placed[min(place, len(tokens) - 1)] = value
    return list(placed.items())


def shuffled(drawn: Drawn, seed: int, purpose: int, *numbers: int) -> Drawn:
    """`drawn` with its rewards permuted over the rows of all groups: a control.

    A row's parts go with its reward; the rewards of steps are permuted among
    themselves.
    """
    key = draws.key(seed, purpose, *numbers)
    there = drawn.texts.present
    order = np.asarray(jax.random.permutation(key, int(there.sum())))
    rewards, components = drawn.rewards.copy(), drawn.components.copy()
    rewards[there] = drawn.rewards[there][order]
    components[there] = drawn.components[there][order]
    steps, ends = drawn.steps.copy(), np.isfinite(drawn.steps)
    key = jax.random.fold_in(key, 1)
    order = np.asarray(jax.random.permutation(key, int(ends.sum())))
    steps[ends] = drawn.steps[ends][order]
    return drawn._replace(rewards=rewards, components=components, steps=steps)
