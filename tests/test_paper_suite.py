"""The suite of experiments/papers: every file loads, the levers are what they say."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.papers import tasks
from unipost.ahead import synced
from unipost.batch import Batch
from unipost.config import load
from unipost.experiment import Experiment
from unipost.explain import gradient_coefficient
from unipost.loading import load_model, setting_of
from unipost.pipeline import is_pipeline, load_pipeline
from unipost.study import is_study, load_study
from unipost.tree import load_tree

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments" / "papers").glob("*.yaml"))
TRANSFER = ROOT / "experiments" / "papers" / "transfer.yaml"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_file_loads_and_states_claim_command_and_cost(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    tree = load_tree(file)
    head = "".join(line for line in file.read_text().splitlines() if line[:1] == "#")
    if is_study(tree):
        study = load_study(file)
        assert study.claims
        for claim in study.claims.values():
            assert claim.says and claim.item
        assert all(word in head for word in ("Claim:", "Command:", "Cost:", "Found"))
    elif is_pipeline(tree):
        assert load_pipeline(file).stages
    else:
        assert load(Experiment, file).steps > 0


@pytest.fixture(scope="module")
def levers():
    """The arms of transfer.yaml at one learning rate, by their plain names."""
    arms = load_study(TRANSFER).arms
    return {k.split("@")[0]: arm for k, arm in arms.items() if k.endswith("3e-4")}


def batch_of(rng):
    lengths = rng.integers(1, 7, size=(3, 8))
    mask = (np.arange(6) < lengths[..., None]).astype(float)
    rewards = (rng.random((3, 8)) < 0.5).astype(float)
    return mask, rewards, -rng.exponential(size=mask.shape)


def test_every_arm_is_its_row_of_the_table(levers):
    """GC of a fresh batch is w: 1, the reward, or the z-score in the group."""
    mask, rewards, logps = batch_of(np.random.default_rng(0))
    batch = Batch(
        mask=jnp.asarray(mask), rewards=jnp.asarray(rewards), old=jnp.asarray(logps)
    )
    centred = rewards - rewards.mean(1, keepdims=True)
    z = centred / (rewards.std(1, ddof=1, keepdims=True) + 1e-6)
    expected = {
        "foreign_sft": np.ones_like(rewards),
        "own_sft": np.ones_like(rewards),
        "on_sft": rewards,
        "rft": rewards,
        "off_rl": z,
        "grpo": z,
    }
    for name, w in expected.items():
        found = gradient_coefficient(levers[name].objective, jnp.asarray(logps), batch)
        np.testing.assert_allclose(found, w[..., None] * mask, atol=1e-12, err_msg=name)


def test_the_kl_arm_adds_k3_and_nothing_else(levers):
    mask, rewards, logps = batch_of(np.random.default_rng(1))
    reference = logps + 0.3
    batch = Batch(
        mask=jnp.asarray(mask),
        rewards=jnp.asarray(rewards),
        old=jnp.asarray(logps),
        reference=jnp.asarray(reference),
    )
    plain, kl = (
        gradient_coefficient(levers[name].objective, jnp.asarray(logps), batch)
        for name in ("grpo", "grpo_kl")
    )
    # -d/dlogp of ref/p - 1 - log(ref/p)
    added = 0.05 * (np.exp(reference - logps) - 1) * mask
    np.testing.assert_allclose(kl - plain, added, atol=1e-12)
    same = replace(levers["grpo_kl"].objective, penalty=None)
    assert same == levers["grpo"].objective


def test_arms_differ_in_what_the_header_names_and_nothing_else(levers):
    grpo = levers["grpo"]
    for name, arm in levers.items():
        assert arm.optimizer == grpo.optimizer, name
        assert (arm.minibatches, arm.inner_epochs) == (1, 1), name
        assert arm.data.prompts * arm.data.rows == 128, name
        assert replace(arm.objective, signal=grpo.objective.signal, penalty=None) == (
            grpo.objective
        )
        assert arm.steps == (100 if name == "foreign_sft" else 60)


def test_rft_samples_from_the_frozen_base(levers):
    arm = levers["rft"]
    drawn_from = {synced(s, arm.staleness, arm.sync_every) for s in range(arm.steps)}
    assert drawn_from == {0}
    assert levers["on_sft"].sync_every == 1


def test_the_teacher_of_off_policy_rl_ignores_the_policy(levers, monkeypatch):
    monkeypatch.chdir(ROOT)
    model = load_model("experiments/papers/base", 0)
    stream = levers["off_rl"].data.open(setting_of(model, 0))
    rows, batch = stream.batch(0, model.params)[:2]
    again = stream.batch(0, {})[0]  # it reads no parameters
    np.testing.assert_array_equal(rows.response, again.response)
    rewards = np.asarray(batch.rewards)
    assert 0.4 < rewards.mean() < 0.8  # 60% right
    text = model.tokenizer.decode(np.asarray(rows.response)[0, 0].tolist())
    assert tasks.style_of(text) == "verbose"
