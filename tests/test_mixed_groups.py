"""Signals and scores of mixed groups: which rows they see, gates, flags of tokens."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import oracle_mixing as oracle
import pytest
from mixed_batches import agrees, batch_of, mixed, streams_of, value_and_grad, weights
from test_mixing import RECIPES

from unipost import Objective, Score, presets
from unipost.choices import REGISTRIES
from unipost.classical import PearsonChi2, ReverseKL
from unipost.config import CHOICES, build, dump_tree, load_tree, to_tree
from unipost.corrections import TopEntropy
from unipost.links import Importance, Linear
from unipost.mixed_groups import DemonstrationRows, Gate, HybridMean, OwnRows
from unipost.objectives import AnyObjective
from unipost.parametric import Alpha, unit_curvature
from unipost.signals import Mean, ZScore

CHOICES.update(REGISTRIES)


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
    agrees(presets.luffy(9.0), data, oracle.luffy)
    agrees(presets.luffy(9.0, clip=0.2), data, lambda x: oracle.luffy(x, clip=0.2))
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


YAML = {
    "{name: hpt, max_length: 9, gate: {most: 1}}": presets.hpt(9.0, Gate(1)),
    "{name: srft, max_length: 9, signal: mean}": presets.srft(
        max_length=9.0, signal=Mean()
    ),
    "{name: luffy, max_length: 9, off_policy: {divergence: {name: alpha, a: -0.5}, "
    "beta: 0.5}}": replace(
        presets.luffy(9.0), off_policy=Score(Alpha(-0.5), 0.5, link=Linear())
    ),
    "{name: dapo, signal: {name: own_rows, signal: mean, over: union}}": replace(
        presets.dapo(), signal=OwnRows(Mean(), "union")
    ),
    "{name: sft, signal: {name: demonstration_rows, gate: {above: 0}}}": replace(
        presets.sft(), signal=DemonstrationRows(gate=Gate(0, 0.0))
    ),
    "{name: prefix_rft, corrections: {'0': {share: 0.5}}}": presets.prefix_rft(0.5),
}


@pytest.mark.parametrize("text", YAML)
def test_recipes_in_yaml_and_back(text, tmp_path):
    (tmp_path / "x.yaml").write_text(f"objective: {text}\n")
    objective = build(AnyObjective, load_tree(tmp_path / "x.yaml")["objective"])
    assert objective == YAML[text]
    (tmp_path / "y.yaml").write_text(dump_tree(to_tree(objective, AnyObjective)))
    assert build(AnyObjective, load_tree(tmp_path / "y.yaml")) == objective
