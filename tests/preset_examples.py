"""Objectives to test: every preset, and every part in at least one of them.

A name is that of a preset, then what has been changed. Everything that is listed here
is put through all the invariances; what the library has and this lists not, fails.
"""

import dataclasses
from dataclasses import replace

from random_batch import random_batch

from unipost import Mixture, Objective, Penalty, presets
from unipost.advantages import Given, OptimalValue, Standardised
from unipost.aggregation import (
    Constant,
    Scaled,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from unipost.annealed import Annealed
from unipost.baselines import (
    BestResponse,
    GreedyBaseline,
    InformativeMean,
    LengthWeighted,
    Whitened,
)
from unipost.classical import (
    ForwardKL,
    Jeffreys,
    JensenShannon,
    NeymanChi2,
    PearsonChi2,
    SquaredHellinger,
    TotalVariation,
)
from unipost.components import NormaliseThenSum, SumThenNormalise
from unipost.corrections import (
    GivenWeight,
    SamplerCorrection,
    StaleMask,
    TopEntropy,
)
from unipost.links import Clipped, Importance, RowLogistic
from unipost.mixed_groups import DemonstrationRows, Gate, OwnRows
from unipost.parametric import (
    Adjoint,
    Alpha,
    HockeyStick,
    SkewJensenShannon,
    unit_curvature,
)
from unipost.ratios import SequenceToken
from unipost.reference_points import OrderStatistics
from unipost.signals import (
    BatchZScore,
    Chosen,
    LeaveOneOut,
    Mean,
    Preference,
    Zeros,
    ZScore,
)
from unipost.weights import Keep, Mask

_dpo, _grpo, _dapo, _f_sft = (
    presets.dpo(),
    presets.grpo(),
    presets.dapo(),
    presets.f_sft,
)

DEMONSTRATIONS = {
    "sft": presets.sft(),
    "sft-rows": presets.sft(SequenceMean(eps=0.1)),
    "f_sft": _f_sft(PearsonChi2(), 0.5),
    "f_sft-hellinger-lsediff": _f_sft(SquaredHellinger(), 0.7, "lsediff"),
    "f_sft-lse": _f_sft(PearsonChi2(), 0.1, "lse"),
    "f_sft-behavior": replace(_f_sft(JensenShannon(), 0.3), anchor="behavior"),
    "f_sft-tv": _f_sft(TotalVariation(), 0.5),
    "alpha_sft": presets.alpha_sft(),
    "alpha_sft-sharp": presets.alpha_sft(10.0),
    "dft": presets.dft(),
    "psft": presets.psft(),
    "iw_sft": presets.iw_sft(),
    "iw_sft-token": presets.iw_sft(1.0, 1.1, 0.9, "token"),
}
PREFERENCES = {
    "dpo": _dpo,
    "dpo-free": presets.dpo(anchor="none"),
    "dpo-length": replace(_dpo, per="length"),
    "dpo-scaled": replace(_dpo, aggregation=Scaled(SequenceMean(), 0.5)),
    "dpo-counted": replace(_dpo, aggregation=SequenceMean("counted")),
    "dpo-given": replace(_dpo, corrections=(GivenWeight(),)),
    "dpo-mixed": Mixture(
        (_dpo, presets.nca(), Objective(signal=Chosen())), (0.8, 0.2, 1.0)
    ),
    "f_dpo": presets.f_dpo(JensenShannon()),
    "f_dpo-alpha": presets.f_dpo(Alpha(0.3)),
    "f_dpo-skew": presets.f_dpo(SkewJensenShannon(0.3)),
    "f_dpo-adjoint": presets.f_dpo(Adjoint(SkewJensenShannon(0.3))),
    "f_dpo-unit": presets.f_dpo(unit_curvature(NeymanChi2())),
    "f_dpo-token": presets.f_dpo(SquaredHellinger(), level="token"),
    "f_dpo-waived": replace(
        presets.f_dpo(JensenShannon()), per="length", waived=("pair_length",)
    ),
    "ipo": presets.ipo(),
    "ipo-mean": presets.ipo(length="sequence_mean"),
    "cdpo": presets.cdpo(),
    "robust_dpo": presets.robust_dpo(),
    "hinge": presets.hinge(),
    "chi_po": presets.chi_po(),
    "chi_po-bound": presets.chi_po(r_max=0.5),
    "exo": presets.exo(),
    "discopop": presets.discopop(),
    "simpo": presets.simpo(),
    "nca": presets.nca(),
    "bco": presets.bco(shift=0.2),
    "sppo": presets.sppo(),
    "apo": presets.apo(),
    "apo-down": presets.apo(direction="down"),
    "aot": presets.aot(),
    "aot-rows": replace(
        presets.aot(), link=RowLogistic(0.1), reference_point=OrderStatistics("rows")
    ),
    "wpo": presets.wpo(),
    "ld_dpo": presets.ld_dpo(),
    "orpo": presets.orpo(),
    "orpo-text": presets.orpo(on="text"),
    "cpo": presets.cpo(),
}
REWARDS = {
    "kto": presets.kto(0.5, 1.0, 0.7),
    "reinforce": presets.reinforce(),
    "reinforce-batch": presets.reinforce(BatchZScore()),
    "reinforce-group": presets.reinforce(BatchZScore("group", ddof=0)),
    "reinforce-given": presets.reinforce(Given()),
    "reinforce-standardised": presets.reinforce(Standardised()),
    "reinforce-length": presets.reinforce(LengthWeighted()),
    "reinforce-greedy": presets.reinforce(GreedyBaseline()),
    "reinforce-best": presets.reinforce(BestResponse(), TokenMean()),
    "reinforce-informative": presets.reinforce(InformativeMean(), TokenMean()),
    "reinforce-whitened": presets.reinforce(Whitened(Mean()), TokenMean()),
    "grpo-sum": replace(_grpo, signal=SumThenNormalise(weights=(0.7, 0.3))),
    "grpo-gdpo": replace(_grpo, signal=NormaliseThenSum()),
    "opmd-value": presets.opmd(signal=OptimalValue()),
    "grpo-nothing_else": Objective(
        signal=Zeros(), penalty=Penalty(0.1, gradient="to_go")
    ),
    "rloo": presets.rloo(),
    "rloo-sequence": presets.rloo(level="sequence"),
    "grpo": _grpo,
    "grpo-rho": presets.grpo(estimator="importance_k3"),
    "grpo-process": replace(_grpo, signal=ZScore(supervision="process")),
    "grpo-exact": replace(_grpo, penalty=Penalty(0.1, ForwardKL(), "exact")),
    "grpo-entropy": replace(_grpo, entropy_bonus=0.01),
    "grpo-straight": replace(_grpo, penalty=Penalty(0.1, gradient="k2", bound=10.0)),
    "grpo-dual": replace(_grpo, link=Clipped(0.1, 0.1, dual=1.2)),
    "grpo-cap": replace(_grpo, link=Clipped(0.1, 0.1, cap=1.2)),
    "grpo-stale": replace(_grpo, corrections=(StaleMask(0.01),)),
    "grpo-entropic": replace(_grpo, corrections=(TopEntropy(0.4),)),
    "grpo-two": replace(
        _grpo, corrections=(GivenWeight(), SamplerCorrection(Mask(1.5), "sequence"))
    ),
    "dr_grpo": presets.dr_grpo(9.0, kl=0.1),
    "dr_grpo-all": replace(presets.dr_grpo(9.0), aggregation=Constant(9.0, "all_rows")),
    "dapo": _dapo,
    "dapo-self": replace(_dapo, link=Importance(), anchor="self", clamp=None),
    "dapo-behavior": replace(_dapo, anchor="behavior", signal=LeaveOneOut()),
    "dapo-jeffreys": replace(_dapo, penalty=Penalty(0.1, Jeffreys(), "importance_k2")),
    "dapo-stick": replace(_dapo, penalty=Penalty(0.5, HockeyStick(1.1), "k2")),
    "reinforce_pp": presets.reinforce_pp(),
    "ppo": presets.ppo(),
    "gspo": presets.gspo(0.05, 0.05),
    "gspo-token": replace(
        presets.gspo(0.05, 0.05), ratio=SequenceToken(), level="token"
    ),
    "gmpo": presets.gmpo(0.2, 0.2, kl=0.1),
    "cispo": presets.cispo(1.05),
    "sapo": presets.sapo(),
    "vespo": presets.vespo(),
    "awr": presets.awr(cap=1.5),
    "opmd": presets.opmd(),
    "agro": presets.agro(),
    "copg": presets.copg(),
    "f_tb": presets.f_tb(tau=0.5),
    "f_tb-hellinger": presets.f_tb(SquaredHellinger(), 0.8),
    "topr": presets.topr(),
    "asymre": presets.asymre(),
    "tis": presets.tis(1.1),
    "tis-sequence": presets.tis(1.1, "sequence"),
    "tis-mean": replace(
        presets.tis(), corrections=(SamplerCorrection(Keep(1.3, 0.8), "sequence_mean"),)
    ),
    "masked_is": presets.masked_is(1.3, 0.7),
    "masked_is-token": presets.masked_is(1.3, 0.8, "token"),
    "decoupled_ppo": presets.decoupled_ppo(),
}
_off_rows = DemonstrationRows(Mean())
MIXING = {
    "luffy": presets.luffy(9.0),
    "luffy-paper": presets.luffy(clip=0.2, signal=Mean(), aggregation=TokenMean()),
    "luffy-mixed": presets.luffy(9.0, gamma=None, clip=0.2, off_clip=0.2),
    "luffy-given": presets.luffy(9.0, gamma=0.3, behavior="given"),
    "rl_sft": presets.rl_sft(9.0, 0.7, entropy=0.2),
    "srft": presets.srft(max_length=9.0),
    "srft-shaped": presets.srft(gamma=0.1, signal=Mean(), aggregation=SequenceSum()),
    "chord": presets.chord(Annealed(0.7, 0.1, 20)),
    "chord-probability": presets.chord(0.3, "probability"),
    "chord_phi": presets.chord_phi(),
    "chord_phi-union": Mixture(
        (replace(_dapo, signal=OwnRows(over="union")), presets.dft()), (0.5, 0.5)
    ),
    "hpt": presets.hpt(9.0, Gate(1), 0.8, 0.6, 0.1),
    "relift": presets.relift(0.5, 0.1),
    "prefix_rft": presets.prefix_rft(0.4),
    "prefix_rft-hybrid": presets.prefix_rft(0.4, continuation="hybrid"),
    "prefix_rft-whole": replace(presets.grpo(), signal=_off_rows),
}
VOCABULARY = {
    "gem": presets.gem(),
    "gem-sigmoid": presets.gem(h="log_sigmoid"),
    "gkd": presets.gkd(0.3, 1.5),
    "gkd-forward": presets.gkd(0.0),
    "gkd-reverse": presets.gkd(1.0, aggregation=SequenceSum()),
}
EXAMPLES = DEMONSTRATIONS | PREFERENCES | REWARDS | MIXING | VOCABULARY

# loss changes with the batch it is in, by the recipe's own definition
GROWS = {"luffy"}
# rows without a token count in the denominator, as another library's number has it
COUNTS_EMPTY = {"dpo-counted", "dr_grpo-all"}


def terms(objective):
    """The single objectives of one, which may be a mixture."""
    return objective.terms if isinstance(objective, Mixture) else (objective,)


def parts_of(thing):
    """Every part inside `thing`, itself included."""
    if isinstance(thing, tuple):
        return [part for each in thing for part in parts_of(each)]
    if not dataclasses.is_dataclass(thing):
        return []
    values = [getattr(thing, f.name) for f in dataclasses.fields(thing)]
    return [thing, *parts_of(tuple(values))]


def group(name):
    """Responses per prompt that an example needs."""
    signals = [getattr(term, "signal", None) for term in terms(EXAMPLES[name])]
    return 2 if any(isinstance(s, Preference) for s in signals) else 4


def streams_and_batch(name, prompts=6, tokens=7, seed=0):
    """Streams and batch for an example, with NaN wherever it may not look."""
    objective = EXAMPLES[name]
    return random_batch(
        group(name),
        process="process" in name,
        text="text" in objective.needs,
        prefix="prefix" in name,
        prompts=prompts,
        tokens=tokens,
        seed=seed,
    )
