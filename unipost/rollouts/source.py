"""Rollouts: responses sampled from the current policy and graded, in groups."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from unipost.config import Bound
from unipost.rewards import (
    ProcessRewardModel,
    Reward,
    RewardModel,
    numeric,
    open_reward,
)
from unipost.rollouts.groups import GroupRule, Keep
from unipost.rollouts.guidance import Guidance, Site
from unipost.rollouts.order import Epochs, Order
from unipost.rollouts.questions import open_questions
from unipost.rollouts.stream import Rolled
from unipost.sampling import BatchSampler, Sampler, Sampling
from unipost.signals import Supervision
from unipost.sources import OnBadRow, Setting, Source, Stream, TooLong, Varies
from unipost.wording import Wording


@dataclass(frozen=True)
class Rollouts(Source):
    """Responses sampled from the current policy and graded: groups of `group` rows.

    group       rows of a group: the policy's own, then those of `guidance` in order
    time_limit  seconds that the reward may take for a sample (None: no limit)
    guidance    rows that the policy does not sample from the prompt alone, such as a
                demonstration; graded by the same reward, flagged `off_policy`
    groups      what becomes of groups whose rewards are all equal
    order       in which order the questions are asked
    truncated   masked: the loss of rows that met their budget has weight 0, while their
                reward stands in the statistics of the group and their tokens in the
                denominators (TRL's mask_truncated_completions; DAPO's overlong
                filtering); kept: they count as the others
    rewards     shuffled permutes the rewards over the batch: a control that must not
                learn
    wording     how a question becomes a prompt; None: it is one
    supervision process gives rewards of steps, on the tokens that end them, for a
                signal with supervision: process; the reward has to give steps

    The behaviour stream is that of the exact sampling distribution, temperature and
    cuts included; NaN where it is not known (demonstrations). Parts of a composed
    reward are the batch's components. Numbers reported: `unipost.rollouts.numbers`.
    """

    path: str
    prompts: int
    prompt_length: int
    group: int
    sampling: Sampling
    reward: Reward = numeric
    time_limit: float | None = 5.0
    guidance: tuple[Guidance, ...] = ()
    groups: GroupRule = Keep()
    order: Order = Epochs()
    truncated: Literal["kept", "masked"] = "kept"
    rewards: Literal["graded", "shuffled"] = "graded"
    supervision: Supervision = "outcome"
    sampler: Sampler = BatchSampler()
    stop: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    wording: Wording | None = None
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    def __post_init__(self):
        if self.own < 1:
            guided = self.group - self.own
            raise ValueError(
                f"group: {self.group} leaves no row to sample beside {guided} of "
                f"guidance; write {guided + 1} or more"
            )
        if self.time_limit is not None and self.time_limit <= 0:
            raise ValueError(f"time_limit: {self.time_limit}; write seconds > 0")
        replays = any(part.gives == "replay" for part in self.guidance)
        if replays and self._silent:
            raise ValueError(
                "guidance: replay needs the log-probs of the sampler; write "
                "sampler.logprobs: raw, or leave replay out"
            )
        plain = inspect.isfunction(self.reward) or isinstance(self.reward, Bound)
        if self.supervision == "process" and plain:
            raise ValueError(
                "supervision: process, but the reward gives one number per response; "
                "write supervision: outcome, or a reward of steps"
            )

    @property
    def own(self) -> int:
        """Rows of a group that the policy samples from the prompt alone."""
        return self.group - sum(part.count for part in self.guidance)

    @property
    def rows(self) -> int:
        return self.group

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the parts of a composed reward."""
        return tuple(getattr(self.reward, "parts", ()))

    @property
    def paths(self) -> tuple[str, ...]:
        guided = (path for part in self.guidance for path in part.paths)
        return tuple(dict.fromkeys((self.path, *guided, *_models(self.reward))))

    @property
    def gives(self) -> str:
        kinds = {part.gives for part in self.guidance}
        if "demonstrations" in kinds:
            return "rewards+demonstrations"
        return "rewards+replay" if kinds else "rewards"

    @property
    def unknown_behavior(self) -> bool:
        return any(part.unknown_behavior for part in self.guidance)

    @property
    def varies(self) -> Varies:
        return "step"

    @property
    def fields(self) -> frozenset[str]:
        names = super().fields - ({"behavior"} if self._silent else set())
        if self.components:
            names |= {"components"}
        return names | ({"steps"} if self.supervision == "process" else set())

    @property
    def _silent(self) -> bool:
        # a server that is not asked for log-probs says nothing of its distribution
        return getattr(self.sampler, "logprobs", None) == "none"

    def open(self, setting: Setting) -> Stream:
        solved = any(part.gives == "demonstrations" for part in self.guidance)
        questions = open_questions(
            self.path,
            setting.tokenizer,
            self.prompt_length,
            self.sampling.max_tokens,
            solved=solved,
            stop=self.stop,
            columns=self.columns,
            wording=self.wording,
            too_long=self.too_long,
            on_bad_row=self.on_bad_row,
        )
        self.order.check(questions)
        guides = []
        for part, guidance in enumerate(self.guidance):
            site = Site(
                setting,
                questions,
                self.sampling,
                self.sampler,
                self.prompt_length,
                self.prompts,
                self.own,
                part,
            )
            guides.append(guidance.open(site))
        engine = self.sampler.open(
            setting.policy, setting.tokenizer, self.sampling, self.prompt_length
        )
        grader = open_reward(self.reward, self.time_limit)
        return Rolled(self, setting, questions, engine, tuple(guides), grader)


def _models(reward: Reward) -> Iterator[str]:
    """The folders of the models that a reward reads."""
    if isinstance(reward, RewardModel | ProcessRewardModel):
        yield reward.path
    for part in getattr(reward, "rewards", {}).values():
        yield from _models(part)
