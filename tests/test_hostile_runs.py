"""A reward that raises, hangs, dies, or returns nonsense never loses the run."""

import math
import threading
from dataclasses import replace

import hostile_rewards
import jax
import numpy as np
import pytest
from tiny_runs import MODEL, experiment, lines, rollouts, write_sums

from unipost import presets
from unipost.checkpoint import Checkpoints
from unipost.sources import Setting
from unipost.train import train


def run_of(path, reward, **changes):
    data = rollouts(path, reward=reward, time_limit=1.0)
    return replace(
        experiment("grpo", path, steps=3, evaluation=None),
        data=data,
        checkpoints=Checkpoints(1),
        **changes,
    )


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_hostile_reward(staleness, tmp_path):
    """Failures are counted sample by sample, the rest trains, all numbers finite."""
    run = run_of(write_sums(tmp_path), hostile_rewards.hostile, staleness=staleness)
    result = train(run, tmp_path / "run", model=MODEL)
    steps = lines(tmp_path / "run")
    assert len(steps) == 3
    for step in steps:
        assert 0 < step["unscored"] < 16
        assert all(math.isfinite(x) for x in step.values())
    assert any(step["grad_norm"] > 0 for step in steps)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.params))


def test_each_failure_is_that_of_its_sample(tmp_path):
    """What is scored is what the function says of it alone."""
    path = write_sums(tmp_path)
    run = run_of(path, hostile_rewards.hostile)
    setting = Setting(MODEL.policy, MODEL.params, MODEL.tokenizer, 0)
    stream = run.data.open(setting)
    rows, batch = stream.batch(0, MODEL.params)[:2]
    stream.close()
    rewards = np.asarray(batch.rewards).reshape(-1)
    tokens = np.asarray(rows.response).reshape(16, -1)
    mask = np.asarray(rows.response_mask).reshape(16, -1)
    for reward, row, kept in zip(rewards, tokens, mask, strict=True):
        text = MODEL.tokenizer.decode(row[kept].tolist())
        kind = ord(text[0]) % 8 if text else 7
        if kind < 6:
            assert np.isnan(reward)
        else:
            assert reward == len(text) + kind


def test_nothing_is_ever_scored(tmp_path):
    """No signal: the parameters stay where they are but for the decay of weights."""
    path = write_sums(tmp_path)
    run = run_of(path, hostile_rewards.never, objective=presets.dr_grpo(3.0))
    train(run, tmp_path / "run", model=MODEL)
    for step in lines(tmp_path / "run"):
        assert step["unscored"] == 16 and step["grad_norm"] == 0.0
        assert all(math.isfinite(x) for x in step.values())


def test_no_process_and_no_thread_is_left(tmp_path):
    before = threading.active_count()
    run = run_of(write_sums(tmp_path), hostile_rewards.hostile, staleness=1)
    train(run, tmp_path / "run", model=MODEL)
    named = [t.name for t in threading.enumerate() if "unipost" in t.name]
    assert not named and threading.active_count() <= before + 4
