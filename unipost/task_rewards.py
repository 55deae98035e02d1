"""Rewards of the responses to an evaluation's task."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from unipost.rewards import Sample, score_samples
from unipost.rollouts.questions import Questions
from unipost.tokenizer import Tokenizer

if TYPE_CHECKING:
    from unipost.evaluation import OpenTask


def rewards_of(opened: OpenTask, tokenizer: Tokenizer, tokens, mask) -> np.ndarray:
    """Rewards [N] of responses [N, T] to a task, an item's consecutive, 0 if unscored.

    A reward reads what it reads in training: the prompt, the length in tokens, whether
    the response ended by itself, the row of the file; an item's responses are a group.
    Warns of responses that it does not score. Raises ValueError, naming file and
    reason, where it scores none: that is no accuracy of 0.
    """
    task = opened.task
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    draws = len(tokens) // len(opened.questions)
    asked = Questions(task.path, tokenizer, opened.tokens, opened.questions)
    prompts = [asked.text(i) for i in range(asked.size)]
    samples = []
    for i, (row, kept) in enumerate(zip(tokens, mask, strict=True)):
        question, own = opened.questions[i // draws], row[kept].tolist()
        samples.append(
            Sample(
                response=tokenizer.decode(own),
                answer=question.answer,
                prompt=prompts[i // draws],
                tokens=len(own),
                limit=task.response_length,
                finished=bool(own) and own[-1] in asked.ends,
                group=i // draws,
                row=question.row,
            )
        )
    scores = score_samples(task.reward, samples, len(prompts), task.time_limit)
    if scores.unscored == len(samples) > 0:
        raise ValueError(f"{task.path}: the reward scores no response; {scores.reason}")
    if scores.unscored:
        told = f"{scores.unscored} of {len(samples)} responses are unscored and count"
        warnings.warn(f"{task.path}: {told} as 0; {scores.reason}", stacklevel=2)
    return np.nan_to_num(scores.values)
