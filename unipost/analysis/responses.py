"""Responses of a model to the prompts, graded where there is something to grade by."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.analysis.inputs import Texts
from unipost.analysis.settings import Analysis
from unipost.chat import stop_tokens
from unipost.loading import Model
from unipost.processes import gathered
from unipost.rewards import Sample, numeric, open_reward
from unipost.rewards.answers import find, lone_number, plain
from unipost.sampling import Sampling, compiled_sample
from unipost.test_time.votes import coded
from unipost.tokenizer import Tokenizer
from unipost.update import Rows


class Responses:
    """G responses to each of N prompts, of one model or of the file.

    rows     [N G ...] as `compare` reads them, cut to the longest response
    texts    [N * G] responses as text
    finished [N G] whether an end token came
    """

    def __init__(self, texts: Texts, response, mask, finished, asked, tokenizer):
        shape = response.shape[:2]
        longest = max(1, int(mask.sum(-1).max()))
        asking: list[Any] = [
            np.repeat(x[:, None], shape[1], 1) for x in texts.tokens[:2]
        ]
        kept: list[Any] = [x[..., :longest] for x in (response, mask)]
        self.rows = Rows(*asking, *kept, packed=None)
        self.finished: np.ndarray = finished
        self.given: Texts = texts
        self.asked: Analysis = asked
        flat = (x.reshape(-1, longest) for x in kept)
        self.texts = [
            tokenizer.decode(t[m].tolist()) for t, m in zip(*flat, strict=True)
        ]

    @property
    def shape(self) -> tuple[int, int]:
        """N and G."""
        n, g = self.rows.response.shape[:2]
        return n, g

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every response [N G], the end token included."""
        return np.asarray(self.rows.response_mask).sum(-1)

    @property
    def tokens(self) -> list[list[list[int]]]:
        """The ids of every response without its end token, N lists of G."""
        lengths = self.lengths - self.finished
        rows = zip(self.rows.response, lengths, strict=True)
        return [
            [t[:n].tolist() for t, n in zip(tokens, own, strict=True)]
            for tokens, own in rows
        ]

    @cached_property
    def correct(self) -> np.ndarray | None:
        """Which are right [N G]; None where there is no reward and no answer."""
        asked, given = self.asked, self.given
        if asked.reward is None and not given.graded:
            return None
        samples = [self._sample(i, text) for i, text in enumerate(self.texts)]
        with open_reward(asked.reward or numeric, asked.time_limit) as grader:
            values = grader(samples).values
        # what was not scored is not right
        return (np.nan_to_num(values) >= 1.0).reshape(self.shape)

    @cached_property
    def answers(self) -> list[list[str | None]]:
        """The answer of every response, None where none is found."""
        found = [_answer(text, self.asked) for text in self.texts]
        n, g = self.shape
        return [found[i * g : (i + 1) * g] for i in range(n)]

    @property
    def codes(self) -> np.ndarray:
        """The answers as codes [N G] (`unipost.test_time.coded`)."""
        return coded(self.answers)

    def _sample(self, i: int, text: str) -> Sample:
        n, length = i // self.shape[1], int(self.lengths.ravel()[i])
        return Sample(
            response=text,
            answer=self.given.answers[n],
            prompt=self.given.prompts[n],
            tokens=length,
            limit=self.given.budget,
            finished=bool(self.finished.ravel()[i]),
            group=n,
            row=self.given.rows[n],
        )


def draw(
    model: Model, texts: Texts, asked: Analysis, temperature: float, group: int
) -> Responses:
    """`group` responses of a model to every prompt; the same seed for every model."""
    prompts, masks = texts.tokens[:2]
    count = max(1, min(asked.rows // group, len(prompts)))
    sampling = Sampling(texts.budget, jnp.float32(temperature))
    key: Any = jax.random.fold_in(jax.random.key(asked.seed), group)
    parts = []
    for start in range(0, len(prompts), count):
        # the last block is filled up with the first prompts: one program for all
        place = np.arange(start, start + count) % len(prompts)
        found = compiled_sample(
            model.policy,
            model.params,
            prompts[place],
            masks[place],
            jax.random.fold_in(key, start),
            sampling,
            group=group,
            stop_tokens=stop_tokens(model.tokenizer),
            pad_token=model.tokenizer.pad_token,
        )
        found = gathered(found)
        drawn = found.tokens, found.mask, found.finished
        parts.append([np.asarray(x)[: len(prompts) - start] for x in drawn])
    tokens, mask, finished = (np.concatenate(x) for x in zip(*parts, strict=True))
    return Responses(texts, tokens, mask, finished, asked, model.tokenizer)


def given(texts: Texts, asked: Analysis, tokenizer: Tokenizer) -> Responses:
    """The responses of the file, one to a prompt."""
    response, mask = (x[:, None] for x in texts.tokens[2:4])
    whole = np.ones(response.shape[:2], bool)
    return Responses(texts, response, mask, whole, asked, tokenizer)


def _answer(text: str, asked: Analysis) -> str | None:
    found = find(text, asked.answer)
    if found is None:
        return None
    value = lone_number(found.text)
    return plain(found.text) if value is None else str(value)
