"""What a step of rollouts reports. The names are the same at every step.

reward, reward/NAME  mean over the policy's own scored rows, of the whole and its parts
length, length_correct, length_wrong  tokens of the own rows, of those right and wrong
truncated, finished  shares of the own rows that met their budget, that ended before
unscored, unscored_share  rows without a reward, as a count and a share of all rows
zero_variance        share of the groups whose rewards say nothing (`drawn.mixed`)
noted                how often the reward had something to note, such as a fallback

A mean over no rows is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unipost.rollouts.drawn import Drawn, mixed
from unipost.rollouts.grading import Graded

RIGHT = 1.0
"""The least reward of a right response, as in evaluation."""


def right(drawn: Drawn, names: Sequence[str]) -> np.ndarray:
    """[n, G] rows that are right: a reward of 1 or more.

    Of a composed reward it is the part named accuracy that counts, else the first.
    """
    value = drawn.rewards
    if names:
        part = names.index("accuracy") if "accuracy" in names else 0
        value = drawn.components[..., part]
    return drawn.texts.present & (np.nan_to_num(value, nan=-np.inf) >= RIGHT)


def numbers(graded: Graded, own: int) -> dict[str, float]:
    """The numbers of all groups that were drawn; the first `own` rows are its own."""
    drawn, names = graded.drawn, graded.names
    there, scored = drawn.texts.present[:, :own], drawn.scored[:, :own]
    lengths = drawn.texts.mask.sum(-1)[:, :own]
    correct = right(drawn, names)[:, :own]
    finished = drawn.texts.finished[:, :own]
    every = int(drawn.texts.present.sum())
    unscored = every - int(drawn.scored.sum())
    out = {"reward": _mean(drawn.rewards[:, :own], scored)}
    for k, name in enumerate(names):
        value = drawn.components[:, :own, k]
        out[f"reward/{name}"] = _mean(value, there & np.isfinite(value))
    return out | {
        "length": _mean(lengths, there),
        "length_correct": _mean(lengths, there & correct),
        "length_wrong": _mean(lengths, scored & ~correct),
        "truncated": _mean(~finished, there),
        "finished": _mean(finished, there),
        "unscored": float(unscored),
        "unscored_share": unscored / max(every, 1),
        "zero_variance": 1.0 - _mean(mixed(drawn, own), np.asarray(there.any(-1))),
        "noted": float(sum(graded.notes.values())),
    }


def success(drawn: Drawn, names: Sequence[str], own: int) -> np.ndarray:
    """[n] share of right responses among the own scored rows, NaN without any."""
    scored = drawn.scored[:, :own]
    count = scored.sum(-1)
    correct = (right(drawn, names)[:, :own] & scored).sum(-1)
    return np.where(count > 0, correct / np.maximum(count, 1), np.nan)


def guided(drawn: Drawn, own: int) -> float:
    """Mean reward of the rows of guidance, those after the first `own`."""
    return _mean(drawn.rewards[:, own:], drawn.scored[:, own:])


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    """Mean of `values` where `where`, 0 where that is nowhere."""
    return float(np.asarray(values, np.float64)[where].mean()) if where.any() else 0.0
