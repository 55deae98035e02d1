"""PPO as a run: it learns, resumes with its critic, and asks for one."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
from tiny_runs import MODEL, experiment, lines, rollouts, write_sums

from unipost import presets
from unipost.adapters import LoRA
from unipost.optimizers import SGD, AdamW
from unipost.scalar.critic import Critic, open_critic
from unipost.scalar.hf import load_classifier
from unipost.train import train


def evens(response: str, answer: str) -> float:
    """Even digits among the first three characters, of three."""
    return sum(x in "02468" for x in response[:3]) / 3


def ppo_run(path, **changes):
    """PPO with two inner epochs of two minibatches, rewarded for even digits."""
    whole = experiment(
        "grpo",
        path,
        data=rollouts(path, reward=evens, group=8),
        objective=presets.ppo(kl=0.01),
        critic=Critic(AdamW(2e-2), clip=0.5),
        inner_epochs=2,
        minibatches=2,
        evaluation=None,
    )
    return dataclasses.replace(whole, **changes)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def test_ppo_raises_the_reward_and_its_critic_follows(sums, tmp_path):
    train(ppo_run(sums, steps=12, checkpoints=None), tmp_path / "run")
    found = lines(tmp_path / "run")
    reward = [line["reward"] for line in found]
    # an even digit by chance, then nearly always
    assert np.mean(reward[:2]) < 0.5 < 0.85 < np.mean(reward[-3:])
    # a critic of zeros explains nothing; later its values follow the returns
    assert found[0]["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert found[0]["value_mean"] == 0.0
    last = found[-1]
    assert last["value_mean"] == pytest.approx(last["return_mean"], abs=0.1)
    assert last["value_loss"] < found[0]["value_loss"] / 5
    assert math.isfinite(last["critic_grad_norm"])


def test_a_killed_run_goes_on_with_its_critic(sums, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(ppo_run(sums, steps=4), whole)
    train(ppo_run(sums, steps=4), cut)
    for folder in sorted((cut / "checkpoints").iterdir()):
        if folder.name == "4":
            shutil.rmtree(folder)
    shutil.rmtree(cut / "final")
    shutil.rmtree(cut / "critic")
    train(ppo_run(sums, steps=4), cut)
    for name in ("metrics.jsonl", "critic/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    found = load_classifier(whole / "critic")
    assert found.layout == "token" and found.params["score"]["kernel"].shape == (16, 1)
    again = open_critic(Critic(SGD(0.1), model=str(whole / "critic")), MODEL)
    head = again.init().params["score"]["kernel"]
    np.testing.assert_array_equal(head, found.params["score"]["kernel"])


def test_microbatches_and_an_adapted_policy_change_no_number(sums, tmp_path):
    plain = ppo_run(sums, steps=2, lora=LoRA(rank=2), checkpoints=None)
    train(plain, tmp_path / "one")
    train(dataclasses.replace(plain, microbatches=2), tmp_path / "two")
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


def test_a_critic_is_asked_for_and_read(sums):
    with pytest.raises(ValueError, match="needs batch.values, a critic's values; wri"):
        ppo_run(sums, critic=None)
    with pytest.raises(ValueError, match="critic: the objective reads no values"):
        ppo_run(sums, objective=presets.grpo())
