"""Refusals of what does not fit together in an objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from unipost.advantages import Given
from unipost.aggregation import Constant, SequenceSum
from unipost.classical import ReverseKL
from unipost.corrections import SamplerCorrection, TopEntropy
from unipost.links import (
    Balance,
    Contrast,
    Gain,
    Matching,
    Residual,
    RowLogistic,
)
from unipost.mixed_groups import DemonstrationRows, OwnRows, content
from unipost.pair_links import MarginLink, PairLink
from unipost.parts import concrete
from unipost.reference_points import OrderStatistics
from unipost.refusals.pairs import inner_of
from unipost.refusals.scores import kind
from unipost.signals import Advantage, Desirability, Ones, Preference, Raw

if TYPE_CHECKING:
    from unipost.objective import Objective


def matching_score(o: Objective) -> str | None:
    """The identity r = beta log u + V - V' is that of a KL-regularised policy."""
    if not isinstance(o.link, Matching):
        return None
    if not isinstance(o.divergence, ReverseKL):
        return (
            f"divergence: {kind(o.divergence)} with link matching, whose reward is "
            "beta log u; write reverse_kl here and swap link.divergence"
        )
    if o.anchor in ("none", "self"):
        return f"anchor: {o.anchor} with link matching; write anchor: reference"
    if o.level != "token":
        return f"level: {o.level} with link matching; write level: token"
    if not isinstance(content(o.signal), Ones):
        return f"signal: {kind(o.signal)} with link matching; write signal: ones"


def matching_divergence(o: Objective) -> str | None:
    """phi'(0) = 1 is what makes f-SFT equal SFT at the reference."""
    if not isinstance(o.link, Matching):
        return None
    f = o.link.divergence
    slope = concrete(f.slope_at_zero)
    if not f.centred or (slope is not None and slope >= 0):
        return (
            f"link.divergence: {kind(f)} has phi'(0) != 1: nothing is learned at the "
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
    signal = content(o.signal)
    if isinstance(signal, Advantage) and signal.supervision == "process":
        return f"level: {o.level} with process supervision; write level: token"
    if o.signal.token_rewards:
        return f"level: {o.level} with signal {kind(o.signal)}; write level: token"


def sequence_aggregation(o: Objective) -> str | None:
    """A sequence-level loss is one number per row already."""
    inner = inner_of(o.aggregation)
    if o.level != "token" and isinstance(inner, (SequenceSum, Constant)):
        return (
            f"aggregation: {kind(o.aggregation)} would multiply a loss of level "
            f"{o.level} by its length; write sequence_mean or token_mean"
        )


def in_reward_signal(o: Objective) -> str | None:
    """A penalty in the reward needs a reward to be in."""
    if o.penalty is None or o.penalty.estimator != "in_reward":
        return None
    if o.signal.token_rewards:
        if not isinstance(o.penalty.divergence, ReverseKL):
            return (
                f"penalty.divergence: {kind(o.penalty.divergence)} in token rewards: "
                "the tokens to come need f(u)/u; write gradient: to_go with k3"
            )
        return None
    scored = content(o.signal).needs & {"rewards", "components"}
    if not scored or isinstance(o.signal, Desirability):
        return (
            f"penalty.estimator: in_reward with signal {kind(o.signal)}, which has no "
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
        return f"off_policy: with signal {kind(o.signal)}; write signal: mean"
    if isinstance(o.signal, (OwnRows, DemonstrationRows)):
        return (
            f"off_policy: with signal {kind(o.signal)}, which leaves one kind of row "
            "out; write off_policy: null, and the score in its place"
        )
    for where, score in (("link", o), ("off_policy.link", o.off_policy)):
        if isinstance(score.link, (PairLink, Matching)):
            return f"{where}: {kind(score.link)} in a mixed group; write linear"
    if o.off_policy.level != o.level:
        return f"off_policy.level: {o.off_policy.level}; write {o.level}, as the rest"


def reference_unit(o: Objective) -> str | None:
    """A reference point is one number per row."""
    if o.reference_point is None:
        if isinstance(o.link, RowLogistic):
            return (
                "reference_point: null with link RowLogistic, which doubles the "
                "gradient for every row's partner; write order_statistics of rows"
            )
        return None
    if o.level == "token":
        return "level: token with a reference point; write level: sequence"
    if not isinstance(o.divergence, ReverseKL) or o.anchor != "reference":
        return (
            f"reference_point: {kind(o.reference_point)} is a log-ratio to the "
            "reference; write divergence: reverse_kl and anchor: reference"
        )
    point, rows = o.reference_point, isinstance(o.link, RowLogistic)
    margins = isinstance(point, OrderStatistics)
    if isinstance(point, OrderStatistics) and (point.of == "rows") != rows:
        return (
            f"reference_point.of: {point.of} with link {kind(o.link)}; "
            "write margins with a pair link, rows with row_logistic"
        )
    if isinstance(o.link, MarginLink) and not margins:
        return f"reference_point: {kind(o.reference_point)} cancels in a margin; null"


def group_links(o: Objective) -> str | None:
    """A link that centres over the group needs rewards that are not centred twice."""
    grouped = isinstance(o.link, (Balance, Contrast))
    grouped = grouped or (isinstance(o.link, Residual) and o.link.centre == "group")
    if not grouped:
        return None
    if o.level == "token":
        return f"level: token with link {kind(o.link)}; write level: sequence"
    if not isinstance(content(o.signal), (Raw, Given)):
        return (
            f"signal: {kind(o.signal)} with link {kind(o.link)}, which subtracts the "
            "group's mean itself; write signal: raw"
        )


def gain_signal(o: Objective) -> str | None:
    """KTO's value needs labels, and labels need it."""
    gain, labels = isinstance(o.link, Gain), isinstance(o.signal, Desirability)
    if gain and isinstance(content(o.signal), (Ones, Preference)):
        return f"signal: {kind(o.signal)} with link gain; write signal: desirability"
    if labels and not gain:
        return f"link: {kind(o.link)} with signal desirability; write link: gain"


def correction_unit(o: Objective) -> str | None:
    """A pair has one weight, not one per token."""
    if not isinstance(o.link, PairLink):
        return None
    for each in o.corrections:
        tokens = isinstance(each, SamplerCorrection) and each.level == "token"
        if tokens or isinstance(each, TopEntropy):
            return (
                f"corrections: {kind(each)} weighs tokens, a pair has one weight; "
                "write level: sequence, or confidence"
            )


def double_correction(o: Objective) -> str | None:
    """A ratio to the sampler needs no second one."""
    kinds = [kind(each) for each in o.corrections]
    for name in kinds:
        if kinds.count(name) > 1:
            return f"corrections: {name} twice; write it once"
    over = getattr(o.link, "over", "none")
    if "SamplerCorrection" in kinds and "behavior" in (o.anchor, over):
        return (
            "corrections: SamplerCorrection with a ratio to behavior weighs by the "
            "sampler twice; write anchor: old"
        )


def zero_entropy(o: Objective) -> str | None:
    """A bonus of 0 would still compute entropies."""
    bonus = concrete(o.entropy_bonus)
    if bonus is not None and (bonus == 0.0 or not math.isfinite(bonus)):
        return f"entropy_bonus: {bonus:g}; write a number, or null for none"


FIT_RULES: tuple[Callable[[Objective], str | None], ...] = (
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
    correction_unit,
    double_correction,
    zero_entropy,
)
