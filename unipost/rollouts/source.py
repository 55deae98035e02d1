"""Experience sampled from a policy: graded rollouts, and pairs made of mistakes.

SOURCES, at the end, lists every source under its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from unipost.batch import Batch
from unipost.chat import stop_tokens
from unipost.data import Tokens, batch_indices, encode_rows, read_rows
from unipost.model import Params
from unipost.rewards import Reward, numeric, score_texts
from unipost.rows import Demonstration, Question, demonstration
from unipost.sampling import (
    BatchSampler,
    Engine,
    Request,
    Sampler,
    Sampling,
    as_samples,
)
from unipost.sources import (
    EMPTY,
    Demonstrations,
    Experience,
    Fixed,
    LabelledRows,
    Memory,
    Mixture,
    OnBadRow,
    Preferences,
    Setting,
    Source,
    Stream,
    TooLong,
    Varies,
    pair_rewards,
)
from unipost.tokenizer import Tokenizer
from unipost.update import Rows


def _key(seed: int, purpose: int, step: int) -> jax.Array:
    # purposes keep the draws of one step apart: 1 responses, 3 shuffled rewards
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    return jax.random.fold_in(key, step)


def texts(tokenizer: Tokenizer, tokens, mask) -> list[str]:
    """Responses [N, T] as text, without special tokens."""
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    return [tokenizer.decode(t[m].tolist()) for t, m in zip(tokens, mask, strict=True)]


@dataclass(frozen=True)
class Rollouts(Source):
    """Responses sampled from the current policy and graded: groups of `group`.

    The last `demonstrations` (0 or 1) rows of a group are the file's own
    demonstration, flagged `off_policy` and graded by the same reward (LUFFY).
    `rewards: shuffled` permutes the rewards over the whole batch: a control that must
    not learn. The behaviour stream is that of the exact sampling distribution.
    """

    path: str
    prompts: int
    prompt_length: int
    group: int
    sampling: Sampling
    reward: Reward = numeric
    demonstrations: int = 0
    rewards: Literal["graded", "shuffled"] = "graded"
    sampler: Sampler = BatchSampler()
    stop: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def __post_init__(self):
        if self.demonstrations not in (0, 1):
            raise ValueError(f"demonstrations: {self.demonstrations}; write 0 or 1")
        if self.group <= self.demonstrations:
            raise ValueError(
                f"group: {self.group} leaves no row to sample beside "
                f"{self.demonstrations} demonstrations"
            )

    @property
    def gives(self) -> str:
        return "rewards+demonstrations" if self.demonstrations else "rewards"

    @property
    def varies(self) -> Varies:
        return "step"

    @property
    def fields(self) -> frozenset[str]:
        # a server that is not asked for log-probs says nothing of its distribution
        silent = getattr(self.sampler, "logprobs", None) == "none"
        return super().fields - ({"behavior"} if silent else set())

    def open(self, setting: Setting) -> Stream:
        questions = read_rows(
            self.path, "questions", self.columns, self.on_bad_row, setting.tokenizer
        ).rows
        # a worked solution is read, and has to fit, only where it is a row of the group
        rows: list[Demonstration | Question] = list(questions)
        if self.demonstrations:
            rows = [demonstration(q) for q in questions]
        tokens = encode_rows(
            setting.tokenizer,
            rows,
            self.prompt_length,
            self.sampling.max_tokens,
            self.too_long,
            budget="sampling.max_tokens",
        )
        check_stop(setting.tokenizer, self.stop)
        answers = [questions[i].answer for i in tokens.index]
        engine = self.sampler.open(
            setting.policy, setting.tokenizer, self.sampling, self.prompt_length
        )
        return _Rolled(self, setting, tokens, answers, engine)


def check_stop(tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    """Raises ValueError for a stop string that decoded text cannot hold."""
    for text in stop:
        if not tokenizer.decode(tokenizer.encode(text)):
            raise ValueError(
                f"data.stop: {text!r} is a special token, which decoded text leaves "
                "out; leave it out: end tokens end a response by themselves"
            )


@dataclass(frozen=True)
class _Rolled:
    source: Rollouts
    setting: Setting
    tokens: Tokens
    answers: list[str]
    engine: Engine

    @property
    def size(self) -> int:
        return len(self.answers)

    def batch(self, step: int, params: Params, memory: Memory = EMPTY) -> Experience:
        source, setting = self.source, self.setting
        index = batch_indices(setting.seed, step, source.prompts, self.size)
        own = source.group - source.demonstrations
        samples = self._sample(index, params, step)
        rows, behavior, off = self._rows(index, samples)
        rewards, metrics = self._grade(rows, index, step)
        numbers = {
            "reward": float(np.nanmean(rewards[:, :own])) if rewards.size else 0.0,
            "response_length": float(np.asarray(samples.mask).sum(-1).mean()),
            "finished": float(np.asarray(samples.finished).mean()),
        }
        batch = Batch(
            mask=rows.response_mask,
            rewards=jnp.asarray(rewards),
            behavior=behavior if "behavior" in source.fields else None,
            off_policy=off,
        )
        return Experience(rows, batch, numbers | metrics)

    def _sample(self, index, params: Params, step: int):
        """`group` minus `demonstrations` responses per prompt, row p * G + g as id."""
        source, tokenizer = self.source, self.setting.tokenizer
        own, ends = source.group - source.demonstrations, stop_tokens(tokenizer)
        requests = [
            Request(
                tuple(self.tokens.prompt[i][self.tokens.prompt_mask[i]].tolist()),
                tuple(range(row * own, (row + 1) * own)),
                source.sampling.max_tokens,
                ends,
                source.stop,
            )
            for row, i in enumerate(index)
        ]
        drawn = self.engine(params, requests, _key(self.setting.seed, 1, step))
        return as_samples(drawn, source.sampling.max_tokens, tokenizer.pad_token)

    def _rows(self, index, samples):
        """The union group: sampled rows first, then the demonstration, if any."""
        own = samples.tokens.shape[1]
        demonstrations = self.source.demonstrations
        group = self.source.group

        def repeated(x):
            return jnp.asarray(np.repeat(x[index][:, None], group, 1))

        response, mask, behavior = samples.tokens, samples.mask, samples.logps
        if demonstrations:
            response = jnp.concatenate([response, self.tokens[2][index][:, None]], 1)
            mask = jnp.concatenate([mask, self.tokens[3][index][:, None]], 1)
            # probability 1: the demonstrator's own log-probs are not known
            behavior = jnp.concatenate([behavior, jnp.zeros_like(behavior[:, :1])], 1)
        off = jnp.broadcast_to(jnp.arange(group) >= own, mask.shape[:2])
        prompt, prompt_mask = map(repeated, self.tokens[:2])
        return Rows(prompt, prompt_mask, response, mask), behavior, off

    def _grade(self, rows: Rows, index, step):
        count, group, length = rows.response.shape
        flat = (x.reshape(-1, length) for x in (rows.response, rows.response_mask))
        answers = [self.answers[i] for i in index for _ in range(group)]
        graded = score_texts(
            self.source.reward, texts(self.setting.tokenizer, *flat), answers
        )
        rewards = graded.values.reshape(count, group).astype(np.float32)
        if self.source.rewards == "shuffled":
            order = jax.random.permutation(
                _key(self.setting.seed, 3, step), rewards.size
            )
            rewards = rewards.reshape(-1)[np.asarray(order)].reshape(count, group)
        return rewards, {"unscored": float(graded.unscored)}


@dataclass(frozen=True)
class SampledPreferences(Source):
    """Pairs made once from the first policy's own samples: demonstration over mistake.

    For every question whose `group` samples hold a response that the reward scores
    below the demonstration's, the first such response is rejected and the
    demonstration chosen. Questions without a mistake give no pair.
    """

    path: str
    prompts: int
    prompt_length: int
    group: int
    sampling: Sampling
    reward: Reward = numeric
    limit: int | None = None
    sampler: Sampler = BatchSampler()
    stop: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def __post_init__(self):
        for name, value in (("group", self.group), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; write 1 or more")

    @property
    def gives(self) -> str:
        return "preferences"

    @property
    def varies(self) -> Varies:
        return "seed"

    def open(self, setting: Setting) -> Stream:
        inner = Rollouts(
            self.path,
            self.prompts,
            self.prompt_length,
            self.group + 1,
            self.sampling,
            self.reward,
            demonstrations=1,
            sampler=self.sampler,
            stop=self.stop,
            columns=self.columns,
            too_long=self.too_long,
            on_bad_row=self.on_bad_row,
        ).open(setting)
        pairs: list[list[np.ndarray]] = [[], [], [], []]
        wanted = inner.size if self.limit is None else min(self.limit, inner.size)
        for step in range(-(-wanted // self.prompts)):
            rows, batch = inner.batch(step, setting.params)[:2]
            rewards = np.asarray(batch.rewards)
            worse = rewards[:, :-1] < rewards[:, -1:]
            # the last batch may reach into the next epoch, or beyond the limit
            worse[wanted - step * self.prompts :] = False
            where = np.flatnonzero(worse.any(1))
            first = worse.argmax(1)[where]
            for kept, x in zip(pairs, rows[:4], strict=True):
                x = np.asarray(x)
                kept.append(np.stack([x[where, -1], x[where, first]], 1))
        stacked = [np.concatenate(x).reshape(-1, x[0].shape[-1]) for x in pairs]
        if not len(stacked[0]):
            raise ValueError(
                f"{self.path}: no sampled response is worse than its "
                "demonstration, so there is no pair to learn from"
            )
        tokens = Tokens(*stacked, index=np.arange(len(stacked[0])) // 2, dropped=[])
        labels = pair_rewards(len(tokens.index))
        return Fixed(tokens, self.prompts, 2, setting.seed, labels)


SOURCES: dict[str, type[Source]] = {
    "mixture": Mixture,
    "demonstrations": Demonstrations,
    "preferences": Preferences,
    "labelled": LabelledRows,
    "rollouts": Rollouts,
    "sampled_preferences": SampledPreferences,
}
