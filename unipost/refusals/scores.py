"""Refusals of one score: its divergence, anchor, ratio and link."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from unipost.classical import ReverseKL
from unipost.links import (
    Balance,
    Clipped,
    Contrast,
    Gain,
    Importance,
    Linear,
    Residual,
    RowLogistic,
    SoftGate,
    Weighted,
)
from unipost.mixed_groups import DemonstrationRows
from unipost.pair_links import PairLink
from unipost.parts import concrete
from unipost.ratios import LengthDesensitised
from unipost.weights import Truncate

if TYPE_CHECKING:
    from unipost.score import Score


# links whose value is about 1 + z, the ratio
RATIO_LINKS = (Clipped, Importance, SoftGate)


def of_demonstrations(score: Score) -> bool:
    """Whether a score is for demonstrations: the off-policy one, or by its signal."""
    signal = getattr(score, "signal", None)
    return signal is None or isinstance(signal, DemonstrationRows)


def kind(part: object) -> str:
    """The class of a part, as the refusals call it."""
    return type(part).__name__


def flat_score(score: Score) -> str | None:
    """A divergence without curvature has a constant f': no gradient."""
    if score.divergence.curvature is None:
        return (
            f"divergence: {kind(score.divergence)} as a score has f' constant on each "
            "side of u = 1, so no gradient; write it as link.divergence or penalty"
        )


def ratio_slope(score: Score) -> str | None:
    """The band of a clip means that 1 + z is the ratio to first order."""
    if not isinstance(score.link, RATIO_LINKS):
        return None
    curvature, beta = concrete(score.divergence.curvature), concrete(score.beta)
    if curvature is None or beta is None:
        return None
    if not math.isclose(beta * curvature, 1.0) or not score.divergence.centred:
        return (
            f"divergence: beta f''(1) = {beta * curvature:g} with link "
            f"{kind(score.link).lower()}, whose band assumes slope 1 at u = 1; write "
            "unit_curvature(pearson_chi2) and beta 1"
        )


def ratio_anchor(score: Score) -> str | None:
    """A ratio needs something to be a ratio to; demonstrations are of probability 1."""
    if isinstance(score.link, RATIO_LINKS) and score.anchor == "none":
        if of_demonstrations(score):
            return None
        return (
            f"anchor: none with link {kind(score.link).lower()}, which is about a "
            "ratio; write old (or self when every batch is used once)"
        )


def uncentred_anchor(score: Score) -> str | None:
    """An uncentred f gives a non-zero implicit reward at u = 1."""
    if not score.divergence.centred and score.anchor != "none":
        if of_demonstrations(score) and score.anchor == "behavior":
            return None
        return (
            f"anchor: {score.anchor} with {kind(score.divergence)}, whose f'(1) is "
            "not 0; write anchor: none"
        )


def pointwise_normaliser(score: Score) -> str | None:
    """r = beta f'(u) + lambda(x): lambda cancels in a difference of two only."""
    if (
        isinstance(score.link, (Linear, Weighted, Residual, Balance, Contrast, Gain))
        and score.anchor == "reference"
        and not isinstance(score.divergence, ReverseKL)
    ):
        return (
            f"divergence: {kind(score.divergence)} to the reference on a pointwise "
            "link, where the normaliser lambda(x) does not cancel; write a pair link, "
            "or reverse_kl with a penalty in this divergence"
        )


def redundant_weight(score: Score) -> str | None:
    """A weight that can never differ from 1, or that z applies already."""
    link = score.link
    if not isinstance(link, Weighted):
        return None
    if link.over == "self":
        return "link.over: self makes the weight constant; write link: linear"
    if link.over == score.anchor != "none":
        return (
            f"anchor: {score.anchor} is the ratio that link.over weighs by already; "
            "write anchor: none"
        )
    if link.level == score.level:
        return f"link.level: {link.level} is the score's; write link.level: own"
    weight = link.weight
    if link.over == "none" and isinstance(weight, Truncate):
        if (concrete(weight.cap) or 0.0) <= 1.0:
            return None
        return "link.weight.cap: a probability never exceeds 1; write cap: 1"


def unused_ratio(score: Score) -> str | None:
    """A treatment of the ratio to oneself, or of half a pair."""
    if score.ratio is None:
        return None
    if score.anchor == "self":
        return f"ratio: {kind(score.ratio)} with anchor self; write anchor: old"
    pair = isinstance(score.link, (PairLink, RowLogistic))
    if isinstance(score.ratio, LengthDesensitised) and not pair:
        return "ratio: LengthDesensitised without a pair; write ratio: null"


def length_level(score: Score) -> str | None:
    """Dividing by the length is for rewards of a whole sequence."""
    if score.per == "length" and score.level != "sequence":
        return f"per: length at level {score.level}; write per: one"


def unused_clamp(score: Score) -> str | None:
    """Bare log-probs and pi/sg(pi) are not clamped."""
    if score.clamp is None or score.anchor not in ("none", "self"):
        return None
    penalty = getattr(score, "penalty", None)
    if penalty is None or penalty.estimator == "exact":
        return f"clamp: has no effect with anchor {score.anchor}; write clamp: null"


SCORE_RULES: tuple[Callable[[Score], str | None], ...] = (
    flat_score,
    ratio_slope,
    ratio_anchor,
    uncentred_anchor,
    pointwise_normaliser,
    redundant_weight,
    unused_ratio,
    length_level,
    unused_clamp,
)
