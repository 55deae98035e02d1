"""One refused combination per rule: what the docs show and the tests try."""

from __future__ import annotations

from collections.abc import Callable

from unipost.advantages import GAE
from unipost.aggregation import SequenceMean, SequenceSum, TokenMean
from unipost.classical import (
    ForwardKL,
    JensenShannon,
    PearsonChi2,
    SquaredHellinger,
    TotalVariation,
)
from unipost.corrections import SamplerCorrection, TopEntropy
from unipost.divergence import Divergence
from unipost.links import Balance, Clipped, Gain, Linear, Matching, Weighted
from unipost.objective import Objective
from unipost.pair_links import AnchoredUp, Logistic
from unipost.parametric import HockeyStick, Shaping, unit_curvature
from unipost.penalties import Penalty
from unipost.ratios import GeometricClip
from unipost.reference_points import MismatchedMean
from unipost.score import Score
from unipost.signals import Mean, Ones, Preference, ZScore
from unipost.weights import Truncate

RATIO = unit_curvature(PearsonChi2())


def _pair(divergence: Divergence = JensenShannon(), **parts) -> Objective:
    """f-DPO with some parts replaced."""
    own = {
        "anchor": "reference",
        "level": "sequence",
        "link": Logistic(),
        "signal": Preference(),
        "aggregation": SequenceMean(),
    }
    return Objective(divergence, **(own | parts))


def _matching(**parts) -> Objective:
    """f-SFT with some parts replaced."""
    return Objective(
        **({"anchor": "reference", "link": Matching(PearsonChi2())} | parts)
    )


EXAMPLES: dict[str, Callable[[], Objective]] = {
    "flat_score": lambda: Objective(TotalVariation(), anchor="old", signal=Mean()),
    "ratio_slope": lambda: Objective(
        PearsonChi2(), anchor="old", link=Clipped(), signal=Mean()
    ),
    "ratio_anchor": lambda: Objective(RATIO, link=Clipped(), signal=Mean()),
    "uncentred_anchor": lambda: Objective(Shaping(), anchor="old", signal=Mean()),
    "pointwise_normaliser": lambda: Objective(
        ForwardKL(), anchor="reference", signal=Mean()
    ),
    "redundant_weight": lambda: Objective(link=Weighted(Truncate(2.0), over="none")),
    "unused_ratio": lambda: Objective(
        RATIO, anchor="self", ratio=GeometricClip(), link=Clipped(), signal=Mean()
    ),
    "length_level": lambda: Objective(per="length"),
    "unused_clamp": lambda: Objective(clamp=20.0),
    "pair_signal": lambda: _pair(signal=Ones()),
    "pair_divergence": lambda: _pair(PearsonChi2()),
    "pair_margin": lambda: _pair(link=AnchoredUp()),
    "pair_level": lambda: _pair(level="token"),
    "pair_length": lambda: _pair(per="length"),
    "pair_anchor": lambda: _pair(anchor="none"),
    "pair_aggregation": lambda: _pair(aggregation=TokenMean()),
    "matching_score": lambda: _matching(divergence=SquaredHellinger()),
    "matching_divergence": lambda: _matching(link=Matching(HockeyStick(1.5))),
    "gauge_link": lambda: Objective(gauge="lse"),
    "process_level": lambda: Objective(
        level="sequence", signal=GAE(), aggregation=SequenceMean()
    ),
    "sequence_aggregation": lambda: Objective(
        level="sequence", signal=Mean(), aggregation=SequenceSum()
    ),
    "in_reward_signal": lambda: Objective(penalty=Penalty(0.1, estimator="in_reward")),
    "mixed_groups": lambda: Objective(
        signal=Mean(), off_policy=Score(level="sequence", link=Linear())
    ),
    "reference_unit": lambda: _pair(reference_point=MismatchedMean()),
    "group_links": lambda: Objective(
        anchor="reference",
        level="sequence",
        link=Balance(JensenShannon()),
        signal=ZScore(),
        aggregation=SequenceMean(),
    ),
    "gain_signal": lambda: Objective(
        anchor="reference", level="sequence", link=Gain(), aggregation=SequenceMean()
    ),
    "correction_unit": lambda: _pair(corrections=(TopEntropy(0.2),)),
    "double_correction": lambda: Objective(
        RATIO,
        anchor="behavior",
        link=Clipped(),
        signal=Mean(),
        corrections=(SamplerCorrection(),),
    ),
    "zero_entropy": lambda: Objective(entropy_bonus=0.0),
}
