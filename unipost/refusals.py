"""Combinations without meaning, refused where an objective is made.

Each rule looks at one objective (or at one score of it) and returns one line, or None:
where, what, and what to write instead. The rules are data, so that docs and tests can
list them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from unipost.aggregation import Constant, SequenceMean, SequenceSum
from unipost.classical import ReverseKL
from unipost.links import Clipped, Importance, Linear, Matching, PairLink, Truncated
from unipost.parts import concrete
from unipost.signals import Advantage, Ones, Preference

if TYPE_CHECKING:
    from unipost.objective import Objective
    from unipost.score import Score


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
    if not isinstance(score.link, (Clipped, Importance)):
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
    if isinstance(score.link, (Clipped, Importance)) and score.anchor == "none":
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
        isinstance(score.link, (Linear, Truncated))
        and score.anchor == "reference"
        and not isinstance(score.divergence, ReverseKL)
    ):
        return (
            f"divergence: {_name(score.divergence)} to the reference on a pointwise "
            "link, where the normaliser lambda(x) does not cancel; write a pair link, "
            "or reverse_kl with a penalty in this divergence"
        )


def truncated_weight(score: Score) -> str | None:
    """A truncation that can never bind is a setting that changes nothing."""
    if not isinstance(score.link, Truncated):
        return None
    if score.link.over == "self":
        return "link.over: self makes the weight 1; write link: linear"
    if score.link.over == score.anchor != "none":
        return (
            f"anchor: {score.anchor} is the ratio that link.over weighs by already; "
            "write anchor: none"
        )
    if score.link.over == "none" and (concrete(score.link.cap) or 0.0) > 1.0:
        return "link.cap: a probability never exceeds a cap above 1; write cap: 1"


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
    truncated_weight,
    unused_clamp,
)


def pair_signal(o: Objective) -> str | None:
    """Pair links and preferences need each other."""
    pair, preference = isinstance(o.link, PairLink), isinstance(o.signal, Preference)
    if pair and not preference:
        return f"signal: {_name(o.signal)} with a pair link; write signal: preference"
    if preference and not pair:
        return f"link: {_name(o.link)} on preferences; write link: logistic or squared"


def pair_divergence(o: Objective) -> str | None:
    """f'(0+) = -inf is what lets the optimum keep every response."""
    if not isinstance(o.link, PairLink):
        return None
    slope = concrete(o.divergence.slope_at_zero)
    if slope is not None and slope > -math.inf:
        return (
            f"divergence: {_name(o.divergence)} as a preference link has finite f'(0+) "
            f"= {slope:g}: its optimum drops responses and the normaliser does not "
            "cancel; write chi2_kl (chi-PO) or alpha with 0 < a < 1"
        )


def pair_level(o: Objective) -> str | None:
    """Token-level implicit rewards telescope for KL only."""
    if not isinstance(o.link, PairLink):
        return None
    kl = isinstance(o.divergence, ReverseKL)
    if o.level == "token" and kl:
        return "level: token sums to the sequence for reverse_kl; write level: sequence"
    if o.level == "token":
        return (
            f"level: token with {_name(o.divergence)} needs the vocabulary correction "
            "c(s) = beta E_ref[f*(f'(u))]; write level: sequence"
        )
    if o.level == "sequence_mean" and not kl:
        return (
            f"level: sequence_mean with {_name(o.divergence)}: the normaliser of a "
            "geometric-mean ratio does not cancel; write level: sequence"
        )


def pair_anchor(o: Objective) -> str | None:
    """A preference compares implicit rewards, which are relative to a reference."""
    if not isinstance(o.link, PairLink):
        return None
    if o.anchor == "self":
        return "anchor: self makes every margin 0; write anchor: reference"
    if o.anchor == "none" and not isinstance(o.divergence, ReverseKL):
        return (
            f"anchor: none with {_name(o.divergence)}: f' of a bare probability is no "
            "implicit reward; write anchor: reference, or reverse_kl"
        )


def pair_aggregation(o: Objective) -> str | None:
    """The unit of a preference is the pair."""
    if isinstance(o.link, PairLink) and not isinstance(o.aggregation, SequenceMean):
        return (
            f"aggregation: {_name(o.aggregation)} on pairs, whose mean is over pairs; "
            "write aggregation: sequence_mean"
        )


def sequence_aggregation(o: Objective) -> str | None:
    """A sequence-level loss is one number per row already."""
    if o.level != "token" and isinstance(o.aggregation, (SequenceSum, Constant)):
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
    if o.gauge != "zero" and not isinstance(o.link, Matching):
        return f"gauge: {o.gauge} without link matching cancels; write gauge: zero"


def process_level(o: Objective) -> str | None:
    """A sequence has one signal, process supervision one per step."""
    if isinstance(o.signal, Advantage) and o.signal.supervision == "process":
        if o.level != "token":
            return f"level: {o.level} with process supervision; write level: token"


def in_reward_signal(o: Objective) -> str | None:
    """A penalty in the reward needs a reward to be in."""
    if o.penalty is None or o.penalty.estimator != "in_reward":
        return None
    if not isinstance(o.signal, Advantage):
        return (
            f"penalty.estimator: in_reward with signal {_name(o.signal)}, which has no "
            "reward; write k2 or exact"
        )
    if o.signal.supervision == "process":
        return (
            "penalty.estimator: in_reward is one number per sequence, the rewards are "
            "per step; write k2 or importance_k3"
        )


def mixed_groups(o: Objective) -> str | None:
    """Demonstrations join a group through its advantage."""
    if o.off_policy is None:
        return None
    if not isinstance(o.signal, Advantage):
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


OBJECTIVE_RULES: tuple[Callable[[Objective], str | None], ...] = (
    pair_signal,
    pair_divergence,
    pair_level,
    pair_anchor,
    pair_aggregation,
    matching_score,
    matching_divergence,
    gauge_link,
    process_level,
    sequence_aggregation,
    in_reward_signal,
    mixed_groups,
    zero_entropy,
)


def refusals(objective: Objective) -> Iterator[str]:
    """Every reason why `objective` has no meaning, one line each."""
    for rule in OBJECTIVE_RULES:
        if reason := rule(objective):
            yield reason
    for prefix, score in (("", objective), ("off_policy.", objective.off_policy)):
        for rule in SCORE_RULES if score is not None else ():
            if score is not None and (reason := rule(score)):
                yield prefix + reason


def check(objective: Objective) -> None:
    """Raise ValueError with the first refusal."""
    for reason in refusals(objective):
        raise ValueError(f"objective.{reason}")
