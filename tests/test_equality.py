"""Which presets an object is: found by its parts, and confirmed by its numbers."""

from dataclasses import replace
from math import inf

import jax
import numpy as np
import pytest
from random_batch import random_batch

from unipost import Mixture, Objective, Penalty, part, presets
from unipost.aggregation import Scaled, SequenceMean, SequenceSum, TokenMean
from unipost.annealed import Annealed
from unipost.classical import (
    JensenShannon,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.components import SumThenNormalise
from unipost.explain import equals, explain
from unipost.explain.canonical import tree
from unipost.links import Clipped, Importance, Linear, SoftGate, Weighted
from unipost.mixed_groups import Gate
from unipost.pair_links import Squared
from unipost.parametric import Alpha, SkewJensenShannon, unit_curvature
from unipost.presets import PRESETS
from unipost.ratios import GeometricClip, SequenceToken
from unipost.signals import Chosen, Mean, Preference, Raw, ZScore
from unipost.weights import Truncate

NEEDS = {
    "f_sft": {"divergence": PearsonChi2()},
    "f_dpo": {"divergence": JensenShannon()},
    "dr_grpo": {"max_length": 9.0},
    **{name: {"max_length": 9.0} for name in ("luffy", "rl_sft", "srft", "hpt")},
}
CHI2 = unit_curvature(PearsonChi2())
GRPO, DAPO, DPO, IPO = presets.grpo(), presets.dapo(), presets.dpo(), presets.ipo()
RLOO = presets.rloo(None, "sequence")


def on_policy(link):
    """REINFORCE's parts with a ratio to the policy itself."""
    return Objective(
        CHI2, anchor="self", link=link, signal=Raw(), aggregation=SequenceSum()
    )


def weighted(cap, power=1.0):
    return Objective(link=Weighted(Truncate(cap, power=power)), signal=ZScore())


def found(objective):
    """preset -> what `equals` says of it."""
    return {one.preset: one for one in equals(objective)}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_equals_itself(name):
    one = found(PRESETS[name](**NEEDS.get(name, {})))[name]
    assert (one.kind, one.where, one.differences) == ("equal", "", ())
    assert one.arguments == NEEDS.get(name, {})


SETTINGS = {
    "grpo": {"low": 0.1, "high": 0.3, "kl": 0.2, "estimator": "k2", "eps": 0.5},
    "dpo": {"beta": 0.35},
    "alpha_sft": {"power": 0.3},
    "sppo": {"beta": 0.2},
    "chi_po": {"beta": 0.2, "r_max": 3.0},
    "simpo": {"beta": 2.5, "gamma": 0.3},
    "luffy": {"gamma": 0.3, "clip": 0.1, "aggregation": TokenMean()},
    "chord": {"mu": Annealed(0.8, 0.1, 50), "weighting": "probability"},
    "hpt": {"max_length": 7.0, "gate": Gate(1), "sft": 0.3, "entropy": None},
    "relift": {"sft": 0.5, "entropy": 1e-3, "signal": Mean()},
    "srft": {"sft": 0.3, "rl": 0.2, "gamma": 0.2, "aggregation": TokenMean()},
    "prefix_rft": {"share": 0.4, "dual": None, "continuation": "hybrid"},
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


# an object made by hand, and what it must be found to be
FOUND = {
    "f-DPO of the KL": (presets.f_dpo(ReverseKL()), "dpo", "equal", ""),
    "PPO's parts": (
        Objective(CHI2, anchor="old", link=Clipped(0.2, 0.28), signal=ZScore()),
        *("dapo", "equal", ""),
    ),
    "half of Pearson": (
        replace(DAPO, divergence=PearsonChi2(), beta=0.5),
        *("dapo", "equal", ""),
    ),
    "REINFORCE of sequences": (
        Objective(signal=Raw(), level="sequence", aggregation=SequenceMean()),
        *("reinforce", "equal", ""),
    ),
    "log-ratios over lengths": (replace(IPO, per="length"), "ipo", "equal", ""),
    "GSPO-token": (
        replace(presets.gspo(), ratio=SequenceToken(), level="token"),
        *("gspo", "equal", ""),
    ),
    "no clamp": (replace(DAPO, clamp=None), "dapo", "equal", "|log u| <= 20"),
    "empty rows counted": (
        replace(DPO, aggregation=SequenceMean("counted")),
        *("dpo", "equal", "no row is empty"),
    ),
    "one reward summed": (
        replace(DAPO, signal=SumThenNormalise(empty="counted")),
        *("dapo", "equal", "no row is empty"),
    ),
    "terms in another order": (
        Mixture((Objective(signal=Chosen()), presets.dpo(0.1, "none")), (1.0, 1.0)),
        *("cpo", "equal", ""),
    ),
    "DFT": (presets.dft(), "alpha_sft", "equal in gradient", ""),
    "the total variation": (presets.alpha_sft(1.0), "dft", "equal in gradient", ""),
    "importance on policy": (
        on_policy(Importance()),
        *("reinforce", "equal in gradient", ""),
    ),
    "a clip on policy": (
        on_policy(Clipped(0.2, 0.2)),
        *("reinforce", "equal in gradient", ""),
    ),
    "log-ratios to a reference": (
        Objective(anchor="reference"),
        *("sft", "equal in gradient", ""),
    ),
    "f-SFT of total variation": (
        presets.f_sft(TotalVariation()),
        *("sft", "equal in gradient", "r = beta log(pi/ref) < 1/2"),
    ),
    "GEM at beta 1": (presets.gem(1.0), "sft", "equal in gradient", ""),
    "a straight-through k2": (
        replace(GRPO, penalty=Penalty(0.04, gradient="k2", bound=10.0)),
        *("grpo", "equal in gradient", ""),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_an_object_made_by_hand_is_found(name):
    objective, preset, kind, where = FOUND[name]
    one = found(objective)[preset]
    assert (one.kind, one.where) == (kind, where)
    notion = "gradient" if kind == "equal in gradient" else "value"
    near = 0.05 if where else 1.0
    assert same(objective, PRESETS[preset](**one.arguments), notion, near)


# two objects of one normal form, in value or in gradient alone
SAME = {
    "Hellinger as alpha": (
        *(presets.f_dpo(SquaredHellinger(), 0.2), presets.f_dpo(Alpha(0.5), 0.1)),
        "value",
    ),
    "the ratio as alpha": (DAPO, replace(DAPO, divergence=Alpha(-1.0)), "value"),
    "clips at infinity": (RLOO, replace(RLOO, link=Clipped(inf, inf)), "value"),
    "a treatment at infinity": (
        *(DAPO, replace(DAPO, ratio=GeometricClip(inf, inf))),
        "value",
    ),
    "a bound that A > 0 never meets": (
        *(presets.psft(), replace(presets.psft(), link=Clipped(0.2, 0.2, dual=3.0))),
        "value",
    ),
    "a constant length": (
        presets.dr_grpo(9.0),
        replace(presets.dr_grpo(3.0), aggregation=Scaled(SequenceSum(), 1 / 9)),
        "value",
    ),
    "the scale of a square": (
        IPO,
        replace(
            IPO, beta=0.5, link=Squared(0.2), aggregation=Scaled(SequenceMean(), 4.0)
        ),
        "value",
    ),
    "beta of a linear loss": (
        *(Objective(beta=2.0), Objective(aggregation=Scaled(TokenMean(), 2.0))),
        "value",
    ),
    "the scale of a penalty": (
        replace(GRPO, penalty=Penalty(0.1, CHI2, "k2")),
        replace(GRPO, penalty=Penalty(0.05, PearsonChi2(), "k2")),
        "value",
    ),
    "rho k3 and sg(rho) k2": (
        replace(GRPO, penalty=Penalty(0.04, estimator="importance_k3")),
        replace(GRPO, penalty=Penalty(0.04, estimator="importance_k2")),
        "gradient",
    ),
    "CISPO without a cap": (
        weighted(inf),
        Objective(CHI2, anchor="old", link=Importance(), signal=ZScore()),
        "gradient",
    ),
    "a power of the ratio": (
        weighted(inf, 0.5),
        Objective(Alpha(-0.5), anchor="old", signal=ZScore()),
        "gradient",
    ),
    "a gate on policy": (on_policy(SoftGate()), on_policy(Importance()), "gradient"),
}


@pytest.mark.parametrize("name", SAME)
def test_one_normal_form_is_one_loss(name):
    one, other, notion = SAME[name]
    left, right = tree(one, notion), tree(other, notion)
    for setting in (left | right).keys() - {"clamp"}:
        want = right[setting]
        number = isinstance(want, float)
        assert left[setting] == (pytest.approx(want) if number else want), setting
    assert same(one, other, notion)
    if notion == "gradient":
        assert not same(one, other, "value")


DIFFERENT = {
    "a clip binds": (presets.psft(), presets.sft(), "gradient"),
    "denominators": (presets.grpo(kl=None), DAPO, "gradient"),
    "links of one margin": (DPO, replace(IPO, beta=0.1), "gradient"),
    "a stale ratio": (RLOO, presets.rloo(None), "gradient"),
    "powers": (presets.dft(), presets.alpha_sft(0.5), "gradient"),
    "a cap": (weighted(1.05), weighted(inf), "gradient"),
    "k2 and k3": (GRPO, presets.grpo(estimator="k2"), "gradient"),
    "k3 with rho": (GRPO, presets.grpo(estimator="importance_k3"), "gradient"),
    "divergences": (presets.f_dpo(JensenShannon()), DPO, "gradient"),
    "beta of a margin": (DPO, presets.dpo(0.2), "gradient"),
    "values of one gradient": (presets.dft(), presets.alpha_sft(1.0), "value"),
    "weights of a JSD": (
        presets.f_dpo(SkewJensenShannon(0.3)),
        presets.f_dpo(JensenShannon()),
        "gradient",
    ),
    "weights of a sum": (presets.cpo(), presets.cpo(nll=0.5), "gradient"),
    "tempered GEM": (presets.gem(0.7), presets.sft(), "gradient"),
    "lengths of f-DPO": (
        replace(presets.f_dpo(JensenShannon()), per="length", waived=("pair_length",)),
        presets.f_dpo(JensenShannon()),
        "gradient",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_not_equal(name):
    one, other, notion = DIFFERENT[name]
    assert tree(one, notion) != tree(other, notion)
    assert not same(one, other, notion)


def same(one, other, notion, near=1.0):
    """Whether loss and gradient (or the gradient alone) agree on a random batch.

    It has no empty row; `near` shrinks the distance of the anchors to the policy.
    """
    signals = [getattr(t, "signal", None) for t in getattr(one, "terms", (one,))]
    group = 2 if any(isinstance(s, Preference) for s in signals) else 4
    streams, batch = jax.tree.map(lambda x: x[2:], random_batch(group))
    policy = streams.policy
    closer = {
        name: policy + near * (getattr(batch, name) - policy)
        for name in ("old", "reference", "behavior")
    }
    batch = replace(batch, weight=None, **closer)
    (a, da), (b, db) = (value_and_grad(o, streams, batch) for o in (one, other))
    kept = np.asarray(batch.mask)
    grads = [through_logits(g, streams)[kept] for g in (da, db)]
    close = np.allclose(*grads, rtol=1e-9, atol=1e-12)
    return bool(close and (notion == "gradient" or np.isclose(a, b, rtol=1e-10)))


def value_and_grad(objective, streams, batch):
    return jax.value_and_grad(lambda s: objective(s, batch)[0])(streams)


def through_logits(grad, streams):
    """The gradient in the logits [P, G, T, V], of token and vocabulary together."""
    vocab = np.asarray(streams.vocab)
    hot = np.abs(vocab - np.asarray(streams.policy)[..., None])
    hot = hot == hot.min(-1, keepdims=True)
    g = np.asarray(grad.vocab) + np.asarray(grad.policy)[..., None] * hot
    return g - np.exp(vocab) * g.sum(-1, keepdims=True)


def test_the_nearest_preset_says_what_differs():
    (one,) = equals(replace(GRPO, aggregation=TokenMean()))
    assert one.preset == "grpo" and one.kind == "differs"
    settings = [name for name, _, _ in one.differences]
    assert settings == ["aggregation"]
    assert str(one).startswith("grpo() differs in: aggregation SequenceMean(")
    (one,) = equals(replace(presets.grpo(0.1, kl=0.3), link=SoftGate()))
    assert one.arguments == {"kl": pytest.approx(0.3)}
    assert [name for name, _, _ in one.differences] == ["link"]
    (one,) = equals(Objective(link=Linear(), entropy_bonus=0.1))
    assert one.preset == "sft"
    assert one.differences == (("entropy_bonus", "None", "0.1"),)


def test_a_subclass_is_not_its_parent():
    @part
    class Halved(Linear):
        """-A z / 2."""

        def loss(self, z, signal, units):
            return -0.5 * signal * z

    objective = Objective(link=Halved())
    assert {one.kind for one in equals(objective)} == {"differs"}
    assert "Halved(log pi, 1)" in explain(objective)
