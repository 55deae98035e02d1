"""Equal presets, status, reasons of a zero, curves and the command: what it answers."""

import itertools
import subprocess
import sys
from dataclasses import replace
from math import inf

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from preset_examples import EXAMPLES, streams_and_batch
from random_batch import random_batch

from unipost import Batch, Mixture, Objective, Penalty, presets
from unipost.aggregation import Constant, Scaled, SequenceMean, SequenceSum, TokenMean
from unipost.classical import (
    ForwardKL,
    JensenShannon,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.cli import main
from unipost.explain import curves, equals, explain, plot_coefficient, status, why_zero
from unipost.links import Clipped, Importance, Linear, Weighted
from unipost.pair_links import Hinge, Squared
from unipost.parametric import Alpha, SkewJensenShannon, UnitCurvature, unit_curvature
from unipost.presets import PRESETS
from unipost.ratios import GeometricClip, SequenceToken
from unipost.signals import Chosen, Ones, Raw, ZScore
from unipost.weights import Truncate

NEEDS = {
    "f_sft": {"divergence": PearsonChi2()},
    "f_dpo": {"divergence": JensenShannon()},
    "dr_grpo": {"max_length": 9.0},
    "luffy": {"max_length": 9.0},
}
RATIO = {"divergence": unit_curvature(PearsonChi2()), "anchor": "old"}
GRPO, DAPO, DPO = presets.grpo(), presets.dapo(), presets.dpo()


def found(objective):
    """preset -> what `equals` says of it."""
    return {one.preset: one for one in equals(objective)}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_equals_itself(name):
    arguments = NEEDS.get(name, {})
    one = found(PRESETS[name](**arguments))[name]
    assert (one.kind, one.where) == ("equal", "")
    assert {k: v for k, v in one.arguments.items()} == arguments


SETTINGS = {
    "grpo": {"low": 0.1, "high": 0.3, "kl": 0.2, "estimator": "k2", "eps": 0.5},
    "dpo": {"beta": 0.35},
    "alpha_sft": {"power": 0.3},
    "sppo": {"beta": 0.2},
    "chi_po": {"beta": 0.2, "r_max": 3.0},
    "simpo": {"beta": 2.5, "gamma": 0.3},
    "luffy": {"gamma": 0.3, "clip": 0.1, "aggregation": TokenMean()},
    "kto": {"beta": 0.3, "undesirable": 1.5},
    "orpo": {"weight": 0.4, "on": "text"},
    "iw_sft": {"temperature": 1.5, "cap": 3.0, "floor": 0.2},
    "apo": {"direction": "down"},
    "gkd": {"beta": 0.2, "temperature": 2.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_arguments_are_read_off_the_object(name):
    one = found(PRESETS[name](**SETTINGS[name]))[name]
    assert one.kind == "equal" and set(one.arguments) == set(SETTINGS[name])
    for key, want in SETTINGS[name].items():
        got = one.arguments[key]
        assert got == (pytest.approx(want) if isinstance(want, float) else want)


# an object written by hand, a preset that it is, how, and under which condition
EQUAL = {
    "f-DPO of the KL": (presets.f_dpo(ReverseKL()), "dpo", "equal", ""),
    "PPO's parts": (
        Objective(**RATIO, link=Clipped(0.2, 0.28), signal=ZScore()),
        *("dapo", "equal", ""),
    ),
    "alpha for the ratio": (
        replace(DAPO, divergence=Alpha(-1.0)),
        *("dapo", "equal", ""),
    ),
    "half of Pearson": (
        replace(DAPO, divergence=PearsonChi2(), beta=0.5),
        *("dapo", "equal", ""),
    ),
    "twice Hellinger": (
        presets.f_dpo(UnitCurvature(SquaredHellinger()), 0.2),
        *("f_dpo", "equal", ""),
    ),
    "no bound is no clip": (
        replace(presets.rloo(level="sequence"), link=Clipped(inf, inf)),
        *("rloo", "equal", ""),
    ),
    "no bound of a treatment": (
        replace(DAPO, ratio=GeometricClip(inf, inf)),
        *("dapo", "equal", ""),
    ),
    "a dead lower bound": (
        replace(presets.psft(), link=Clipped(0.2, 0.2, dual=3.0)),
        *("psft", "equal", ""),
    ),
    "a constant length": (
        replace(presets.dr_grpo(9.0), aggregation=Scaled(SequenceSum(), 1 / 9)),
        *("dr_grpo", "equal", ""),
    ),
    "a factor of IPO": (
        replace(presets.ipo(0.1), beta=0.5, link=Squared(0.2))
        and replace(
            presets.ipo(), beta=0.5, link=Squared(0.2),
            aggregation=Scaled(SequenceMean(), 4.0),
        ),
        *("ipo", "equal", ""),
    ),
    "REINFORCE of sequences": (
        Objective(signal=Raw(), level="sequence", aggregation=SequenceMean()),
        *("reinforce", "equal", ""),
    ),
    "lengths after or before the KL": (
        replace(presets.ipo(), per="length"),
        *("ipo", "equal", ""),
    ),
    "GSPO-token": (
        replace(presets.gspo(), ratio=SequenceToken(), level="token"),
        *("gspo", "equal", ""),
    ),
    "another library's clamp": (
        replace(DAPO, clamp=None),
        *("dapo", "equal", "|log u| <= 20"),
    ),
    "empty rows counted": (
        replace(DPO, aggregation=SequenceMean("counted")),
        *("dpo", "equal", "no row is empty"),
    ),
    "the order of a sum": (
        Mixture((Objective(signal=Chosen()), presets.dpo(0.1, "none")), (1.0, 1.0)),
        *("cpo", "equal", ""),
    ),
    "DFT": (presets.dft(), "alpha_sft", "equal in gradient", ""),
    "DFT, the other way": (presets.alpha_sft(1.0), "dft", "equal in gradient", ""),
    "on policy": (
        Objective(**(RATIO | {"anchor": "self"}), link=Importance(), signal=Raw(),
                  aggregation=SequenceSum()),
        *("reinforce", "equal in gradient", ""),
    ),
    "a clip on policy": (
        Objective(**(RATIO | {"anchor": "self"}), link=Clipped(), signal=Raw(),
                  aggregation=SequenceSum()),
        *("reinforce", "equal in gradient", ""),
    ),
    "SFT against a reference": (
        Objective(anchor="reference"),
        *("sft", "equal in gradient", ""),
    ),
    "f-SFT of total variation": (
        presets.f_sft(TotalVariation()),
        *("sft", "equal in gradient", "r = beta log(pi/ref) < 1/2"),
    ),
    "GEM at beta 1": (presets.gem(1.0), "sft", "equal in gradient", ""),
    "CISPO without a cap": (
        replace(presets.cispo(inf), link=Weighted(Truncate(inf))),
        *("luffy", "equal in gradient", "") if False else ("cispo", "equal", ""),
    ),
    "rho k3 and sg(rho) k2": (
        replace(GRPO, penalty=Penalty(0.04, estimator="importance_k2")),
        *("grpo", "equal", ""),
    ),
    "a straight-through k2": (
        replace(GRPO, penalty=Penalty(0.04, gradient="k2", bound=10.0)),
        *("grpo", "equal in gradient", ""),
    ),
}
