"""Token rank shift: how far down the base's list the tuned model's tokens stand.

    rank_shift_t = rank_base(y_t) - rank_tuned(y_t),  ranks from 1

on responses of the tuned model: 0 where both rank the token alike; of a greedy
response rank_tuned is 1 and the shift is the base's rank - 1. Source: 2507.00432
section 4.1, which prints the mean and counts tokens whose shift is not 0, and names no
threshold; rank_base > 3 is what Lin et al. (2312.01552) call shifted. The mean hangs
on a few tokens of its tail, so the median and the two shares stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unipost.analysis.compare import Compared

FAR = 3
"""A token is far down the base's list when it ranks below this place."""


class RankShift(NamedTuple):
    """Rank shift over the tokens of all responses.

    shifted  share of tokens with a shift that is not 0
    far      share of tokens with a base rank above 3
    """

    mean: float
    median: float
    shifted: float
    far: float
    tokens: int


class ShiftedToken(NamedTuple):
    """One token of the vocabulary: how often it is shifted, and by how much.

    mean    mean rank shift where it is shifted
    weight  count x mean, by which a figure sorts
    """

    token: int
    count: int
    mean: float
    weight: float


def shifts(compared: Compared) -> np.ndarray:
    """rank_base - rank_tuned [P G T], 0 where masked."""
    difference = compared.base.rank - compared.tuned.rank
    return np.where(compared.mask, difference, 0)


def rank_shift(compared: Compared) -> RankShift:
    """`RankShift` over all tokens of the responses."""
    values = shifts(compared)[compared.mask]
    return RankShift(
        mean=float(values.mean()),
        median=float(np.median(values)),
        shifted=float((values != 0).mean()),
        far=float((compared.base.rank[compared.mask] > FAR).mean()),
        tokens=int(values.size),
    )


def by_position(compared: Compared) -> np.ndarray:
    """Mean rank shift at every position [T] of a response; NaN where none is as long.

    The curve of Figures 15, 16 and 20 of 2507.00432.
    """
    values, mask = (
        x.reshape(-1, x.shape[-1]) for x in (shifts(compared), compared.mask)
    )
    count = mask.sum(0)
    blank = np.full(count.shape, np.nan)
    return np.divide(values.sum(0), count, out=blank, where=count > 0)


def shifted_tokens(
    tokens: np.ndarray, compared: Compared, most: int | None = None
) -> list[ShiftedToken]:
    """Tokens that are shifted, the greatest count x |mean shift| first, `most` of them.

    tokens  [P G T], the responses that were compared. Bars of this list stand for the
    word clouds of Figure 5 of 2507.00432 (size by frequency x rank shift).
    """
    values = shifts(compared)
    kept = values != 0
    ids, place = np.unique(np.asarray(tokens)[kept], return_inverse=True)
    counts = np.bincount(place, minlength=len(ids))
    totals = np.bincount(place, weights=values[kept], minlength=len(ids))
    # of equal ones the smaller id first, so that the list does not depend on the data
    order: Sequence[int] = np.lexsort((ids, -np.abs(totals))).tolist()
    return [
        ShiftedToken(
            int(ids[i]), int(counts[i]), float(totals[i] / counts[i]), float(totals[i])
        )
        for i in order[:most]
    ]
