"""For every argument of every preset and part, a value that must change the loss."""

from dataclasses import replace

from preset_examples import EXAMPLES

from unipost import Mixture, Objective, Penalty, Score
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
from unipost.baselines import (
    BestResponse,
    InformativeMean,
    LengthWeighted,
    Whitened,
)
from unipost.classical import (
    ForwardKL,
    JensenShannon,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
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
    Importance,
    Matching,
    Residual,
    RowLogistic,
    SoftGate,
    Weighted,
)
from unipost.mixed_groups import (
    DemonstrationRows,
    Gate,
    HybridMean,
    Outcome,
    OwnRows,
    SwitchedRows,
)
from unipost.pair_links import (
    BinaryClassifier,
    DiscoPOP,
    Exo,
    Logistic,
    RobustLogistic,
    SelfPlay,
    Squared,
)
from unipost.parametric import (
    Adjoint,
    Alpha,
    HockeyStick,
    Shaping,
    SkewJensenShannon,
    UnitCurvature,
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
    Raw,
    ZScore,
)
from unipost.vocabulary import Distillation, Gem
from unipost.weights import GammaWeight, Keep, Mask, NegativeTruncate, Truncate

HELLINGER, ROWS, TOKENS = SquaredHellinger(), SequenceMean(), TokenMean()
BAND = {"low": 0.03, "high": 0.03}
Z = {"ddof": 0, "eps": 0.1}

# arguments without a default
NEEDED = {
    "f_sft": {"divergence": PearsonChi2()},
    "f_dpo": {"divergence": JensenShannon()},
    "dr_grpo": {"max_length": 9.0},
    **{name: {"max_length": 9.0} for name in ("luffy", "rl_sft", "srft")},
    "hpt": {"max_length": 9.0, "gate": Gate(1)},
}
OF_PRESETS = {
    "sft": {"aggregation": ROWS},
    "f_sft": {
        "divergence": HELLINGER,
        "beta": 0.3,
        "gauge": "lse",
        "cap": 1.01,
        "aggregation": ROWS,
    },
    "alpha_sft": {"power": 0.7, "aggregation": ROWS},
    "dft": {"aggregation": ROWS},
    "psft": {"high": 0.03, "aggregation": ROWS},
    "iw_sft": {
        "temperature": 1.0,
        "cap": 0.9,
        "floor": 1.1,
        "level": "token",
        "aggregation": ROWS,
    },
    "dpo": {"beta": 0.2, "anchor": "none"},
    "f_dpo": {"divergence": ForwardKL(), "beta": 0.2, "level": "token"},
    "ipo": {"tau": 0.2, "length": "sequence_mean"},
    "cdpo": {"beta": 0.2, "smoothing": 0.2},
    "robust_dpo": {"beta": 0.2, "noise": 0.2},
    "hinge": {"beta": 0.2},
    "chi_po": {"beta": 0.2, "r_max": 0.01},
    "exo": {"beta": 0.2, "smoothing": 0.1},
    "discopop": {"beta": 0.2, "tau": 0.2},
    "simpo": {"beta": 1.0, "gamma": 0.5},
    "nca": {"beta": 0.2},
    "bco": {"beta": 0.2, "shift": 0.1},
    "sppo": {"beta": 0.2},
    "apo": {"beta": 0.2, "direction": "down"},
    "aot": {"beta": 0.2, "smoothing": 0.1},
    "wpo": {"beta": 0.2},
    "ld_dpo": {"beta": 0.2, "share": 0.1},
    "kto": {"beta": 0.2, "desirable": 0.5, "undesirable": 0.5},
    "orpo": {"weight": 0.5, "on": "text"},
    "cpo": {"beta": 0.2, "nll": 0.5},
    "reinforce": {"signal": Mean(), "aggregation": TOKENS},
    "rloo": {"kl": None, "level": "sequence"},
    "grpo": BAND | Z | {"kl": None, "estimator": "k2"},
    "dr_grpo": BAND | {"max_length": 3.0, "kl": 0.1},
    "dapo": BAND | Z,
    "reinforce_pp": BAND | {"kl": 0.3, "gamma": 0.5},
    "ppo": BAND | {"kl": 0.3, "gamma": 0.5, "lam": 0.5},
    "gspo": Z | {"low": 0.1, "high": 0.1},
    "gmpo": BAND | {"kl": 0.1, "signal": Mean()},
    "cispo": {"cap": 1.02, "signal": Mean()},
    "sapo": {"tau_pos": 2.0, "tau_neg": 2.0, "signal": Mean()},
    "vespo": dict.fromkeys(("k_pos", "rate_pos", "k_neg", "rate_neg"), 1.0)
    | {"signal": Mean()},
    "awr": {"tau": 0.5, "cap": 1.1},
    "opmd": {"tau": 0.2, "signal": ZScore()},
    "agro": {"beta": 0.3},
    "copg": {"beta": 0.3},
    "f_tb": {"divergence": HELLINGER, "tau": 0.5},
    "topr": {"cap": 0.8},
    "asymre": {"shift": 0.2},
    "tis": BAND | {"cap": 1.05, "level": "sequence", "signal": Mean()},
    "masked_is": BAND | {"cap": 1.1, "floor": 0.9, "level": "token", "signal": Mean()},
    "decoupled_ppo": BAND | {"signal": Mean()},
    "luffy": {
        "max_length": 3.0,
        "gamma": 0.3,
        "clip": 0.03,
        "signal": ZScore(),
        "behavior": "given",
    },
    "rl_sft": {"max_length": 3.0, "sft": 0.3, "clip": 0.03, "signal": ZScore()}
    | {"entropy": 0.1},
    "srft": {"sft": 0.2, "rl": 0.3, "max_length": 3.0, "gamma": 0.3, "signal": Mean()},
    "chord": {"mu": 0.3, "weighting": "bernoulli", "clip": 0.03, "signal": Mean()}
    | {"aggregation": ROWS},
    "chord_phi": {"mu": 0.3, "clip": 0.03, "signal": Mean(), "aggregation": ROWS},
    "hpt": {"max_length": 3.0, "gate": Gate(2), "rl": 0.3, "sft": 0.3, "entropy": 0.1}
    | {"clip": 0.03, "signal": ZScore()},
    "relift": {"sft": 0.3, "entropy": 0.1, "clip": 0.03, "signal": Mean()}
    | {"aggregation": ROWS},
    "prefix_rft": BAND
    | {"share": 0.7, "dual": 1.02, "entropy": 0.1, "continuation": "hybrid"}
    | {"aggregation": ROWS},
    "gem": {"beta": 0.5, "h": "log_sigmoid", "aggregation": ROWS},
    "gkd": {"beta": 0.2, "temperature": 2.0, "aggregation": ROWS},
}
REFUSED = "refused"  # in the place of a value: there is no other that fits the rest

_ratio = unit_curvature(PearsonChi2())
_luffy = EXAMPLES["luffy-paper"]
_off = replace(_luffy, off_policy=Score(_ratio, anchor="old", link=Importance()))
_rows = replace(
    EXAMPLES["reinforce-whitened"],
    signal=Raw(),
    level="sequence",
    aggregation=ROWS,
    off_policy=Score(level="sequence"),
)
_counted = replace(EXAMPLES["aot"], aggregation=SequenceMean("counted"))
_sft = Objective(signal=Chosen())

# a part -> (an example or an objective that holds it, a value of every field)
OF_PARTS = {
    Objective: {
        "divergence": ("reinforce", Alpha(0.5)),
        "beta": ("dpo", 0.2),
        "anchor": ("dapo", "behavior"),
        "ratio": ("dapo", GeometricClip(0.05, 0.05)),
        "level": ("rloo-sequence", "sequence_mean"),
        "per": ("dpo", "length"),
        "link": ("dapo", Importance()),
        "clamp": ("dapo", 0.05),
        "signal": ("dapo", Mean()),
        "off_policy": ("dapo", Score(Shaping(0.1))),
        "reference_point": ("dpo", OrderStatistics()),
        "corrections": ("dapo", (GivenWeight(),)),
        "penalty": ("dapo", Penalty(0.1)),
        "gauge": ("f_sft", "lsediff"),
        "aggregation": ("dapo", ROWS),
        "entropy_bonus": ("dapo", 0.1),
        "waived": ("dapo", REFUSED),
    },
    Score: {
        "divergence": ("luffy", Shaping(0.3)),
        "beta": ("luffy", 0.5),
        "anchor": (_off, "behavior"),
        "ratio": (_off, GeometricClip(0.05, 0.05)),
        "level": ("luffy", REFUSED),
        "per": (_rows, "length"),
        "link": (_off, Clipped(**BAND)),
        "clamp": (_off, 0.05),
    },
    Mixture: {"terms": ("cpo", (_sft, _sft)), "weights": ("cpo", (0.5, 1.0))},
    Gem: {
        "beta": ("gem", 0.5),
        "h": ("gem", "log_sigmoid"),
        "aggregation": ("gem", ROWS),
    },
    Distillation: {
        "divergence": ("gkd", HELLINGER),
        "temperature": ("gkd", 2.0),
        "aggregation": ("gkd", ROWS),
    },
    Penalty: {
        "weight": ("grpo", 0.5),
        "divergence": ("grpo", HELLINGER),
        "estimator": ("grpo", "abs"),
        "gradient": ("grpo", "k2"),
        "level": ("grpo", "sequence"),
        "importance": ("grpo-rho", "sequence"),
        "bound": ("grpo", 1e-3),
        "over": ("grpo-rho", "self"),
        "clamp": ("grpo", 0.05),
    },
    # signals
    Raw: {"supervision": ("reinforce", REFUSED)},
    Mean: {"supervision": ("luffy", REFUSED), "alone": ("luffy", "reward")},
    LeaveOneOut: {"supervision": ("rloo", REFUSED), "alone": ("rloo", "reward")},
    ZScore: {
        "ddof": ("dapo", 0),
        "eps": ("dapo", 0.1),
        "supervision": ("dapo", REFUSED),
        "alone": ("dapo", "reward"),
    },
    BatchZScore: {
        "center": ("reinforce-batch", "group"),
        "ddof": ("reinforce-batch", 0),
        "eps": ("reinforce-batch", 0.1),
        "supervision": ("reinforce-batch", REFUSED),
    },
    Desirability: {"desirable": ("kto", 0.5), "undesirable": ("kto", 0.5)},
    Chosen: {"on": ("orpo", "text")},
    GAE: {"gamma": ("ppo", 0.5), "lam": ("ppo", 0.5), "count_eps": ("ppo", 0.1)},
    Returns: {"gamma": ("reinforce_pp", 0.5), "count_eps": ("reinforce_pp", 0.1)},
    OwnRows: {
        "signal": ("rl_sft", ZScore()),
        "over": ("rl_sft", "union"),
        "gate": ("rl_sft", Gate(1)),
    },
    DemonstrationRows: {
        "signal": ("prefix_rft-whole", ZScore()),
        "gate": ("rl_sft", Gate(1)),
    },
    SwitchedRows: {"signal": ("hpt", Mean()), "gate": ("hpt", Gate(2))},
    Outcome: {"above": ("srft", -0.9)},
    HybridMean: {"continuation": ("prefix_rft", "hybrid")},
    Exponential: {
        "tau": ("awr", 0.5),
        "cap": ("awr", 1.1),
        "advantage": ("awr", ZScore()),
    },
    Shifted: {"by": ("asymre", 0.2), "advantage": ("asymre", ZScore())},
    Standardised: {
        "advantage": ("reinforce-standardised", ZScore()),
        "ddof": ("reinforce-standardised", 0),
        "eps": ("reinforce-standardised", 0.1),
        "supervision": ("reinforce-standardised", REFUSED),
    },
    OptimalValue: {"tau": ("opmd-value", 0.2)},
    LengthWeighted: {"alone": ("reinforce-length", "reward")},
    BestResponse: {"eps": ("reinforce-best", 0.1), "scale": ("reinforce-best", "none")},
    InformativeMean: {
        "norm": ("reinforce-informative", 2.0),
        "count": ("reinforce-informative", "rewards"),
        "alone": ("reinforce-informative", "reward"),
    },
    Whitened: {"signal": ("reinforce-whitened", Raw())},
    SumThenNormalise: {
        "advantage": ("grpo-sum", Mean()),
        "weights": ("grpo-sum", None),
        "clip": ("grpo-sum", (-0.3, 0.3)),
        "empty": ("grpo-sum", "counted"),
    },
    NormaliseThenSum: {
        "advantage": ("grpo-gdpo", Mean()),
        "weights": ("grpo-gdpo", (0.7, 0.3)),
        "eps": ("grpo-gdpo", 0.1),
        "empty": ("grpo-gdpo", "counted"),
    },
    # aggregations
    SequenceMean: {"empty": ("grpo", "counted"), "eps": ("grpo", 0.1)},
    SequenceSum: {"empty": ("reinforce", "counted")},
    Constant: {"length": ("dr_grpo", 3.0), "over": ("dr_grpo", "all_rows")},
    Scaled: {
        "aggregation": ("dpo-scaled", SequenceMean("counted")),
        "factor": ("dpo-scaled", 0.3),
    },
    # links
    Clipped: {
        "low": ("dapo", 0.03),
        "high": ("dapo", 0.03),
        "dual": ("dapo", 1.05),
        "cap": ("dapo", 1.05),
    },
    Weighted: {
        "weight": ("cispo", Mask(1.1)),
        "over": ("cispo", "behavior"),
        "level": ("cispo", "sequence"),
    },
    SoftGate: {"tau_pos": ("sapo", 2.0), "tau_neg": ("sapo", 2.0)},
    Residual: {"centre": ("agro", "none")},
    Balance: {"divergence": ("f_tb", HELLINGER), "tau": ("f_tb", 0.2)},
    Contrast: {"tau": ("copg", 0.3)},
    Matching: {"divergence": ("f_sft", HELLINGER), "cap": ("f_sft", 1.01)},
    RowLogistic: {"smoothing": ("aot-rows", 0.2)},
    Logistic: {
        "smoothing": ("dpo", 0.2),
        "margin": ("dpo", 0.2),
        "bound": ("dpo", 0.01),
    },
    RobustLogistic: {"noise": ("robust_dpo", 0.2)},
    Squared: {"tau": ("ipo", 0.2)},
    Exo: {"smoothing": ("exo", 0.1)},
    DiscoPOP: {"tau": ("discopop", 0.2)},
    BinaryClassifier: {"shift": ("bco", 0.1)},
    SelfPlay: {"target": ("sppo", 1.0)},
    # divergences
    Alpha: {"a": ("f_dpo-alpha", 0.6)},
    HockeyStick: {"gamma": ("dapo-stick", 1.05)},
    Shaping: {"gamma": ("luffy", 0.3)},
    SkewJensenShannon: {"w": ("f_dpo-skew", 0.6)},
    UnitCurvature: {"divergence": ("f_dpo-unit", ReverseKL())},
    Adjoint: {"divergence": ("f_dpo-adjoint", SkewJensenShannon(0.6))},
    # ratios, weights, corrections, reference points
    GeometricClip: {"low": ("gmpo", 0.03), "high": ("gmpo", 0.03)},
    LengthDesensitised: {"share": ("ld_dpo", 0.1)},
    Truncate: {
        "cap": ("iw_sft-token", 1.02),
        "floor": ("iw_sft-token", 0.98),
        "power": ("iw_sft-token", 0.5),
    },
    Mask: {"cap": ("masked_is-token", 1.1), "floor": ("masked_is-token", 0.95)},
    Keep: {"cap": ("tis-mean", 1.02), "floor": ("tis-mean", 0.98)},
    NegativeTruncate: {"cap": ("topr", 0.8)},
    GammaWeight: {
        name: ("vespo", 1.0) for name in ("k_pos", "rate_pos", "k_neg", "rate_neg")
    },
    SamplerCorrection: {"weight": ("tis", Mask(1.05)), "level": ("tis", "sequence")},
    StaleMask: {"threshold": ("grpo-stale", 0.2), "over": ("grpo-stale", "behavior")},
    TopEntropy: {
        "share": ("grpo-entropic", 0.7),
        "of": ("grpo-entropic", "off_policy"),
    },
    EntropyWeight: {
        "scale": ("srft", 0.3),
        "slope": ("srft", -0.3),
        "rows": ("srft", "all"),
    },
    MismatchedMean: {"empty": ("kto", "counted")},
    OrderStatistics: {"of": ("aot", REFUSED), "empty": (_counted, "counted")},
}
