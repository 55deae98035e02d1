"""Verdicts on claims, from stored results alone.

All confirmatory claims of a file are one family. Holm's step-down, by intervals: the
claims in the order of their p-values, the first at level alpha / m, the next at
alpha / (m - 1), and so on; from the first one that stays inconclusive on, none at a
higher level. p is the smallest alpha at which a claim alone would not be inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unipost.analysis.statistics import Verdict, holm, percentiles
from unipost.studies.claims import Claim, Effect, Test
from unipost.studies.sample import Sample

ALPHA = 0.05
"""Of all confirmatory claims of a file together."""
LOST = 0.05
"""Share of replicates without a number above which nothing is decided."""


class Judged(NamedTuple):
    """One claim after the run.

    effects  (label, estimate, low, high, lower, upper) of each effect, the weakest
             first; lower and upper are what the claim puts it between
    level    the share that the intervals hold; 1 - 2 alpha for an equivalence
    p        the smallest alpha that would decide it alone; holm: adjusted; paired: of
             the sign-flip test that there is no difference
    items    per seed; 0 where runs alone are resampled
    note     why nothing could be decided, or ""
    """

    verdict: Verdict
    effects: list[tuple[str, float, float, float, float, float]]
    level: float
    p: float
    holm: float | None
    paired: float | None
    seeds: int
    items: int
    unit: str
    censored: list[str]
    note: str = ""

    @property
    def estimate(self) -> float:
        """Of the weakest effect."""
        return self.effects[0][1]


def judge(
    claims: Mapping[str, Claim],
    sample: Sample,
    late: Sequence[str] = (),
    alpha: float = ALPHA,
) -> dict[str, Judged]:
    """The verdict on every claim; those in `late` were written after the run.

    They, and the exploratory ones, are each judged at alpha and are not counted.
    """
    found = {name: claim.test.effects(sample) for name, claim in claims.items()}
    family = [
        name
        for name, claim in claims.items()
        if claim.status == "confirmatory" and name not in late
    ]
    p = {name: _p(effects) for name, effects in found.items()}
    levels = dict.fromkeys(claims, alpha) | _levels(found, family, p, alpha)
    adjusted = dict(zip(family, holm([p[name] for name in family]), strict=True))
    return {
        name: _judged(
            claim, sample, found[name], levels[name], p[name], adjusted.get(name)
        )
        for name, claim in claims.items()
    }


def _levels(
    found: Mapping[str, list[Effect]],
    family: Sequence[str],
    p: Mapping[str, float],
    alpha: float,
) -> dict[str, float]:
    """alpha of each claim of the family, by Holm's step-down."""
    levels, rank, going = {}, 0, len(family)
    for name in sorted(family, key=lambda name: p[name]):
        levels[name] = alpha / going
        if rank is not None and _verdict(found[name], levels[name]) != "inconclusive":
            going -= 1
        else:
            rank = None
    return levels


def _judged(
    claim: Claim,
    sample: Sample,
    effects: list[Effect],
    alpha: float,
    p: float,
    adjusted: float | None,
) -> Judged:
    weakest = sorted(effects, key=_weakness, reverse=True)
    verdict, note = _verdict(effects, alpha), _note(effects)
    quantities = [sample.frame.quantity(w) for _, w in _reads(claim.test)]
    tasks = dict.fromkeys(t for q in quantities for t, _, _ in q.terms)
    return Judged(
        verdict=verdict,
        effects=[
            (e.label, float(e.draws[0]), *_interval(e, alpha), e.lower, e.upper)
            for e in weakest
        ],
        level=1 - _width(effects) * alpha,
        p=p,
        holm=adjusted,
        paired=claim.test.paired(sample),
        seeds=sample.seeds,
        items=sum(sample.results["tasks"][task]["items"] for task in tasks),
        unit=claim.test.unit(sample.frame),
        censored=_censored(claim.test, sample),
        note=note,
    )


def _reads(test: Test) -> list[tuple[str, str]]:
    """(arm, what) pairs of a test, each once."""
    pairs = [(a, w) for arms, names, _ in test.uses() for a in arms for w in names]
    return [*dict.fromkeys(pairs)]


def _censored(test: Test, sample: Sample) -> list[str]:
    arms = [a for names, _, at in test.uses() if at == "matched" for a in names]
    return [run for arm in dict.fromkeys(arms) for run in sample.censored(arm)]


def _two_sided(effect: Effect) -> bool:
    return math.isfinite(effect.lower) and math.isfinite(effect.upper)


def _width(effects: Sequence[Effect]) -> int:
    """How many alphas lie outside the interval: 2 for TOST, one on each side."""
    return 2 if all(_two_sided(e) for e in effects) else 1


def _interval(effect: Effect, alpha: float) -> tuple[float, float]:
    return percentiles(effect.draws[1:], alpha * (2 if _two_sided(effect) else 1))


def _verdict(effects: Sequence[Effect], alpha: float) -> Verdict:
    if _note(effects):
        return "inconclusive"
    each = [_one(effect, alpha) for effect in effects]
    if all(v == "supported" for v in each):
        return "supported"
    return "not supported" if "not supported" in each else "inconclusive"


def _one(effect: Effect, alpha: float) -> Verdict:
    low, high = _interval(effect, alpha)
    if low > effect.lower and high < effect.upper:
        return "supported"
    outside = high <= effect.lower or low >= effect.upper
    return "not supported" if outside else "inconclusive"


def _note(effects: Sequence[Effect]) -> str:
    for effect in effects:
        if np.isnan(effect.draws[0]):
            return "no number: not measured, or no run reaches the accuracy"
        lost = float(np.isnan(effect.draws[1:]).mean())
        if lost == 1.0:
            return "one number alone has no interval: run more seeds"
        if lost > LOST:
            return f"{lost:.0%} of the replicates have no number"
    return ""


def _weakness(effect: Effect) -> tuple[float, float]:
    """Large for an effect that is hardly within its bounds."""
    mean = float(effect.draws[0])
    return _support(effect), -min(mean - effect.lower, effect.upper - mean)


def _support(effect: Effect) -> float:
    """One-sided p that the effect is not within its bounds."""
    draws = effect.draws[1:][~np.isnan(effect.draws[1:])]
    out = max((draws <= effect.lower).sum(), (draws >= effect.upper).sum())
    return float((1 + out) / (1 + len(draws)))


def _against(effect: Effect) -> float:
    """One-sided p that the effect is not outside its bounds."""
    draws = effect.draws[1:][~np.isnan(effect.draws[1:])]
    inside = min((draws > effect.lower).sum(), (draws < effect.upper).sum())
    return float((1 + inside) / (1 + len(draws)))


def _p(effects: Sequence[Effect]) -> float:
    if _note(effects):
        return 1.0
    sides = [1 if _two_sided(e) else 2 for e in effects]
    held = max(s * _support(e) for s, e in zip(sides, effects, strict=True))
    failed = min(s * _against(e) for s, e in zip(sides, effects, strict=True))
    return min(1.0, held, failed)
