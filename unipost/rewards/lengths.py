"""Rewards of length, in tokens: Kimi's in a group, the cosine, DAPO's overlong one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unipost.rewards.correctness import numeric
from unipost.rewards.grades import Grades, Reward
from unipost.rewards.sample import Sample, length_of, limit_of


@dataclass(frozen=True)
class KimiLength:
    """Short right answers over long ones, in [-0.5, 0.5]; to be added to the accuracy.

    With the lengths len of the samples of one prompt,
    l = 0.5 - (len - min) / (max - min), 0 where all are as long;
    r = l for a right response, min(0, l) for a wrong one.
    Right is an accuracy above `threshold`; without an accuracy there is no reward.
    Source: Kimi k1.5 (2501.12599) 2.3.3.
    """

    accuracy: Reward = numeric
    threshold: float = 0.5

    @property
    def rewards(self) -> Mapping[str, Reward]:
        return {"accuracy": self.accuracy}

    def combine(
        self, samples: Sequence[Sample], parts: Mapping[str, Grades]
    ) -> Sequence[float]:
        lengths = [length_of(sample, "kimi_length") for sample in samples]
        groups: dict[int, list[int]] = {}
        for sample, length in zip(samples, lengths, strict=True):
            groups.setdefault(sample.group, []).append(length)
        spans = {group: (min(own), max(own)) for group, own in groups.items()}
        rewards = []
        accuracies = parts["accuracy"].values
        for sample, length, accuracy in zip(samples, lengths, accuracies, strict=True):
            low, high = spans[sample.group]
            value = 0.5 - (length - low) / (high - low) if high > low else 0.0
            right = _right(accuracy, self.threshold)
            rewards.append(
                math.nan if right is None else value if right else min(0.0, value)
            )
        return rewards


@dataclass(frozen=True)
class CosineLength:
    """Accuracy scaled by length along a cosine: it stands in place of the accuracy.

    r = long + (short - long) (1 + cos(pi min(len / max_length, 1))) / 2, from `short`
    at length 0 to `long` at max_length and beyond; correct = (short, long) for a right
    response and wrong = (short, long) for a wrong one. max_length None: the sample's
    own limit. Source: 2502.03373 C.1, without its penalty for length max_length; the
    defaults are those of TRL's get_cosine_scaled_reward.
    """

    accuracy: Reward = numeric
    max_length: int | None = None
    correct: tuple[float, float] = (1.0, 0.5)
    wrong: tuple[float, float] = (-1.0, -0.5)
    threshold: float = 0.5

    def __post_init__(self):
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(
                f"cosine_length.max_length: {self.max_length}; write 1 or more"
            )

    @property
    def rewards(self) -> Mapping[str, Reward]:
        return {"accuracy": self.accuracy}

    def combine(
        self, samples: Sequence[Sample], parts: Mapping[str, Grades]
    ) -> Sequence[float]:
        rewards = []
        accuracies = parts["accuracy"].values
        for sample, accuracy in zip(samples, accuracies, strict=True):
            right = _right(accuracy, self.threshold)
            if right is None:
                rewards.append(math.nan)
                continue
            short, long = self.correct if right else self.wrong
            limit = max(1, limit_of(sample, self.max_length, "cosine_length"))
            share = min(length_of(sample, "cosine_length") / limit, 1.0)
            rewards.append(long + (short - long) * (1 + math.cos(math.pi * share)) / 2)
        return rewards


@dataclass(frozen=True)
class SoftOverlong:
    """A penalty in [-1, 0] for the last `cache` tokens before max_length.

    r = 0 for len <= max_length - cache; ((max_length - cache) - len) / cache up to
    max_length; -1 beyond. max_length None: the sample's own limit.
    Source: DAPO (2503.14476) Eq 13, with max_length 20480 and cache 4096.
    """

    cache: int
    max_length: int | None = None

    def __post_init__(self):
        if self.cache < 0:
            raise ValueError(f"soft_overlong.cache: {self.cache}; write 0 or more")
        if self.max_length is not None and self.max_length < max(self.cache, 1):
            raise ValueError(
                f"soft_overlong.max_length: {self.max_length}; write {self.cache} or "
                "more, the cache"
            )

    def score(self, samples: Sequence[Sample]) -> Sequence[float]:
        rewards = []
        for sample in samples:
            limit = limit_of(sample, self.max_length, "soft_overlong")
            over = length_of(sample, "soft_overlong") - (limit - self.cache)
            if over <= 0:
                rewards.append(0.0)
            else:
                rewards.append(-1.0 if over > self.cache else -over / self.cache)
        return rewards


def _right(accuracy: float, threshold: float) -> bool | None:
    """Whether a response is right; None where that is not known."""
    return None if np.isnan(accuracy) else bool(accuracy > threshold)
