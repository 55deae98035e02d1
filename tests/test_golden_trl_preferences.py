"""Loss, gradient and metrics of every recorded TRL case: preferences, SFT, rewards.

The cases are TRL 1.16's own numbers, at the tolerance recorded with each.
"""

import dataclasses
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from trl_inputs import computed

from unipost import Mixture, trl
from unipost.aggregation import Scaled

FOLDER = Path(__file__).parent / "fixtures" / "cases"
FAMILIES = ("dpo", "kto", "cpo", "orpo", "sft", "reward_model")
ALIASES = {"reward_model": trl.reward}
# their implicit reward is beta log u, as TRL's metrics are
LOG_RATIO = ("sigmoid", "hinge", "exo_pair", "robust", "discopop", "nca_pair")
LOG_RATIO += ("bco_pair", "apo_zero", "apo_down")
REWARDS = {
    "chosen": "metric:rewards/chosen",
    "rejected": "metric:rewards/rejected",
    "margin": "metric:rewards/margins",
    "accuracy": "metric:rewards/accuracies",
}


def recorded(family):
    """(case, inputs, expected outputs) of a family, arrays loaded."""
    data = json.loads((FOLDER / f"{family}.json").read_text())
    arrays = np.load(FOLDER / f"{family}.npz")
    for case in data["cases"]:
        name = case["case"]
        outputs = {
            key: arrays[f"{name}/out/{key}"] if value == "array" else value
            for key, value in case["outputs"].items()
        }
        inputs = {key: arrays[f"{name}/in/{key}"] for key in case["inputs"]}
        tol = case.get("tol") or data["tol"]
        yield pytest.param(family, case["hyper"], inputs, outputs, tol, id=name)


CASES = [case for family in FAMILIES for case in recorded(family)]


def alias_of(family):
    return ALIASES.get(family) or getattr(trl, family)


def objective_of(family, hyper, inputs):
    """The alias with those of the recorded options that it has."""
    alias = alias_of(family)
    options = {
        k: v for k, v in hyper.items() if k in inspect.signature(alias).parameters
    }
    if family == "cpo":
        if hyper["loss_type"] not in ("simpo", "alphapo"):
            options.pop("simpo_gamma")  # recorded for every loss, read by these two
        if "logits" not in inputs:
            options["cpo_alpha"] = 0.0  # the record is of `cpo_loss` alone
    objective = alias(**options)
    if family == "orpo" and "logits" not in inputs:  # of `odds_ratio_loss` alone
        assert isinstance(objective, Mixture)
        _, odds = objective.terms
        scaled = Scaled(odds.aggregation, objective.weights[1])
        return dataclasses.replace(odds, aggregation=scaled)
    return objective


def known_metrics(family, hyper, inputs, outputs):
    """Our metric -> the recorded number, where both libraries report the quantity."""
    found = {}
    match family:
        case "dpo":
            plain = hyper["f_divergence_type"] == "reverse_kl"
            (name, *more) = hyper["loss_type"]
            if plain and not more and name in LOG_RATIO and hyper["data"] != "empty":
                found = {ours: outputs[theirs] for ours, theirs in REWARDS.items()}
        case "kto":
            good = np.asarray(inputs["labels"]) != 0
            sides = (("chosen", good.sum()), ("rejected", (~good).sum()))
            total = sum(outputs[f"metric:rewards/{s}"] * n for s, n in sides if n)
            shift = hyper["beta"] * outputs["metric:kl"]
            found = {"implicit_reward": total / len(good) - shift}
        case "cpo" if hyper["loss_type"] != "ipo":
            if "logits" in inputs:
                found = {ours: outputs[theirs] for ours, theirs in REWARDS.items()}
            else:
                sides = ("chosen", "rejected")
                found = {s: outputs[f"{s}_rewards"].mean() for s in sides}
            if hyper.get("cpo_alpha_resolved"):
                found["1/loss"] = outputs["metric:nll_loss"]
        case "orpo" if "logits" in inputs:
            found["1/margin"] = outputs["metric:log_odds_chosen"]
            found["1/loss"] = -outputs["metric:log_odds_ratio"]
        case "orpo":
            found["margin"] = outputs["log_odds_mean"]
    return found


@pytest.mark.parametrize("family, hyper, inputs, outputs, tol", CASES)
def test_recorded(family, hyper, inputs, outputs, tol):
    objective = objective_of(family, hyper, inputs)
    (loss, metrics), gradient = computed(family, objective, inputs)
    np.testing.assert_allclose(loss, outputs["loss"], **tol)
    np.testing.assert_allclose(gradient, outputs["grad"], **tol)
    for name, want in known_metrics(family, hyper, inputs, outputs).items():
        np.testing.assert_allclose(metrics[name], want, **tol, err_msg=name)


def test_the_options_of_the_record_are_read():
    """Every recorded option is the alias's, or says where the record comes from."""
    names = {
        (family, name)
        for family in FAMILIES
        for case in json.loads((FOLDER / f"{family}.json").read_text())["cases"]
        for name in case["hyper"]
    }
    read = {
        (family, name)
        for family in FAMILIES
        for name in inspect.signature(alias_of(family)).parameters
    }
    assert {name for _, name in names - read} == {
        *("data", "precomputed_ref"),  # dpo: the inputs
        "average",  # cpo: what loss_type implies
        *("loss_type_resolved", "cpo_alpha_resolved"),
    }
