"""The parts of training together: stacks, samples of several runs, meetings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import MODEL, params_of

from unipost.runs import RunError
from unipost.sampling import Sampling, compiled_sample
from unipost.vectorised import steps
from unipost.vectorised.meeting import Meeting
from unipost.vectorised.sampling import policy_of_runs
from unipost.vectorised.stacks import call, joined, parted, stack
from unipost.vectorised.steps import default_way, parts_of


@pytest.mark.parametrize("way", ["vmap", "map"])
def test_stacks_share_what_is_equal_and_widen_nothing(way):
    narrow = jnp.ones(3, jnp.bfloat16)
    trees = [{"x": narrow, "beta": b, "eps": 1e-8} for b in (1, 0.5)]
    whole = stack(trees)
    axes = dict(zip(sorted(trees[0]), whole.axes, strict=True))
    assert axes == {"x": None, "beta": 0, "eps": None}
    out = call(way, _scaled, whole)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, [[1.0] * 3, [0.5] * 3])
    whole = joined([{"a": jnp.arange(3) + i} for i in range(2)])
    assert whole["a"].shape == (2, 3)
    for i, tree in enumerate(parted(whole, 2)):
        np.testing.assert_array_equal(tree["a"], np.arange(3) + i)


def _scaled(tree):
    return tree["x"] * tree["beta"] + tree["eps"] * 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_of_several_runs_are_those_of_each(temperature):
    params = [params_of(i) for i in range(3)]
    keys = [jax.random.key(i) for i in range(3)]
    rng, sampling = np.random.default_rng(0), Sampling(6, temperature)
    prompts = rng.integers(1, 12, (3, 2, 4))
    masks = np.arange(4) >= rng.integers(0, 3, (3, 2, 1))
    options = {"group": 3, "stop_tokens": (1,), "pad_token": 0}
    alone = [
        compiled_sample(MODEL.policy, p, x, m, k, sampling, **options)
        for p, x, m, k in zip(params, prompts, masks, keys, strict=True)
    ]
    found = compiled_sample(
        policy_of_runs(MODEL.policy, 3),
        (stack([None] * 3), stack(params)),
        prompts.reshape(6, 4),
        masks.reshape(6, 4),
        jnp.repeat(jnp.stack(keys), 6),
        sampling,
        ids=np.tile(np.arange(6), 3),
        **options,
    )
    for i, own in enumerate(alone):
        mine = [x[2 * i : 2 * i + 2] for x in found]
        for a, b in zip(mine, own, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_meeting_answers_all_who_wait_at_once():
    calls = []

    def answer(asked):
        calls.append(dict(asked))
        return {place: 10 * x for place, x in asked.items()}

    def job(place, times):
        return lambda: [meeting.ask(place, place + i) for i in range(times)]

    def failing():
        raise RunError("no reward")

    with Meeting(3) as meeting:
        found = meeting.run({0: job(0, 1), 1: job(1, 2), 2: job(2, 0)}, answer)
        assert found == {0: [0], 1: [10, 20], 2: []}
        assert calls == [{0: 0, 1: 1}, {1: 2}]
        with pytest.raises(RunError, match="no reward"):
            meeting.run({0: job(0, 2), 1: failing}, answer)
        with pytest.raises(ZeroDivisionError):
            meeting.run({0: job(0, 1)}, lambda asked: 1 / 0)
        assert meeting.run({0: job(0, 1)}, answer) == {0: [0]}


def test_a_meeting_that_is_interrupted_lets_its_jobs_go(monkeypatch):
    left = []

    def job():
        try:
            meeting.ask(0, "a question")
        finally:
            left.append(True)

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Meeting, "_questions", interrupted)
    with pytest.raises(KeyboardInterrupt), Meeting(1) as meeting:
        meeting.run({0: job}, lambda asked: asked)
    assert left == [True]


def test_a_part_for_every_core(monkeypatch):
    assert default_way() == "map"  # on a CPU
    monkeypatch.setattr(steps, "cores", lambda: 4)
    assert [parts_of(runs, "map") for runs in (1, 3, 16)] == [1, 3, 4]
    assert parts_of(16, "vmap") == 1
