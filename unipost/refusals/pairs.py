"""Refusals of objectives on preferences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from unipost.aggregation import Aggregation, Scaled, SequenceMean
from unipost.classical import ReverseKL
from unipost.links import (
    RowLogistic,
)
from unipost.pair_links import MarginLink, PairLink
from unipost.parametric import Alpha, LogOdds
from unipost.parts import concrete
from unipost.refusals.scores import kind
from unipost.signals import Chosen, Preference

if TYPE_CHECKING:
    from unipost.objective import Objective


def pair_signal(o: Objective) -> str | None:
    """Pair links and preferences need each other."""
    pair, preference = isinstance(o.link, PairLink), isinstance(o.signal, Preference)
    if pair and not preference:
        return f"signal: {kind(o.signal)} with a pair link; write signal: preference"
    rows = isinstance(o.link, RowLogistic) or isinstance(o.signal, Chosen)
    if preference and not pair and not rows:
        return f"link: {kind(o.link)} on preferences; write link: logistic or squared"
    if pair and isinstance(o.signal, Chosen):
        return "signal: Chosen leaves nothing to compare; write signal: preference"


def pair_divergence(o: Objective) -> str | None:
    """f'(0+) = -inf is what lets the optimum keep every response."""
    if not isinstance(o.link, PairLink) or o.anchor == "none":
        return None
    slope = concrete(o.divergence.slope_at_zero)
    if slope is not None and slope > -math.inf:
        return (
            f"divergence: {kind(o.divergence)} as a preference link has finite f'(0+) "
            f"= {slope:g}: its optimum drops responses and the normaliser does not "
            "cancel; write chi2_kl (chi-PO) or alpha with 0 < a < 1"
        )


def pair_margin(o: Objective) -> str | None:
    """The normaliser cancels in a difference only."""
    if not isinstance(o.link, PairLink) or isinstance(o.link, MarginLink):
        return None
    if not isinstance(o.divergence, ReverseKL):
        return (
            f"divergence: {kind(o.divergence)} with link {kind(o.link)}, which sees "
            "each reward by itself: the normaliser does not cancel; write reverse_kl"
        )


def pair_level(o: Objective) -> str | None:
    """Token-level implicit rewards telescope for KL only."""
    if not isinstance(o.link, PairLink) or o.anchor == "none":
        return None
    kl = isinstance(o.divergence, ReverseKL)
    if o.level == "token" and kl:
        return "level: token sums to the sequence for reverse_kl; write level: sequence"
    if o.level == "token" and o.gauge != "vocabulary":
        return (
            f"level: token with {kind(o.divergence)} needs the vocabulary correction "
            "c(s) = beta E_ref[f*(f'(u))]; write level: sequence, or gauge: vocabulary"
        )
    if o.level == "sequence_mean" and not kl:
        return (
            f"level: sequence_mean with {kind(o.divergence)}: the normaliser of a "
            "geometric-mean ratio does not cancel; write level: sequence"
        )


def pair_length(o: Objective) -> str | None:
    """A reward divided by its length has lost the constant that must cancel."""
    if isinstance(o.link, PairLink) and o.per == "length":
        if not isinstance(o.divergence, ReverseKL):
            return (
                f"per: length with {kind(o.divergence)}: the normaliser does not "
                "cancel between unequal lengths; write per: one"
            )


def pair_anchor(o: Objective) -> str | None:
    """A preference compares implicit rewards, which are relative to a reference."""
    if not isinstance(o.link, PairLink):
        return None
    if o.anchor == "self":
        return "anchor: self makes every margin 0; write anchor: reference"
    free = (ReverseKL, Alpha, LogOdds)
    if o.anchor == "none" and not isinstance(o.divergence, free):
        return (
            f"anchor: none with {kind(o.divergence)}: f' of a bare probability is no "
            "implicit reward; write anchor: reference, or reverse_kl"
        )
    if o.anchor == "none" and o.level == "token":
        return "level: token with anchor none; write level: sequence"


def inner_of(aggregation: Aggregation) -> Aggregation:
    """The aggregation without its factors."""
    scaled = isinstance(aggregation, Scaled)
    return inner_of(aggregation.aggregation) if scaled else aggregation


def pair_aggregation(o: Objective) -> str | None:
    """The unit of a preference is the pair."""
    inner = inner_of(o.aggregation)
    if isinstance(o.link, PairLink) and not isinstance(inner, SequenceMean):
        return (
            f"aggregation: {kind(o.aggregation)} on pairs, whose mean is over pairs; "
            "write aggregation: sequence_mean"
        )


PAIR_RULES: tuple[Callable[[Objective], str | None], ...] = (
    pair_signal,
    pair_divergence,
    pair_margin,
    pair_level,
    pair_length,
    pair_anchor,
    pair_aggregation,
)
