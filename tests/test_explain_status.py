"""What `explain` calls exact, gradient-equal, conditional or biased, and why."""

from dataclasses import replace

import numpy as np
import pytest
from preset_examples import EXAMPLES

from unipost import Penalty, presets
from unipost.classical import (
    ForwardKL,
    JensenShannon,
    PearsonChi2,
    TotalVariation,
)
from unipost.explain import explain, status
from unipost.presets import PRESETS

GRPO, DPO = presets.grpo(), presets.dpo()


def penalised(estimator, divergence=None, **settings):
    known = {} if divergence is None else {"divergence": divergence}
    penalty = Penalty(0.1, estimator=estimator, **known, **settings)
    return replace(GRPO, penalty=penalty)


# label, what it is about, and words of the line
STATUS = {
    "sft": (presets.sft(), [("exact", "fit", "KL(expert || policy)")]),
    "f_sft": (
        presets.f_sft(PearsonChi2()),
        [("conditional", "fit", "several demonstrations per prompt")],
    ),
    "f_sft-tv": (
        presets.f_sft(TotalVariation()),
        [("conditional", "fit", "never for one demonstration")],
    ),
    "alpha_sft": (presets.alpha_sft(), [("exact", "fit", "alpha-divergence")]),
    "alpha_sft-1": (presets.alpha_sft(1.0), [("exact", "fit", "total variation")]),
    "alpha_sft-10": (presets.alpha_sft(10.0), [("surrogate", "fit", "power above 1")]),
    "dft": (presets.dft(), [("gradient", "fit", "1 - pi")]),
    "psft": (presets.psft(), [("exact", "clip", "hockey stick")]),
    "iw_sft": (presets.iw_sft(), [("gradient", "fit", "potential")]),
    "dpo": (
        DPO,
        [
            ("conditional", "reward", "KL-regularised RL, per sequence, where ref > 0"),
            ("conditional", "link", "Bradley-Terry"),
        ],
    ),
    "f_dpo": (
        presets.f_dpo(JensenShannon()),
        [("conditional", "reward", "JensenShannon-regularised RL")],
    ),
    "f_dpo-waived": (
        replace(
            DPO,
            divergence=PearsonChi2(),
            clamp=20.0,
            waived=("pair_divergence",),
        ),
        [("biased", "reward", "f'(0+) is finite")],
    ),
    "ipo": (presets.ipo(), [("exact", "link", "PsiPO")]),
    "ipo-mean": (
        presets.ipo(length="sequence_mean"),
        [("surrogate", "reward", "lengths")],
    ),
    "chi_po": (presets.chi_po(r_max=1.0), [("biased", "clip", "no likelihood")]),
    "simpo": (presets.simpo(), [("surrogate", "reward", "no reference")]),
    "nca": (presets.nca(), [("conditional", "reward", "log Z(x)")]),
    "wpo": (presets.wpo(), [("biased", "correction", "other pairs")]),
    "ld_dpo": (presets.ld_dpo(), [("biased", "ratio", "no ratio")]),
    "kto": (presets.kto(), [("surrogate", "fit", "z_0 estimates KL")]),
    "reinforce": (
        presets.reinforce(),
        [
            ("conditional", "fit", "fresh samples"),
            ("exact", "advantage", "unbiased"),
            ("exact", "aggregation", "policy gradient"),
        ],
    ),
    "rloo": (presets.rloo(), [("exact", "penalty gradient", "through the advantage")]),
    "grpo": (
        GRPO,
        [
            ("exact", "clip", "hockey stick"),
            ("biased", "ratio", "exact only at pi = old"),
            ("biased", "advantage", "1/std"),
            ("biased", "aggregation", "1/length"),
            ("biased", "penalty gradient", "forward KL(ref || pi)"),
            ("exact", "penalty value", "unbiased"),
        ],
    ),
    "dr_grpo": (
        presets.dr_grpo(9.0),
        [("exact", "advantage", "1 - 1/G"), ("exact", "aggregation", "constant")],
    ),
    "dapo": (presets.dapo(), [("biased", "aggregation", "random number of tokens")]),
    "gspo": (presets.gspo(), [("biased", "ratio", "geometric mean")]),
    "rloo-sequence": (
        presets.rloo(level="sequence"),
        [("exact", "ratio", "unbiased off policy")],
    ),
    "cispo": (
        presets.cispo(),
        [("gradient", "fit", "potential"), ("biased", "ratio", "a token's ratio")],
    ),
    "ppo": (presets.ppo(), [("conditional", "advantage", "critic")]),
    "on policy": (
        EXAMPLES["dapo-self"],
        [("gradient", "ratio", "that of REINFORCE at u = 1")],
    ),
    "gspo-token": (EXAMPLES["gspo-token"], [("gradient", "ratio", "geometric mean")]),
    "awr": (presets.awr(), [("conditional", "fit", "where e^(A/tau) <= 20")]),
    "awr-uncapped": (presets.awr(cap=np.inf), [("exact", "fit", "KL(pi* || pi)")]),
    "opmd": (presets.opmd(), [("exact", "fit", "beta log Z")]),
    "agro": (presets.agro(), [("exact", "fit", "log Z cancels")]),
    "f_tb": (presets.f_tb(), [("gradient", "fit", "same minimiser")]),
    "tis": (presets.tis(), [("biased", "correction", "bounded variance")]),
    "luffy": (
        presets.luffy(9.0),
        [("biased", "off-policy rows", "as if behavior were 1")],
    ),
    "gem": (presets.gem(), [("gradient", "fit", "tempered pi^(1/beta)")]),
    "gkd": (presets.gkd(), [("exact", "fit", "states held fixed")]),
    "cpo": (
        presets.cpo(),
        [
            ("surrogate", "term 0 reward", "no reference"),
            ("exact", "term 1 fit", "KL(expert"),
            ("surrogate", "sum", "optimum of neither"),
        ],
    ),
    "k1": (penalised("k1"), [("biased", "penalty gradient", "regularises nothing")]),
    "k2": (
        penalised("k2"),
        [
            ("exact", "penalty gradient", "states held fixed"),
            ("gradient", "penalty value", "another number"),
        ],
    ),
    "k3 of f": (
        penalised("k3", JensenShannon()),
        [("biased", "penalty gradient", "D_h with h' = f' - f/u")],
    ),
    "rho k3": (
        penalised("importance_k3"),
        [
            ("exact", "penalty gradient", "samples of old included"),
            ("exact", "penalty value", "samples of old included"),
        ],
    ),
    "k3+": (
        penalised("k3", gradient="k2"),
        [
            ("exact", "penalty gradient", "KL(pi || ref)"),
            ("exact", "penalty value", ""),
        ],
    ),
    "to go": (
        penalised("k3", gradient="to_go"),
        [("exact", "penalty gradient", "states moving with pi")],
    ),
    "vocabulary": (
        penalised("exact", ForwardKL()),
        [("exact", "penalty gradient", "ForwardKL(pi || ref)")],
    ),
    "abs": (
        penalised("abs"),
        [("biased", "penalty gradient", "twice that of the total variation")],
    ),
    "importance-sequence": (
        penalised("importance_k3", importance="sequence"),
        [("exact", "penalty gradient", "states moving with pi; samples of old")],
    ),
    "importance_k2-sequence": (
        penalised("importance_k2", importance="sequence"),
        [("exact", "penalty gradient", "states held fixed; samples of old")],
    ),
    "importance-geometric": (
        penalised("importance_k3", importance="sequence_mean"),
        [("biased", "penalty gradient", "no importance ratio")],
    ),
    "importance-self": (
        penalised("importance_k3", over="self"),
        [("exact", "penalty gradient", "on fresh samples")],
    ),
    "bounded": (
        penalised("k3", bound=10.0),
        [("gradient", "penalty value", "a bounded estimate")],
    ),
}


@pytest.mark.parametrize("name", STATUS)
def test_status_follows_from_the_parts(name):
    objective, wanted = STATUS[name]
    lines = status(objective)
    for label, about, words in wanted:
        assert any(
            (one.label, one.about) == (label, about) and words in one.line
            for one in lines
        ), lines
    text = " ".join(explain(objective).split())
    assert all(f"{one.label} {one.about}: {one.line}" in text for one in lines)


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_without_a_status(name):
    assert status(next(o for k, o in EXAMPLES.items() if k.split("-")[0] == name))
