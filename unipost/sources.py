"""Sources of experience: where a step's rows and signals come from.

A source is configuration; `open` reads its file and gives a `Stream`, whose `batch`
is a pure function of (parameters, step): a resumed run needs no other state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from unipost.batch import Batch
from unipost.data import Tokens, batch_indices, encode_rows, read_rows
from unipost.model import Params, Policy
from unipost.rewards import Reward, numeric, score_texts
from unipost.rows import Demonstration
from unipost.sampling import Sampling, sample
from unipost.tokenizer import Tokenizer
from unipost.update import Rows

TooLong = Literal["raise", "drop", "truncate"]
OnBadRow = Literal["raise", "skip"]


class Experience(NamedTuple):
    """One logical batch: rows [P, G, ...], their data, and numbers to report."""

    rows: Rows
    batch: Batch
    metrics: dict[str, float]


@dataclass(frozen=True)
class Setting:
    """What a source needs of its run: the policy, its first parameters, the seed."""

    policy: Policy
    params: Params
    tokenizer: Tokenizer
    seed: int


class Stream(Protocol):
    """An opened source."""

    @property
    def size(self) -> int:
        """The number of groups that it draws from; an epoch is as many."""
        ...

    def batch(self, step: int, params: Params) -> Experience:
        """The experience of 0-based `step`, given the current parameters."""
        ...


class Source(ABC):
    """Configuration of a source: `path` is the file it reads, `prompts` its batch."""

    path: str
    prompts: int

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that it reads."""
        return (self.path,)

    @abstractmethod
    def open(self, setting: Setting) -> Stream:
        """Read and tokenise the file. Raises DataError naming file, line, reason."""


def _key(seed: int, purpose: int, step: int) -> jax.Array:
    # purposes keep the draws of one step apart: 1 responses, 3 shuffled rewards
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    return jax.random.fold_in(key, step)


def _rows(tokens: Tokens, index: np.ndarray, group: int) -> Rows:
    """Lines `index` [P] of groups of `group` consecutive lines as rows [P, G, ...]."""
    lines = index[:, None] * group + np.arange(group)
    return Rows(*(jnp.asarray(x[lines]) for x in tokens[:4]))


@dataclass(frozen=True)
class _Fixed:
    """A stream over rows that do not depend on the parameters."""

    tokens: Tokens
    prompts: int
    group: int
    seed: int

    @property
    def size(self) -> int:
        return len(self.tokens.prompt) // self.group

    def batch(self, step: int, params: Params) -> Experience:
        index = batch_indices(self.seed, step, self.prompts, self.size)
        rows = _rows(self.tokens, index, self.group)
        return Experience(rows, Batch(mask=rows.response_mask), {})


@dataclass(frozen=True)
class Demonstrations(Source):
    """Prompts with responses to imitate: groups of one.

    prompts is the batch; prompt_length and response_length are in tokens, the end
    token included. `columns` renames the file's columns, {completion: text}.
    """

    path: str
    prompts: int
    prompt_length: int
    response_length: int
    columns: dict[str, str] = field(default_factory=dict)
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def open(self, setting: Setting) -> Stream:
        rows = read_rows(
            self.path,
            "demonstrations",
            self.columns,
            self.on_bad_row,
            setting.tokenizer,
        ).rows
        tokens = encode_rows(
            setting.tokenizer,
            rows,
            self.prompt_length,
            self.response_length,
            self.too_long,
        )
        return _Fixed(tokens, self.prompts, 1, setting.seed)


@dataclass(frozen=True)
class Preferences(Source):
    """Prompts with a chosen and a rejected response: groups of two, chosen first."""

    path: str
    prompts: int
    prompt_length: int
    response_length: int
    columns: dict[str, str] = field(default_factory=dict)
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def open(self, setting: Setting) -> Stream:
        rows = read_rows(
            self.path, "preferences", self.columns, self.on_bad_row, setting.tokenizer
        ).rows
        tokens = encode_rows(
            setting.tokenizer,
            rows,
            self.prompt_length,
            self.response_length,
            self.too_long,
        )
        return _Fixed(tokens, self.prompts, 2, setting.seed)


@partial(jax.jit, static_argnums=(0, 6, 7, 8))
def draw(policy, params, prompt, prompt_mask, key, sampling, group, stop, pad):
    """`sample` compiled; `sampling` is a pytree whose temperature may change."""
    return sample(
        policy,
        params,
        prompt,
        prompt_mask,
        key,
        sampling,
        group=group,
        stop_tokens=(stop,),
        pad_token=pad,
    )


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

    def open(self, setting: Setting) -> Stream:
        questions = read_rows(
            self.path, "questions", self.columns, self.on_bad_row, setting.tokenizer
        ).rows
        rows = [
            Demonstration(q.prompt, q.demonstration or q.answer, q.place)
            for q in questions
        ]
        tokens = encode_rows(
            setting.tokenizer,
            rows,
            self.prompt_length,
            self.sampling.max_tokens,
            self.too_long,
        )
        answers = [questions[i].answer for i in tokens.index]
        return _Rolled(self, setting, tokens, answers)


@dataclass(frozen=True)
class _Rolled:
    source: Rollouts
    setting: Setting
    tokens: Tokens
    answers: list[str]

    @property
    def size(self) -> int:
        return len(self.answers)

    def batch(self, step: int, params: Params) -> Experience:
        source, setting = self.source, self.setting
        index = batch_indices(setting.seed, step, source.prompts, self.size)
        own = source.group - source.demonstrations
        samples = draw(
            setting.policy,
            params,
            self.tokens.prompt[index],
            self.tokens.prompt_mask[index],
            _key(setting.seed, 1, step),
            source.sampling,
            own,
            setting.tokenizer.eos_token,
            setting.tokenizer.pad_token,
        )
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
            behavior=behavior,
            off_policy=off,
        )
        return Experience(rows, batch, numbers | metrics)

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
    columns: dict[str, str] = field(default_factory=dict)
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def __post_init__(self):
        for name, value in (("group", self.group), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; write 1 or more")

    def open(self, setting: Setting) -> Stream:
        inner = Rollouts(
            self.path,
            self.prompts,
            self.prompt_length,
            self.group + 1,
            self.sampling,
            self.reward,
            demonstrations=1,
            columns=self.columns,
            too_long=self.too_long,
            on_bad_row=self.on_bad_row,
        ).open(setting)
        pairs: list[list[np.ndarray]] = [[], [], [], []]
        wanted = inner.size if self.limit is None else min(self.limit, inner.size)
        for step in range(-(-wanted // self.prompts)):
            rows, batch, _ = inner.batch(step, setting.params)
            rewards = np.asarray(batch.rewards)
            worse = rewards[:, :-1] < rewards[:, -1:]
            # the last batch may reach into the next epoch, or beyond the limit
            worse[wanted - step * self.prompts :] = False
            where = np.flatnonzero(worse.any(1))
            first = worse.argmax(1)[where]
            for kept, x in zip(pairs, rows, strict=True):
                x = np.asarray(x)
                kept.append(np.stack([x[where, -1], x[where, first]], 1))
        stacked = [np.concatenate(x).reshape(-1, x[0].shape[-1]) for x in pairs]
        if not len(stacked[0]):
            raise ValueError(
                f"{self.path}: no sampled response is worse than its "
                "demonstration, so there is no pair to learn from"
            )
        tokens = Tokens(*stacked, index=np.arange(len(stacked[0])) // 2, dropped=[])
        return _Fixed(tokens, self.prompts, 2, setting.seed)


@dataclass(frozen=True)
class Mixture(Source):
    """Several sources side by side: every batch holds `prompts` of each, in order.

    The parts must agree in group and lengths, which the first batch shows.
    """

    parts: tuple[Source, ...]

    def __post_init__(self):
        if not self.parts:
            raise ValueError("parts: empty; write at least one source")

    @property
    def path(self) -> str:
        return self.paths[0]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p for part in self.parts for p in part.paths))

    @property
    def prompts(self) -> int:
        return sum(part.prompts for part in self.parts)

    def open(self, setting: Setting) -> Stream:
        return _Mixed(tuple(part.open(setting) for part in self.parts))


@dataclass(frozen=True)
class _Mixed:
    streams: tuple[Stream, ...]

    @property
    def size(self) -> int:
        return sum(stream.size for stream in self.streams)

    def batch(self, step: int, params: Params) -> Experience:
        drawn = [stream.batch(step, params) for stream in self.streams]
        try:
            rows, batch = jax.tree.map(
                lambda *x: jnp.concatenate(x), *((e.rows, e.batch) for e in drawn)
            )
        except (TypeError, ValueError) as error:
            shapes = [tuple(e.rows.response.shape[1:]) for e in drawn]
            raise ValueError(
                f"mixture: the parts have [group, tokens] {shapes} and other data; "
                "write sources of one kind and one length"
            ) from error
        metrics = {
            f"{i}/{k}": v for i, e in enumerate(drawn) for k, v in e.metrics.items()
        }
        return Experience(rows, batch, metrics)


SOURCES: dict[str, type[Source]] = {
    "mixture": Mixture,
    "demonstrations": Demonstrations,
    "preferences": Preferences,
    "rollouts": Rollouts,
    "sampled_preferences": SampledPreferences,
}
