"""Recipes that mix own samples and demonstrations, against numpy written from papers.

Loss, and gradient in log-probs and entropies by complex steps, to 1e-11, on ragged
batches with an empty row, an unscored one, and groups that lack one kind of row.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracle_mixing as oracle
import pytest
from oracle_mixing import Mixed

from unipost import Batch, Objective, Score, Streams, presets
from unipost.aggregation import Constant, TokenMean
from unipost.classical import PearsonChi2, ReverseKL
from unipost.corrections import TopEntropy
from unipost.links import Importance, Linear
from unipost.mixed_groups import DemonstrationRows, Gate, HybridMean, OwnRows
from unipost.objective import at_present
from unipost.parametric import Alpha, unit_curvature
from unipost.signals import Mean, Ones, ZScore


def mixed(seed=0, prompts=5, group=5, tokens=6, prefix=False, spread=0.5):
    """Rows 0..3 are the policy's, row 4 is a demonstration (or begins with one)."""
    rng = np.random.default_rng(seed)
    shape = (prompts, group, tokens)
    lengths = rng.integers(2, tokens + 1, shape[:2])
    lengths[0, 1] = 0
    mask = (np.arange(tokens) < lengths[..., None]).astype(float)
    rewards = rng.choice([0.0, 1.0], shape[:2])
    rewards[1], rewards[1, 4] = 0.0, 1.0  # a question that the policy fails
    rewards[2] = 1.0  # and one that it has solved
    rewards[3, 0] = np.nan
    off = np.zeros(shape, bool)
    ends = rng.integers(1, 3, (prompts, 1)) if prefix else tokens
    off[:, -1] = np.arange(tokens) < ends
    base = -rng.gamma(2.0, 0.5, shape) - 0.1

    def near():
        return np.minimum(base + spread * rng.normal(size=shape), -0.02)

    behavior = near()
    behavior[0, -1] = np.nan  # nobody knows who wrote this one
    return Mixed(
        logp=near(),
        mask=mask,
        rewards=rewards,
        old=near(),
        ref=near(),
        behavior=behavior,
        off=off,
        entropy=rng.uniform(0.1, 2.0, shape),
    )


def batch_of(data, flat=False):
    """The batch, with NaN where the mask is 0; `flat`: flags of rows."""
    dirty = np.where(data.mask > 0, 0.0, np.nan)
    off = data.off[..., 0] if flat else data.off
    return Batch(
        mask=jnp.asarray(data.mask),
        rewards=jnp.asarray(data.rewards),
        old=jnp.asarray(data.old + dirty),
        reference=jnp.asarray(data.ref + dirty),
        behavior=jnp.asarray(data.behavior + dirty),
        off_policy=jnp.asarray(off),
    )


def streams_of(data):
    return Streams(policy=jnp.asarray(data.logp), entropy=jnp.asarray(data.entropy))


def value_and_grad(objective, data, batch):
    def loss(streams):
        return objective(streams, batch)[0]

    value, grads = jax.value_and_grad(loss)(streams_of(data))
    return float(value), grads


def agrees(objective, data, loss, flat=False):
    """Loss and gradients equal those of the oracle."""
    value, grads = value_and_grad(objective, data, batch_of(data, flat))
    assert value == pytest.approx(float(np.real(loss(data))), rel=1e-11, abs=1e-13)
    for got, want in zip(
        (grads.policy, grads.entropy), oracle.slopes(loss, data), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


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


def with_rewards(value):
    """Every own row of every group has this reward."""

    def changed(data):
        rewards = data.rewards.copy()
        rewards[:, :-1] = value
        return replace(data, rewards=rewards)

    return changed


def without(rows):
    """A batch whose groups lack these rows."""

    def changed(data):
        mask = data.mask.copy()
        mask[:, rows] = 0.0
        return replace(data, mask=mask)

    return changed


def with_two_demonstrations(data):
    off = data.off.copy()
    off[:, -2] = off[:, -1]
    return replace(data, off=off)


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


def weights(objective, data, flat=True):
    """-d loss / d log pi [P, G, T]."""
    return -np.asarray(value_and_grad(objective, data, batch_of(data, flat))[1].policy)


def test_the_menu_of_shapings_is_the_divergence_of_the_off_policy_score():
    """LUFFY's no_reshape p, square_root, pow and logp: A f'(p) p per token."""
    data = mixed(3)
    adv = oracle.groups(data, oracle.union(data), "mean")
    menu = {
        "p": (unit_curvature(PearsonChi2()), 1.0, Importance(), lambda p: p),
        "sqrt": (Alpha(-0.5), 0.5, Linear(), lambda p: np.sqrt(p) / 2),
        "pow": (Alpha(-0.3), 0.3, Linear(), lambda p: 0.3 * p**0.3),
        "log": (ReverseKL(), 1.0, Linear(), np.ones_like),
    }
    for divergence, beta, link, slope in menu.values():
        score = Score(divergence, beta, link=link)
        got = weights(replace(presets.luffy(9.0), off_policy=score), data)
        for i in data.shown:
            want = adv[i[:2]] * slope(np.exp(data.logp[i])) / 9.0
            assert got[i] == pytest.approx(want, rel=1e-12, abs=1e-15)


def test_mixing_without_a_shape_hardly_learns_an_improbable_token():
    """Table 4: -A p against -A p/(p + 0.1); the shaped weight is largest near 0.083."""
    p = np.array([1e-3, 0.05, 1 / 12, 0.5, 0.9])
    data = mixed(4, prompts=5)
    logp = data.logp.copy()
    logp[:, 4, 0] = np.log(p)
    rewards = np.zeros((5, 5))
    rewards[:, 4] = 1.0
    data = replace(data, logp=logp, rewards=rewards)
    plain, shaped = (
        weights(presets.luffy(9.0, gamma), data)[:, 4, 0] for gamma in (None, 0.1)
    )
    np.testing.assert_allclose(shaped / plain, 0.1 / (p + 0.1) ** 2, rtol=1e-12)
    assert shaped.argmax() == 2 and plain.argmax() == 4


def test_the_clip_takes_a_demonstration_of_a_worse_group_as_ppo_would():
    """With probability 1 behind it u = p <= 1: only A < 0 and p < 0.8 is clipped."""
    data = mixed(5)
    rewards = np.where(np.isfinite(data.rewards), 1.0, 1.0)
    rewards[:, 4] = 0.0
    data = replace(data, rewards=rewards)
    got = weights(presets.luffy(9.0, None, 0.2, off_clip=0.2), data)
    for i in data.shown:
        p = np.exp(data.logp[i])
        assert (got[i] != 0) == (p >= 0.8)


def test_a_gate_switches_prompt_by_prompt():
    """A failing prompt moves its demonstration alone, another one its own rows."""
    data = mixed(6)
    objective = presets.hpt(9.0, entropy=None)
    got = np.abs(weights(objective, data)).sum(-1)
    for p in data.prompts:
        solved = any(data.rewards[row] > 0.5 for row in data.own(p))
        assert (got[p, 4] > 0) == (not solved)
        if not solved:
            assert not got[p, :4].any()
    assert got[1, 4] > 0 and not got[2].any()  # solved by all: A = 0


def test_statistics_over_own_rows_or_the_union():
    data = mixed(7)
    batch = batch_of(data, flat=True)
    for over, rows in (("own", data.own), ("union", oracle.union(data))):
        want = oracle.groups(data, rows, "mean")
        got = np.asarray(Objective(signal=OwnRows(Mean(), over)).advantage(batch))
        for row in data.all_own:
            assert got[row][0] == pytest.approx(want[row], abs=1e-15)
    union = oracle.groups(data, oracle.union(data), "mean")
    demonstrated = Objective(signal=DemonstrationRows(Mean())).advantage(batch)
    for p in data.prompts:
        assert demonstrated[p, 4, 0] == pytest.approx(union[p, 4], abs=1e-15)


def test_flags_of_tokens_and_of_rows_are_one():
    """A demonstration that is flagged on all its tokens is a flagged row."""
    data = mixed(8)
    for name in set(RECIPES):
        objective = RECIPES[name][0]
        rows, tokens = (
            value_and_grad(objective, data, batch_of(data, flat))
            for flat in (True, False)
        )
        assert rows[0] == tokens[0], name
        np.testing.assert_array_equal(rows[1].policy, tokens[1].policy)


def test_the_score_of_demonstrations_is_for_flagged_tokens_alone():
    """LUFFY on a continued prefix: p/(p + g) there, the ratio to old behind it."""
    data = mixed(9, prefix=True)
    adv = oracle.groups(data, oracle.union(data), "mean")
    got = weights(presets.luffy(9.0), data, flat=False)
    for i in data.tokens([(p, 4) for p in data.prompts]):
        p, u = np.exp(data.logp[i]), np.exp(data.logp[i] - data.old[i])
        weight = 0.1 * p / (p + 0.1) ** 2 if data.off[i] else u
        want = adv[i[:2]] * weight / 9.0
        assert got[i] == pytest.approx(want, rel=1e-12, abs=1e-15)


def test_a_sequence_has_no_flags_of_tokens():
    objective = replace(
        presets.gspo(), off_policy=Score(level="sequence_mean"), clamp=None
    )
    data = mixed(10, prefix=True)
    with pytest.raises(ValueError, match="off_policy: one per token with level seq"):
        objective(streams_of(data), batch_of(data))
    assert np.isfinite(float(objective(streams_of(data), batch_of(data, True))[0]))


def test_a_gate_beyond_the_group_is_refused():
    data = mixed(11)
    for most in (4, 8):
        objective = presets.hpt(9.0, Gate(most))
        with pytest.raises(ValueError, match=f"gate.most: {most} in groups of 5"):
            objective(streams_of(data), batch_of(data, True))
    agrees(presets.hpt(9.0, Gate(3)), data, lambda x: oracle.hpt(x, 3), True)


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_without_flags_is_refused(name):
    data = mixed(12)
    with pytest.raises(ValueError, match="batch.off_policy: missing"):
        RECIPES[name][0](streams_of(data), replace(batch_of(data), off_policy=None))


def test_equal_rewards_give_exactly_zero():
    """0.1 has no exact mean: A is 0 all the same, of prefixes too."""
    data = mixed(13, prefix=True)
    data = replace(data, rewards=np.full_like(data.rewards, 0.1))
    batch = batch_of(data)
    for signal in (HybridMean(), OwnRows(Mean()), DemonstrationRows(ZScore())):
        assert not np.asarray(Objective(signal=signal).advantage(batch)).any()


def test_the_share_is_of_the_prefix_tokens_of_the_whole_batch():
    data = mixed(14, prompts=6, prefix=True)
    batch = replace(batch_of(data), current_entropy=jnp.asarray(data.entropy))
    kept = np.asarray(TopEntropy(0.4, "off_policy")(batch, batch.mask, None)) > 0
    flagged = data.off & (data.mask > 0)
    assert kept[~flagged].all()
    ranked = np.sort(data.entropy[flagged])
    least = data.entropy[flagged & kept].min()
    assert (ranked >= least).sum() == (kept & flagged).sum()
    assert (kept & flagged).sum() == pytest.approx(0.4 * flagged.sum(), abs=1)


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
