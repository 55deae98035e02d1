"""Combinations without meaning, refused where an objective is made.

Each rule looks at one objective (or at one score of it) and returns one line, or None:
where, what, and what to write instead. The rules are data, so that docs and tests can
list them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from unipost.advantages import Given
from unipost.aggregation import Aggregation, Constant, Scaled, SequenceMean, SequenceSum
from unipost.classical import ReverseKL
from unipost.links import (
    Balance,
    Clipped,
    Contrast,
    Gain,
    Importance,
    Linear,
    Matching,
    Residual,
    RowLogistic,
    SoftGate,
    Weighted,
)
from unipost.pair_links import MarginLink, PairLink
from unipost.parametric import Alpha, LogOdds
from unipost.parts import concrete
from unipost.ratios import LengthDesensitised
from unipost.reference_points import OrderStatistics
from unipost.signals import Advantage, Chosen, Desirability, Ones, Preference, Raw
from unipost.weights import Truncate

if TYPE_CHECKING:
    from unipost.objective import Objective
    from unipost.score import Score


# links whose value is about 1 + z, the ratio
RATIO_LINKS = (Clipped, Importance, SoftGate)


def _name(part: object) -> str:
    return type(part).__name__


def flat_score(score: Score) -> str | None:
    """A divergence without curvature has a constant f': no gradient."""
    if score.divergence.curvature is None:
        return (
            f"divergence: {_name(score.divergence)} as a score has f' constant on each "
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
            f"{_name(score.link).lower()}, whose band assumes slope 1 at u = 1; write "
            "unit_curvature(pearson_chi2) and beta 1"
        )


def ratio_anchor(score: Score) -> str | None:
    """A ratio needs something to be a ratio to."""
    if isinstance(score.link, RATIO_LINKS) and score.anchor == "none":
        return (
            f"anchor: none with link {_name(score.link).lower()}, which is about a "
            "ratio; write old (or self when every batch is used once)"
        )


def uncentred_anchor(score: Score) -> str | None:
    """An uncentred f gives a non-zero implicit reward at u = 1."""
    if not score.divergence.centred and score.anchor != "none":
        return (
            f"anchor: {score.anchor} with {_name(score.divergence)}, whose f'(1) is "
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
            f"divergence: {_name(score.divergence)} to the reference on a pointwise "
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
    bare = link.over == "none" and isinstance(link.weight, Truncate)
    if bare and (concrete(link.weight.cap) or 0.0) > 1.0:
        return "link.weight.cap: a probability never exceeds 1; write cap: 1"


def unused_ratio(score: Score) -> str | None:
    """A treatment of the ratio to oneself, or of half a pair."""
    if score.ratio is None:
        return None
    if score.anchor == "self":
        return f"ratio: {_name(score.ratio)} with anchor self; write anchor: old"
    pair = isinstance(score.link, PairLink)
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


def pair_signal(o: Objective) -> str | None:
    """Pair links and preferences need each other."""
    pair, preference = isinstance(o.link, PairLink), isinstance(o.signal, Preference)
    if pair and not preference:
        return f"signal: {_name(o.signal)} with a pair link; write signal: preference"
    rows = isinstance(o.link, RowLogistic) or isinstance(o.signal, Chosen)
    if preference and not pair and not rows:
        return f"link: {_name(o.link)} on preferences; write link: logistic or squared"
    if pair and isinstance(o.signal, Chosen):
        return "signal: Chosen leaves nothing to compare; write signal: preference"


def pair_divergence(o: Objective) -> str | None:
    """f'(0+) = -inf is what lets the optimum keep every response."""
    if not isinstance(o.link, PairLink) or o.anchor == "none":
        return None
    slope = concrete(o.divergence.slope_at_zero)
    if slope is not None and slope > -math.inf:
        return (
            f"divergence: {_name(o.divergence)} as a preference link has finite f'(0+) "
            f"= {slope:g}: its optimum drops responses and the normaliser does not "
            "cancel; write chi2_kl (chi-PO) or alpha with 0 < a < 1"
        )


def pair_margin(o: Objective) -> str | None:
    """The normaliser cancels in a difference only."""
    if not isinstance(o.link, PairLink) or isinstance(o.link, MarginLink):
        return None
    if not isinstance(o.divergence, ReverseKL):
        return (
            f"divergence: {_name(o.divergence)} with link {_name(o.link)}, which sees "
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
            f"level: token with {_name(o.divergence)} needs the vocabulary correction "
            "c(s) = beta E_ref[f*(f'(u))]; write level: sequence, or gauge: vocabulary"
        )
    if o.level == "sequence_mean" and not kl:
        return (
            f"level: sequence_mean with {_name(o.divergence)}: the normaliser of a "
            "geometric-mean ratio does not cancel; write level: sequence"
        )


def pair_length(o: Objective) -> str | None:
    """A reward divided by its length has lost the constant that must cancel."""
    if isinstance(o.link, PairLink) and o.per == "length":
        if not isinstance(o.divergence, ReverseKL):
            return (
                f"per: length with {_name(o.divergence)}: the normaliser does not "
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
            f"anchor: none with {_name(o.divergence)}: f' of a bare probability is no "
            "implicit reward; write anchor: reference, or reverse_kl"
        )
    if o.anchor == "none" and o.level == "token":
        return "level: token with anchor none; write level: sequence"


def _inner(aggregation: Aggregation) -> Aggregation:
    scaled = isinstance(aggregation, Scaled)
    return _inner(aggregation.aggregation) if scaled else aggregation


def pair_aggregation(o: Objective) -> str | None:
    """The unit of a preference is the pair."""
    inner = _inner(o.aggregation)
    if isinstance(o.link, PairLink) and not isinstance(inner, SequenceMean):
        return (
            f"aggregation: {_name(o.aggregation)} on pairs, whose mean is over pairs; "
            "write aggregation: sequence_mean"
        )


def sequence_aggregation(o: Objective) -> str | None:
    """A sequence-level loss is one number per row already."""
    inner = _inner(o.aggregation)
    if o.level != "token" and isinstance(inner, (SequenceSum, Constant)):
        return (
            f"aggregation: {_name(o.aggregation)} would multiply a loss of level "
            f"{o.level} by its length; write sequence_mean or token_mean"
        )


def matching_score(o: Objective) -> str | None:
    """The identity r = beta log u + V - V' is that of a KL-regularised policy."""
    if not isinstance(o.link, Matching):
        return None
    if not isinstance(o.divergence, ReverseKL):
        return (
            f"divergence: {_name(o.divergence)} with link matching, whose reward is "
            "beta log u; write reverse_kl here and swap link.divergence"
        )
    if o.anchor in ("none", "self"):
        return f"anchor: {o.anchor} with link matching; write anchor: reference"
    if o.level != "token":
        return f"level: {o.level} with link matching; write level: token"
    if not isinstance(o.signal, Ones):
        return f"signal: {_name(o.signal)} with link matching; write signal: ones"


def matching_divergence(o: Objective) -> str | None:
    """phi'(0) = 1 is what makes f-SFT equal SFT at the reference."""
    if not isinstance(o.link, Matching):
        return None
    f = o.link.divergence
    slope = concrete(f.slope_at_zero)
    if not f.centred or (slope is not None and slope >= 0):
        return (
            f"link.divergence: {_name(f)} has phi'(0) != 1: nothing is learned at the "
            "reference; write total_variation, pearson_chi2 or squared_hellinger"
        )


def gauge_link(o: Objective) -> str | None:
    """The value gauge is part of the implicit reward of demonstrations."""
    if o.gauge == "vocabulary":
        if not isinstance(o.link, PairLink) or o.level != "token":
            return "gauge: vocabulary is for token-level pairs; write gauge: zero"
    elif o.gauge != "zero" and not isinstance(o.link, Matching):
        return f"gauge: {o.gauge} without link matching cancels; write gauge: zero"


def process_level(o: Objective) -> str | None:
    """A sequence has one signal, process supervision one per step."""
    if o.level == "token":
        return None
    if isinstance(o.signal, Advantage) and o.signal.supervision == "process":
        return f"level: {o.level} with process supervision; write level: token"
    if o.signal.token_rewards:
        return f"level: {o.level} with signal {_name(o.signal)}; write level: token"


def in_reward_signal(o: Objective) -> str | None:
    """A penalty in the reward needs a reward to be in."""
    if o.penalty is None or o.penalty.estimator != "in_reward":
        return None
    if o.signal.token_rewards:
        if not isinstance(o.penalty.divergence, ReverseKL):
            return (
                f"penalty.divergence: {_name(o.penalty.divergence)} in token rewards: "
                "the tokens to come need f(u)/u; write gradient: to_go with k3"
            )
        return None
    if "rewards" not in o.signal.needs or isinstance(o.signal, Desirability):
        return (
            f"penalty.estimator: in_reward with signal {_name(o.signal)}, which has no "
            "reward; write k2 or exact"
        )
    if getattr(o.signal, "supervision", "outcome") == "process":
        return (
            "penalty.estimator: in_reward is one number per sequence, the rewards are "
            "per step; write k2 or importance_k3"
        )


def mixed_groups(o: Objective) -> str | None:
    """Demonstrations join a group through its advantage."""
    if o.off_policy is None:
        return None
    if isinstance(o.signal, (Ones, Preference, Desirability)):
        return f"off_policy: with signal {_name(o.signal)}; write signal: mean"
    for where, score in (("link", o), ("off_policy.link", o.off_policy)):
        if isinstance(score.link, (PairLink, Matching)):
            return f"{where}: {_name(score.link)} in a mixed group; write linear"
    if o.off_policy.level != o.level:
        return f"off_policy.level: {o.off_policy.level}; write {o.level}, as the rest"


def zero_entropy(o: Objective) -> str | None:
    """A bonus of 0 would still compute entropies."""
    bonus = concrete(o.entropy_bonus)
    if bonus is not None and (bonus == 0.0 or not math.isfinite(bonus)):
        return f"entropy_bonus: {bonus:g}; write a number, or null for none"


def reference_unit(o: Objective) -> str | None:
    """A reference point is one number per row."""
    if o.reference_point is None:
        return None
    if o.level == "token":
        return "level: token with a reference point; write level: sequence"
    if not isinstance(o.divergence, ReverseKL) or o.anchor != "reference":
        return (
            f"reference_point: {_name(o.reference_point)} is a log-ratio to the "
            "reference; write divergence: reverse_kl and anchor: reference"
        )
    margins = isinstance(o.reference_point, OrderStatistics)
    rows = isinstance(o.link, RowLogistic)
    if margins and (o.reference_point.of == "rows") != rows:
        return (
            f"reference_point.of: {o.reference_point.of} with link {_name(o.link)}; "
            "write margins with a pair link, rows with row_logistic"
        )
    if isinstance(o.link, MarginLink) and not margins:
        return f"reference_point: {_name(o.reference_point)} cancels in a margin; null"


def group_links(o: Objective) -> str | None:
    """A link that centres over the group needs rewards that are not centred twice."""
    grouped = isinstance(o.link, (Balance, Contrast))
    grouped = grouped or (isinstance(o.link, Residual) and o.link.centre == "group")
    if not grouped:
        return None
    if o.level == "token":
        return f"level: token with link {_name(o.link)}; write level: sequence"
    if not isinstance(o.signal, (Raw, Given)):
        return (
            f"signal: {_name(o.signal)} with link {_name(o.link)}, which subtracts the "
            "group's mean itself; write signal: raw"
        )


def gain_signal(o: Objective) -> str | None:
    """KTO's value needs labels, and labels need it."""
    gain, labels = isinstance(o.link, Gain), isinstance(o.signal, Desirability)
    if gain and isinstance(o.signal, (Ones, Preference)):
        return f"signal: {_name(o.signal)} with link gain; write signal: desirability"
    if labels and not isinstance(o.link, (Gain, RowLogistic)):
        return f"link: {_name(o.link)} with signal desirability; write link: gain"


OBJECTIVE_RULES: tuple[Callable[[Objective], str | None], ...] = (
    pair_signal,
    pair_divergence,
    pair_margin,
    pair_level,
    pair_length,
    pair_anchor,
    pair_aggregation,
    matching_score,
    matching_divergence,
    gauge_link,
    process_level,
    sequence_aggregation,
    in_reward_signal,
    mixed_groups,
    reference_unit,
    group_links,
    gain_signal,
    zero_entropy,
)


def refusals(objective: Objective) -> Iterator[tuple[str, str]]:
    """(name of the rule, one line) for every reason that `objective` has no meaning."""
    for rule in OBJECTIVE_RULES:
        if reason := rule(objective):
            yield rule.__name__, reason
    for prefix, score in (("", objective), ("off_policy.", objective.off_policy)):
        for rule in SCORE_RULES if score is not None else ():
            if score is not None and (reason := rule(score)):
                yield rule.__name__, prefix + reason


def check(objective: Objective) -> None:
    """Raise ValueError with the first refusal that is not waived."""
    found = list(refusals(objective))
    for name, reason in found:
        if name not in objective.waived:
            raise ValueError(f"objective.{reason}")
    for name in objective.waived:
        if name not in {rule for rule, _ in found}:
            raise ValueError(
                f"objective.waived: {name} refuses nothing here; leave it out"
            )
