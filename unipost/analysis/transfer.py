"""The Transferability Index (2507.00432): gains on other tasks against those on one.

Benchmarks come in groups; b is a benchmark of group g, R_b a score in 0 ... 100, and
dR_b = R_b^tuned - R_b^base. Three forms are in circulation:

    ti_relgain    TI_g = 100 mean_b(dR_b / R_b^base) / the same of the source (v1)
    ti_di         TI_g = 100 DI_g / DI_source (v2), with
                  DI_g = sum_b w_b sign(dR_b) |dR_b / s_g|^(1/2),
                  w_b = (100 - R_b^base) / sum_u (100 - R_u^base),
                  s_g the standard deviation of the gains of this model in g
    ti_di_pooled  the same with one s_g over the gains of all models audited

The published numbers are those of the third: with the s_g of each model they do not
come out. TI is a ratio, so a loss divided by a loss would read as a gain: it is NaN
unless the source's index is above 0, or, where there is an interval, its lower end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Scores = Mapping[str, float]
Groups = Mapping[str, Sequence[str]]
Weight = Literal["headroom", "uniform"]


@dataclass(frozen=True)
class Transfer:
    """Transfer from one group of benchmarks to the others.

    index  domain index DI of every group (or mean relative gain)
    gain   mean dR of every group, in points
    ratio  TI of every group but the source, in percent; NaN where it means nothing
    reason why it is NaN, or ""
    """

    index: dict[str, float]
    gain: dict[str, float]
    ratio: dict[str, float]
    reason: str = ""


def domain_index(
    base: ArrayLike,
    tuned: ArrayLike,
    spread: float,
    power: float = 0.5,
    weight: Weight = "headroom",
) -> np.ndarray:
    """sum_b w_b sign(dR_b) |dR_b / spread|^power over the last axis, scores [... B].

    w_b is proportional to the headroom 100 - R_b^base: a benchmark that the base has
    solved cannot show what was forgotten. uniform: w_b = 1/B, our addition. Raises
    ValueError for scores outside 0 ... 100, no headroom at all and a spread that is not
    positive.
    """
    base, tuned = np.broadcast_arrays(np.asarray(base, float), np.asarray(tuned, float))
    for name, scores in (("base", base), ("tuned", tuned)):
        if not ((scores >= 0) & (scores <= 100)).all():
            raise ValueError(f"domain_index: {name} scores are not all in 0 ... 100")
    if not spread > 0:
        raise ValueError(
            f"domain_index: spread is {spread}; gains that are all alike have no scale"
        )
    room = 100.0 - base if weight == "headroom" else np.ones_like(base)
    total = room.sum(-1, keepdims=True)
    if not (total > 0).all():
        raise ValueError("domain_index: every base score is 100; nothing can be gained")
    scaled = (tuned - base) / spread
    return (room / total * np.sign(scaled) * np.abs(scaled) ** power).sum(-1)


def relative_gain(base: ArrayLike, tuned: ArrayLike) -> np.ndarray:
    """mean_b dR_b / R_b^base over the last axis; NaN where a base score is 0."""
    base, tuned = np.asarray(base, float), np.asarray(tuned, float)
    gains = np.divide(
        tuned - base, base, out=np.full(base.shape, np.nan), where=base != 0
    )
    return gains.mean(-1)


def pooled_spread(
    pairs: Iterable[tuple[Scores, Scores]], groups: Groups
) -> dict[str, float]:
    """s_g of all gains of several (base, tuned) models, a number per group.

    The population standard deviation; that of a sample cancels where groups have
    equally many benchmarks.
    """
    gains: dict[str, list[float]] = {name: [] for name in groups}
    for base, tuned in pairs:
        for name, benchmarks in groups.items():
            gains[name] += [tuned[b] - base[b] for b in benchmarks]
    return {name: float(np.std(values)) for name, values in gains.items()}


def ti_di(
    base: Scores,
    tuned: Scores,
    groups: Groups,
    *,
    source: str = "math",
    power: float = 0.5,
    weight: Weight = "headroom",
) -> Transfer:
    """TI by the domain index with s_g of this model's own gains; see the module."""
    check_groups(base, tuned, groups, source)
    spread = pooled_spread([(base, tuned)], groups)
    options = {"source": source, "power": power, "weight": weight}
    return ti_di_pooled(base, tuned, groups, spread, **options)


def ti_di_pooled(
    base: Scores,
    tuned: Scores,
    groups: Groups,
    spread: Mapping[str, float],
    *,
    source: str = "math",
    power: float = 0.5,
    weight: Weight = "headroom",
) -> Transfer:
    """TI by the domain index, from scores {benchmark: 0 ... 100}.

    spread  s_g by group, as `pooled_spread` gives of all models audited

    Raises ValueError for a source that is no group and benchmarks without a score.
    """
    check_groups(base, tuned, groups, source)
    index = {
        name: float(
            domain_index(
                [base[b] for b in benchmarks],
                [tuned[b] for b in benchmarks],
                spread[name],
                power,
                weight,
            )
        )
        for name, benchmarks in groups.items()
    }
    means = {
        name: float(np.mean([tuned[b] - base[b] for b in benchmarks]))
        for name, benchmarks in groups.items()
    }
    return _ratios(index, means, source)


def ti_relgain(
    base: Scores, tuned: Scores, groups: Groups, *, source: str = "math"
) -> Transfer:
    """TI by relative gains, the form of the first version of the paper.

    Where it is drawn on a `symlog` axis, that axis is ours: no version of the paper,
    its page or its code has one.

    A group with a base score of 0 has none; it says so in `reason`.
    """
    check_groups(base, tuned, groups, source)
    index, means = {}, {}
    for name, benchmarks in groups.items():
        pairs = np.array([(base[b], tuned[b]) for b in benchmarks]).T
        index[name] = float(relative_gain(*pairs))
        means[name] = float((pairs[1] - pairs[0]).mean())
    found = _ratios(index, means, source)
    zero = [name for name, value in index.items() if math.isnan(value)]
    if zero:
        reason = f"a base score of {', '.join(zero)} is 0"
        return Transfer(index, means, found.ratio, reason)
    return found


def check_groups(base: Scores, tuned: Scores, groups: Groups, source: str) -> None:
    """Raises ValueError where the groups and the scores do not fit."""
    if source not in groups:
        raise ValueError(
            f"source: {source!r} is no group; write one of {', '.join(groups)}"
        )
    for name, benchmarks in groups.items():
        for b in benchmarks:
            if b not in base or b not in tuned:
                which = "base" if b not in base else "tuned"
                raise ValueError(
                    f"groups.{name}: {b} has no score of the {which} model"
                )


def not_positive(source: str) -> str:
    """The reason of a TI that is none: it would divide by nothing, or by a loss."""
    return f"{source}_gain_not_positive"


def _ratios(index: dict[str, float], means: dict[str, float], source: str) -> Transfer:
    own = index[source]
    if not own > 0:
        ratio = {name: math.nan for name in index if name != source}
        return Transfer(index, means, ratio, not_positive(source))
    ratio = {n: 100.0 * value / own for n, value in index.items() if n != source}
    return Transfer(index, means, ratio)


def symlog(values: ArrayLike, width: float = 10.0) -> np.ndarray:
    """sign(x) log10(1 + |x| / width): linear near 0. Our choice of an axis, no paper's.

    Raises ValueError unless width > 0.
    """
    if not width > 0:
        raise ValueError(f"symlog: width is {width}; write a number > 0")
    x = np.asarray(values, float)
    return np.sign(x) * np.log10(1.0 + np.abs(x) / width)
