"""What grading gives: rewards, their parts, what went wrong and what is notable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from unipost.rewards.calls import NOT_A_NUMBER, number
from unipost.rewards.sample import Sample

Steps = list[list[tuple[int, float]]]
"""Per sample the rewards of its steps: (where the step ends in the response, value)."""


class Grades(NamedTuple):
    """The rewards of N samples.

    values      [N], NaN where unscored
    components  [N, K], the K parts of a composed reward, without weights; else K = 0
    names       of the parts
    unscored    how many values are NaN
    reasons     why, one line per failure, with the sample's place
    notes       how often something notable came up, such as a fallback
    steps       rewards of the steps of every response, or None
    """

    values: np.ndarray
    components: np.ndarray
    names: tuple[str, ...]
    unscored: int
    reasons: list[str]
    notes: dict[str, int]
    steps: Steps | None = None


class Scorer(Protocol):
    """A reward of many samples at once, which may look at whole groups.

    A frozen dataclass with `score`. Where it also has `open()`, what that gives is
    asked for `score` instead, and for `close()` at the end if it has one.
    """

    def score(self, samples: Sequence[Sample]) -> Sequence[float] | Grades:
        """One reward per sample, or all of `Grades`."""
        ...


class Composite(Protocol):
    """A reward made of others: a frozen dataclass with `rewards` and `combine`.

    Where it has `asked(samples)`, its rewards are asked about the samples which that
    gives, such as the steps of each.
    """

    @property
    def rewards(self) -> Mapping[str, Reward]:
        """The rewards that it needs, by name."""
        ...

    def combine(
        self, samples: Sequence[Sample], parts: Mapping[str, Grades]
    ) -> Sequence[float] | Grades:
        """The reward, given what each of `rewards` gave for the same samples."""
        ...


Reward = Callable[[str, str], float] | Scorer | Composite
"""A plain function (response, answer, **options), or a frozen dataclass."""


def grades_of(
    values: Any,
    *,
    components: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    reasons: Sequence[str] = (),
    notes: Mapping[str, int] | None = None,
    steps: Steps | None = None,
) -> Grades:
    """Grades with what is left out filled in and `unscored` counted."""
    values = np.asarray(values, np.float64)
    if components is None:
        components = np.zeros((len(values), 0))
    unscored = int(np.isnan(values).sum())
    return Grades(
        values, components, names, unscored, list(reasons), dict(notes or {}), steps
    )


def checked(given: Sequence[float] | Grades, samples: Sequence[Sample]) -> Grades:
    """Grades of what `score` or `combine` gave, every number that is none made NaN.

    Raises ValueError for another number of rewards than of samples.
    """
    known = given if isinstance(given, Grades) else None
    raw = list(known.values if known else given)
    if len(raw) != len(samples):
        raise ValueError(f"{len(raw)} rewards for {len(samples)} samples")
    pairs = [number(value) for value in raw]
    values = np.array([value for value, _ in pairs], np.float64)
    if known is None:
        reasons = [f"sample {i}: {p}" for i, (_, p) in enumerate(pairs) if p]
        return grades_of(values, reasons=reasons)
    # NaN with a reason of its own needs no other
    silent = [(i, p) for i, (_, p) in enumerate(pairs) if p and p != NOT_A_NUMBER]
    return known._replace(
        values=values,
        components=_numbers(known.components),
        unscored=int(np.isnan(values).sum()),
        reasons=[*known.reasons, *(f"sample {i}: {p}" for i, p in silent)],
        steps=_steps(known.steps, values, samples),
    )


def _numbers(components: np.ndarray) -> np.ndarray:
    flat = [number(value)[0] for value in np.asarray(components).reshape(-1)]
    return np.array(flat, np.float64).reshape(np.shape(components))


def _steps(
    steps: Steps | None, values: np.ndarray, samples: Sequence[Sample]
) -> Steps | None:
    """Steps in the order of the text; none of a sample that is unscored."""
    if steps is None:
        return None
    if len(steps) != len(samples):
        raise ValueError(f"steps of {len(steps)} samples for {len(samples)} samples")
    kept: Steps = []
    for own, value, sample in zip(steps, values, samples, strict=True):
        good = [(int(end), number(v)[0]) for end, v in own]
        for end, v in good:
            if not 0 <= end <= len(sample.response) or np.isnan(v):
                raise ValueError(f"a step at {end} of {len(sample.response)} with {v}")
        kept.append([] if np.isnan(value) else sorted(good, key=lambda step: step[0]))
    return kept
