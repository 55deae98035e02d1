"""Recipes that mix own samples and demonstrations, against numpy written from papers.

Loss, and gradient in log-probs and entropies by complex steps, to 1e-11, on ragged
batches with an empty row, an unscored one, and groups that lack one kind of row.
"""

from dataclasses import replace

import jax
import numpy as np
import oracle_mixing as oracle
import pytest
from mixed_batches import (
    agrees,
    batch_of,
    mixed,
    streams_of,
    value_and_grad,
    with_rewards,
    with_two_demonstrations,
    without,
)

from unipost import Objective, presets
from unipost.aggregation import Constant, TokenMean
from unipost.mixed_groups import DemonstrationRows, Gate
from unipost.objective import at_present
from unipost.signals import Mean, Ones, ZScore

RECIPES = {
    "luffy": (presets.luffy(9.0), oracle.luffy, {}),
    "luffy-paper": (
        presets.luffy(clip=0.2, signal=ZScore(), aggregation=Constant(9.0, "nothing")),
        *(oracle.luffy, {"clip": 0.2, "kind": "z"}),
    ),
    "luffy-mixed": (
        presets.luffy(9.0, gamma=None, clip=0.2, off_clip=0.2),
        *(oracle.luffy, {"gamma": None, "clip": 0.2, "off_clip": 0.2}),
    ),
    "luffy-shaped": (
        presets.luffy(9.0, clip=0.2, gamma=0.3),
        *(oracle.luffy, {"gamma": 0.3, "clip": 0.2}),
    ),
    "luffy-no-reshape": (presets.luffy(9.0, None), oracle.luffy, {"gamma": None}),
    "luffy-given": (
        presets.luffy(9.0, behavior="given"),
        *(oracle.luffy, {"given": True}),
    ),
    "luffy-given-mixed": (
        presets.luffy(9.0, None, 0.2, off_clip=0.3, behavior="given"),
        oracle.luffy,
        {"gamma": None, "clip": 0.2, "off_clip": 0.3, "given": True},
    ),
    "rl_sft": (presets.rl_sft(9.0), oracle.rl_sft, {}),
    "rl_sft-entropy": (
        presets.rl_sft(9.0, 0.4, None, ZScore(), entropy=0.2),
        *(oracle.rl_sft, {"sft": 0.4, "clip": None, "entropy": 0.2, "kind": "z"}),
    ),
    "srft": (presets.srft(max_length=9.0), oracle.srft, {}),
    "srft-shaped": (
        presets.srft(0.2, 0.3, 9.0, 0.1, Mean()),
        *(oracle.srft, {"sft": 0.2, "rl": 0.3, "gamma": 0.1, "kind": "mean"}),
    ),
    "chord": (presets.chord(), oracle.chord, {"mu": 0.9}),
    "chord-probability": (
        presets.chord(0.3, "probability", 0.1),
        *(oracle.chord, {"mu": 0.3, "weighting": "probability", "clip": 0.1}),
    ),
    "chord_phi": (
        presets.chord_phi(),
        *(oracle.chord, {"mu": 0.1, "weighting": "bernoulli"}),
    ),
    "hpt": (presets.hpt(9.0), oracle.hpt, {}),
    "hpt-gate": (
        presets.hpt(9.0, Gate(2, 0.2), 0.5, 0.3, 0.1, signal=ZScore()),
        oracle.hpt,
        {"most": 2, "above": 0.2, "rl": 0.5, "sft": 0.3, "entropy": 0.1, "kind": "z"},
    ),
    "relift": (presets.relift(), oracle.relift, {}),
    "relift-entropy": (
        presets.relift(0.5, 0.3, 0.1),
        *(oracle.relift, {"sft": 0.5, "entropy": 0.3, "clip": 0.1}),
    ),
    "prefix_rft": (presets.prefix_rft(), oracle.prefix_rft, {}),
    "prefix_rft-hybrid": (
        presets.prefix_rft(0.5, dual=1.1, entropy=0.2, continuation="hybrid"),
        oracle.prefix_rft,
        {"share": 0.5, "dual": 1.1, "entropy": 0.2, "continuation": "hybrid"},
    ),
}


CASES = {
    "ragged": lambda data: data,
    "all failed": with_rewards(0.0),
    "all solved": with_rewards(1.0),
    "nothing scored": with_rewards(np.nan),
    "demonstrations alone": without(slice(0, 4)),
    "own rows alone": without(slice(4, 5)),
    "two demonstrations": with_two_demonstrations,
    "one own row": without(slice(1, 4)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_formula(name, case):
    objective, loss, hyper = RECIPES[name]
    prefix = name.startswith("prefix")
    data = CASES[case](mixed(len(name), prefix=prefix))
    agrees(objective, data, lambda x: loss(x, **hyper), flat=not prefix)


def test_every_recipe_of_the_family_has_a_formula():
    assert {name.split("-")[0] for name in RECIPES} == set(presets.FAMILIES["mixing"])


@pytest.mark.parametrize("name", RECIPES)
def test_an_empty_batch_is_zero(name):
    data = mixed(1, prefix=name.startswith("prefix"))
    value, grads = value_and_grad(
        RECIPES[name][0], data, batch_of(without(slice(0, 5))(data))
    )
    assert value == 0.0
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", RECIPES)
def test_prompts_one_by_one_add_up(name):
    """Gates, advantages and denominators are those of the batch before the cut."""
    objective = RECIPES[name][0]
    data = mixed(2, prefix=name.startswith("prefix"))
    streams, batch = streams_of(data), batch_of(data)
    prepared = objective.prepare(at_present(objective, streams, batch))
    whole, metrics = objective.loss(streams, prepared)
    cuts = [
        objective.loss(*jax.tree.map(lambda x, p=p: x[p : p + 1], (streams, prepared)))
        for p in range(5)
    ]
    assert float(sum(x for x, _ in cuts)) == pytest.approx(float(whole), rel=1e-12)
    for key, value in metrics.items():
        total = sum(float(m[key]) for _, m in cuts)
        assert total == pytest.approx(float(value), rel=1e-11, abs=1e-13), key


def test_recipes_are_one_another_where_the_papers_say_so():
    """ReLIFT without its bonus is RL with an SFT loss; CHORD with mu 1/2 is half."""
    data = mixed(15)
    batch = batch_of(data, True)
    relift = presets.relift(1.0, None)
    other = presets.rl_sft(aggregation=TokenMean(), signal=ZScore())
    half = presets.chord(0.5)
    one, two, three = (value_and_grad(o, data, batch) for o in (relift, other, half))
    assert one[0] == two[0] == pytest.approx(2 * three[0], rel=1e-14)
    np.testing.assert_allclose(one[1].policy, 2 * three[1].policy, rtol=1e-13)
    sft = Objective(signal=DemonstrationRows(Ones()))
    alone = without(slice(0, 4))(data)
    plain = replace(batch_of(alone, True), off_policy=None)
    want = float(presets.sft()(streams_of(alone), plain)[0])
    assert value_and_grad(sft, alone, batch_of(alone, True))[0] == want
