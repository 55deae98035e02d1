"""Objects that must be refused, under words of the one line that says why."""

import math
from dataclasses import replace

from unipost import Mixture, Objective, Penalty, Score, presets
from unipost.advantages import (
    GAE,
    Exponential,
    OptimalValue,
    Returns,
    Shifted,
    Standardised,
)
from unipost.aggregation import (
    Constant,
    Scaled,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from unipost.annealed import Annealed
from unipost.baselines import BestResponse, InformativeMean
from unipost.classical import (
    ForwardKL,
    JensenShannon,
    PearsonChi2,
    ReverseKL,
    TotalVariation,
)
from unipost.components import NormaliseThenSum, SumThenNormalise
from unipost.corrections import (
    EntropyWeight,
    GivenWeight,
    SamplerCorrection,
    StaleMask,
    TopEntropy,
)
from unipost.links import (
    Balance,
    Clipped,
    Contrast,
    Gain,
    Importance,
    Residual,
    RowLogistic,
    SoftGate,
    Weighted,
)
from unipost.mixed_groups import (
    DemonstrationRows,
    Gate,
    Outcome,
    OwnRows,
    SwitchedRows,
)
from unipost.pair_links import (
    BinaryClassifier,
    DiscoPOP,
    Exo,
    Logistic,
    NoiseContrastive,
    RobustLogistic,
    SelfPlay,
    Squared,
)
from unipost.parametric import (
    Alpha,
    HockeyStick,
    Shaping,
    SkewJensenShannon,
    unit_curvature,
)
from unipost.ratios import GeometricClip, LengthDesensitised
from unipost.reference_points import MismatchedMean, OrderStatistics
from unipost.signals import (
    BatchZScore,
    Chosen,
    Desirability,
    LeaveOneOut,
    Mean,
    Ones,
    Preference,
    Raw,
    ZScore,
)
from unipost.vocabulary import Distillation, Gem
from unipost.weights import GammaWeight, Keep, Mask, NegativeTruncate, Truncate

JS, KL, PEARSON, TV = JensenShannon(), ReverseKL(), PearsonChi2(), TotalVariation()
PROCESS = ZScore(supervision="process")
INF = math.inf


def pair(**parts):
    """DPO with some parts replaced."""
    return replace(presets.dpo(), **parts)


def ratio(**parts):
    """DAPO with some parts replaced."""
    return replace(presets.dapo(), **parts)


def matching(**parts):
    return replace(presets.f_sft(PEARSON), **parts)


def free(**parts):
    """A policy gradient with some parts replaced."""
    return Objective(**({"signal": Mean()} | parts))


def rows(**parts):
    """A pointwise objective of whole responses against the reference."""
    own = {"anchor": "reference", "level": "sequence", "signal": Raw()}
    return Objective(**(own | {"aggregation": SequenceMean()} | parts))


def penalty(*kinds, **settings):
    return Penalty(0.1, KL, *kinds, **settings)


SCORES = {
    "divergence: TotalVariation as a score has f' constant": lambda: free(
        divergence=TV, anchor="old"
    ),
    "beta f''(1) = 2 with link clipped": lambda: ratio(divergence=PEARSON),
    "beta f''(1) = 0.5 with link importance": lambda: ratio(
        link=Importance(), beta=0.5
    ),
    "anchor: none with link softgate": lambda: ratio(
        link=SoftGate(), anchor="none", clamp=None
    ),
    "anchor: old with Shaping, whose f'(1)": lambda: free(
        divergence=Shaping(), anchor="old"
    ),
    "lambda(x) does not cancel; write a pair link": lambda: free(
        divergence=ForwardKL(), anchor="reference"
    ),
    "link.over: self makes the weight constant": lambda: free(
        link=Weighted(Truncate(1.0), "self")
    ),
    "anchor: old is the ratio that link.over weighs by already": lambda: free(
        link=Weighted(Truncate(1.0)), anchor="old"
    ),
    "link.level: token is the score's; write": lambda: free(
        link=Weighted(Truncate(1.0), level="token")
    ),
    "link.weight.cap: a probability never exceeds": lambda: free(
        link=Weighted(Truncate(2.0), "none")
    ),
    "ratio: GeometricClip with anchor self": lambda: ratio(
        ratio=GeometricClip(), anchor="self", clamp=None
    ),
    "ratio: LengthDesensitised without a pair": lambda: ratio(
        ratio=LengthDesensitised(0.5)
    ),
    "per: length at level token": lambda: free(per="length"),
    "clamp: has no effect with anchor none": lambda: free(clamp=20.0),
    "off_policy.divergence: beta f''(1) = 2 with link clipped": lambda: free(
        off_policy=Score(PEARSON, anchor="old", link=Clipped())
    ),
    "objective.waived: pair_level refuses nothing here": lambda: pair(
        waived=("pair_level",)
    ),
}
PAIRS = {
    "signal: Ones with a pair link": lambda: pair(signal=Ones()),
    "link: Linear on preferences": lambda: free(signal=Preference()),
    "signal: Chosen leaves nothing to compare": lambda: pair(signal=Chosen()),
    "PearsonChi2 as a preference link has finite f'(0+) = -2": lambda: presets.f_dpo(
        PEARSON
    ),
    "Alpha as a preference link has finite f'(0+) = -1": lambda: presets.f_dpo(
        Alpha(-1.0)
    ),
    "NoiseContrastive, which sees each reward by itself": lambda: pair(
        link=NoiseContrastive(), divergence=JS
    ),
    "level: token sums to the sequence for reverse_kl": lambda: pair(level="token"),
    "level: token with JensenShannon needs the vocabulary": lambda: pair(
        divergence=JS, level="token"
    ),
    "level: sequence_mean with JensenShannon": lambda: pair(
        divergence=JS, level="sequence_mean"
    ),
    "per: length with JensenShannon": lambda: pair(divergence=JS, per="length"),
    "anchor: self makes every margin 0": lambda: pair(anchor="self"),
    "anchor: none with JensenShannon": lambda: pair(divergence=JS, anchor="none"),
    "level: token with anchor none": lambda: pair(anchor="none", level="token"),
    "aggregation: TokenMean on pairs": lambda: pair(aggregation=TokenMean()),
    "aggregation: Scaled on pairs": lambda: pair(
        aggregation=Scaled(SequenceSum(), 0.5)
    ),
}
FITS = {
    "divergence: JensenShannon with link matching": lambda: matching(divergence=JS),
    "anchor: none with link matching": lambda: matching(anchor="none"),
    "level: sequence with link matching": lambda: matching(level="sequence"),
    "signal: Mean with link matching": lambda: matching(signal=Mean()),
    "link.divergence: HockeyStick has phi'(0) != 1": lambda: presets.f_sft(
        HockeyStick(1.5)
    ),
    "link.divergence: Shaping has phi'(0) != 1": lambda: presets.f_sft(Shaping()),
    "gauge: vocabulary is for token-level pairs": lambda: pair(gauge="vocabulary"),
    "gauge: lse without link matching": lambda: free(gauge="lse"),
    "level: sequence with process supervision": lambda: rows(signal=PROCESS),
    "level: sequence with signal Returns": lambda: rows(signal=Returns()),
    "aggregation: SequenceSum would multiply": lambda: rows(aggregation=SequenceSum()),
    "aggregation: Constant would multiply": lambda: rows(aggregation=Constant(8.0)),
    "in_reward with signal Ones, which has no reward": lambda: free(
        signal=Ones(), penalty=penalty("in_reward")
    ),
    "in_reward is one number per sequence": lambda: free(
        signal=PROCESS, penalty=penalty("in_reward")
    ),
    "penalty.divergence: JensenShannon in token rewards": lambda: free(
        signal=GAE(), penalty=Penalty(0.1, JS, "in_reward")
    ),
    "off_policy: with signal Ones": lambda: free(signal=Ones(), off_policy=Score()),
    "off_policy: with signal OwnRows, which leaves": lambda: free(
        signal=OwnRows(), off_policy=Score()
    ),
    "in_reward with signal DemonstrationRows, which has no": lambda: free(
        signal=DemonstrationRows(gate=Gate()), penalty=penalty("in_reward")
    ),
    "off_policy.link: Logistic in a mixed group": lambda: free(
        off_policy=Score(link=Logistic())
    ),
    "off_policy.level: sequence; write token": lambda: free(
        off_policy=Score(level="sequence")
    ),
    "level: token with a reference point": lambda: free(
        reference_point=MismatchedMean()
    ),
    "reference_point: null with link RowLogistic": lambda: rows(
        signal=Desirability(), link=RowLogistic()
    ),
    "MismatchedMean is a log-ratio to the reference": lambda: rows(
        anchor="old", link=Gain(), reference_point=MismatchedMean()
    ),
    "reference_point.of: rows with link Logistic": lambda: pair(
        reference_point=OrderStatistics("rows")
    ),
    "MismatchedMean cancels in a margin": lambda: pair(
        reference_point=MismatchedMean()
    ),
    "level: token with link Balance": lambda: free(signal=Raw(), link=Balance(KL)),
    "which subtracts the group's mean itself": lambda: rows(
        signal=Mean(), link=Residual("group")
    ),
    "signal: Ones with link gain": lambda: rows(signal=Ones(), link=Gain()),
    "link: Linear with signal desirability": lambda: rows(signal=Desirability()),
    "TopEntropy weighs tokens, a pair has one weight": lambda: pair(
        corrections=(TopEntropy(0.2),)
    ),
    "SamplerCorrection weighs tokens, a pair has one": lambda: pair(
        corrections=(SamplerCorrection(),)
    ),
    "corrections: GivenWeight twice": lambda: ratio(
        corrections=(GivenWeight(), GivenWeight())
    ),
    "with a ratio to behavior weighs by the sampler twice": lambda: ratio(
        anchor="behavior", corrections=(SamplerCorrection(),)
    ),
    "entropy_bonus: 0; write a number, or null": lambda: free(entropy_bonus=0.0),
}
PENALTIES = {
    "penalty.divergence: Shaping": lambda: Penalty(0.1, Shaping()),
    "penalty.estimator: k1 of TotalVariation": lambda: Penalty(0.1, TV, "k1"),
    "penalty.gradient: k2 is the estimator's": lambda: penalty("k2", "k2"),
    "importance: sequence without importance_k2": lambda: penalty(
        "k3", importance="sequence"
    ),
    "over: self without importance_k2": lambda: penalty("k3", over="self"),
    "to_go at level sequence, which has it": lambda: penalty("k3", "to_go", "sequence"),
    "bound: with the gradient to_go": lambda: penalty("k3", "to_go", bound=1.0),
    "gradient: k2 with exact; write gradient: own": lambda: penalty("exact", "k2"),
    "level: sequence with in_reward is fixed": lambda: penalty(
        "in_reward", level="sequence"
    ),
    "bound: with exact bounds nothing": lambda: penalty("exact", bound=1.0),
    "clamp: with in_reward clamps nothing": lambda: penalty("in_reward", clamp=1.0),
    "importance: token at level sequence": lambda: penalty(
        "importance_k3", level="sequence"
    ),
    "kl: 0 changes nothing; write kl: null": lambda: presets.grpo(kl=0.0),
    "estimator: k2 without a KL": lambda: presets.grpo(kl=None, estimator="k2"),
}
MADE_OF = {
    "mixture: 1 terms and 1 weights": lambda: Mixture((presets.dpo(),), (1.0,)),
    "mixture.weights.1: 0 is not positive": lambda: presets.cpo(nll=0.0),
    "balance.divergence: Shaping": lambda: presets.f_tb(Shaping()),
    "distillation.divergence: Shaping": lambda: Distillation(Shaping()),
    "unit_curvature: TotalVariation() has no curvature": lambda: unit_curvature(TV),
    "leave_one_out.supervision: which steps": lambda: LeaveOneOut("process"),
    "standardised.supervision: outcome of an advantage": lambda: Standardised(PROCESS),
    "normalise_then_sum.advantage: process": lambda: NormaliseThenSum(PROCESS),
    "sum_then_normalise.clip: 1 is not below 0": lambda: SumThenNormalise(
        clip=(1.0, 0.0)
    ),
    "luffy: the loss is divided by max_length or": lambda: presets.luffy(),
    "luffy.off_clip: the shaped ratio is not 1": lambda: presets.luffy(
        8.0, off_clip=0.2
    ),
    "hpt: the loss is divided by max_length or": lambda: presets.hpt(),
    "OwnRows.signal: Preference inside a selection": lambda: OwnRows(Preference()),
    "SwitchedRows.signal: OwnRows inside": lambda: SwitchedRows(OwnRows()),
    "DemonstrationRows.signal: GAE inside": lambda: DemonstrationRows(GAE()),
    "luffy: the loss is divided by max_length": lambda: presets.luffy(
        8.0, aggregation=TokenMean()
    ),
}
NUMBERS = {
    "beta: -1 is not positive": lambda: presets.dpo(-1.0),
    "beta: None is not a number": lambda: free(beta=None),
    "clamp: 0 is not positive": lambda: ratio(clamp=0.0),
    "penalty.weight: 0 is not positive": lambda: Penalty(0.0),
    "penalty.bound: 0 is not positive": lambda: Penalty(0.1, bound=0.0),
    "penalty.clamp: -1 is not positive": lambda: Penalty(0.1, clamp=-1.0),
    "clipped.low: 0 is not positive": lambda: presets.grpo(0.0),
    "clipped.dual: 1 is not above 1": lambda: Clipped(dual=1.0),
    "clipped.cap: 0.5 is not above 1": lambda: Clipped(cap=0.5),
    "soft_gate.tau_neg: 0 is not positive": lambda: presets.sapo(1.0, 0.0),
    "balance.tau: 0 is not positive": lambda: presets.f_tb(tau=0.0),
    "contrast.tau: inf is not positive and finite": lambda: Contrast(INF),
    "matching.cap: 1 is not above 1": lambda: presets.f_sft(PEARSON, cap=1.0),
    "row_logistic.smoothing: 0.5 is outside": lambda: RowLogistic(0.5),
    "logistic.smoothing: 0.5 is outside [0, 1/2)": lambda: presets.cdpo(0.1, 0.5),
    "robust_logistic.noise: 0 is outside (0, 1/2)": lambda: RobustLogistic(0.0),
    "exo.smoothing: 0 is outside (0, 1/2)": lambda: Exo(0.0),
    "logistic.margin: inf is not finite": lambda: presets.simpo(gamma=INF),
    "logistic.bound: 0 is not positive": lambda: presets.chi_po(r_max=0.0),
    "squared.tau: 0 is not positive": lambda: Squared(0.0),
    "discopop.tau: 0 is not positive": lambda: DiscoPOP(0.0),
    "binary_classifier.shift: inf is not finite": lambda: BinaryClassifier(INF),
    "sppo.beta: 0 is not positive": lambda: presets.sppo(0.0),
    "self_play.target: 0 is not positive": lambda: SelfPlay(0.0),
    "geometric_clip.high: -1 is not positive": lambda: GeometricClip(0.1, -1.0),
    "length_desensitised.share: 1 is outside [0, 1)": lambda: presets.ld_dpo(share=1.0),
    "truncate.cap: 0 is not positive": lambda: presets.tis(0.0),
    "truncate.power: 0 is not positive": lambda: Truncate(1.0, power=0.0),
    "truncate.floor: 2 is negative or not below cap": lambda: Truncate(2.0, 2.0),
    "mask.cap: 0 is not positive": lambda: Mask(0.0),
    "mask.floor: -1 is negative": lambda: presets.masked_is(2.0, -1.0),
    "keep.cap: nan is not positive": lambda: Keep(math.nan),
    "negative_truncate.cap: 0 is not positive": lambda: NegativeTruncate(0.0),
    "gamma_weight.rate_neg: 0 is not positive": lambda: GammaWeight(1.0, 1.0, 1.0, 0.0),
    "stale_mask.threshold: -1 is negative": lambda: StaleMask(-1.0),
    "top_entropy.share: 1 is outside (0, 1)": lambda: TopEntropy(1.0),
    "z_score.ddof: 2 is not 0 or 1": lambda: presets.grpo(ddof=2),
    "batch_z_score.eps: -1 is negative": lambda: BatchZScore(eps=-1.0),
    "desirability.undesirable: 0 is not positive": lambda: Desirability(1.0, 0.0),
    "entropy_weight.scale: 0 is not positive": lambda: presets.srft(0.0, 0.1, 8.0),
    "entropy_weight.slope: 0 is no slope": lambda: EntropyWeight(slope=0.0),
    "gate.most: -1 is negative": lambda: Gate(-1),
    "gate.above: inf is not finite": lambda: Gate(above=INF),
    "outcome.above: inf is not finite": lambda: Outcome(INF),
    "mixture.weights.1: -0.5 is negative": lambda: presets.chord(
        Annealed(0.5, -0.5, 10)
    ),
    "mixture.weights.0: -1 is negative": lambda: presets.chord(Annealed(2.0, 0.5, 10)),
    "annealed.start: inf is not a finite number": lambda: Annealed(INF, 0.0, 10),
    "annealed.steps: 0 is below 1": lambda: Annealed(1.0, 0.5, 0),
    "annealed.warmup: -1 is below 0": lambda: Annealed(1.0, 0.5, 1, warmup=-1),
    "annealed: from 1 to itself": lambda: Annealed(1.0, 1.0, 10),
    "clipped.low: -1 is not positive": lambda: Clipped(Annealed(0.2, -1.0, 10)),
    "clipped.high: 0 is not positive": lambda: Clipped(
        high=Annealed(0.1, 0.2, 10, warmup=3)
    ),
    "gae.lam: 1.5 is outside [0, 1]": lambda: presets.ppo(lam=1.5),
    "returns.gamma: -1 is outside [0, 1]": lambda: Returns(-1.0),
    "exponential.tau: 0 is not positive": lambda: presets.awr(0.0),
    "exponential.cap: 0 is not positive": lambda: Exponential(cap=0.0),
    "shifted.by: 0 changes nothing": lambda: Shifted(0.0),
    "optimal_value.tau: 0 is not positive": lambda: OptimalValue(0.0),
    "best_response.eps: -1 is negative": lambda: BestResponse(-1.0),
    "informative_mean.norm: 0 is not positive": lambda: InformativeMean(0.0),
    "sequence_mean.eps: -1 is negative": lambda: SequenceMean(eps=-1.0),
    "constant.length: 0 is not positive": lambda: presets.dr_grpo(0.0),
    "scaled.factor: 0 is not positive": lambda: Scaled(TokenMean(), 0.0),
    "gem.beta: 0 is not positive": lambda: Gem(0.0),
    "distillation.temperature: 0 is not positive": lambda: presets.gkd(0.5, 0.0),
    "alpha.a: 1 is outside a < 1": lambda: Alpha(1.0),
    "alpha.a: 0 is outside a < 1, a != 0": lambda: Alpha(0.0),
    "hockey_stick.gamma: 0.5 is not above 1": lambda: HockeyStick(0.5),
    "shaping.gamma: 0 is not positive": lambda: Shaping(0.0),
    "skew_jensen_shannon.w: 1 is outside (0, 1)": lambda: SkewJensenShannon(1.0),
    "alpha_sft.power: 0 is not positive; 0 is sft": lambda: presets.alpha_sft(0.0),
}
REFUSED = SCORES | PAIRS | FITS | PENALTIES | MADE_OF | NUMBERS
