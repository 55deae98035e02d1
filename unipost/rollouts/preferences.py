"""Pairs made once from the first policy's own samples."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from unipost.data import Tokens
from unipost.rewards import Reward, numeric
from unipost.rollouts.guidance import Demonstration
from unipost.rollouts.source import Rollouts
from unipost.sampling import BatchSampler, Sampler, Sampling
from unipost.sources import (
    Fixed,
    OnBadRow,
    Setting,
    Source,
    Stream,
    TooLong,
    Varies,
    close_stream,
    pair_rewards,
)
from unipost.wording import Wording


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
    time_limit: float | None = 5.0
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
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
    def rows(self) -> int:
        return 2

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
            self.time_limit,
            (Demonstration(),),
            sampler=self.sampler,
            stop=self.stop,
            columns=self.columns,
            wording=self.wording,
            too_long=self.too_long,
            on_bad_row=self.on_bad_row,
        ).open(setting)
        try:
            return self._made(inner, setting)
        finally:
            close_stream(inner)

    def _made(self, inner: Stream, setting: Setting) -> Stream:
        """The pairs of one pass over the questions."""
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
