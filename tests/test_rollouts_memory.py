"""What a stream of rollouts remembers: through files, kills, and for long runs."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scripted import Scripted, half, steps, through_a_file, wrong
from tiny_runs import (
    MODEL,
    SETTING,
    STEPS,
    experiment,
    lines,
    params_of,
    rollouts,
    write_sums,
)

from unipost import loop, presets
from unipost.choices import REGISTRIES
from unipost.config import build, to_tree
from unipost.rewards import exact
from unipost.rollouts import (
    BufferedDemonstrations,
    Curriculum,
    Demonstration,
    Drop,
    Prefix,
    Prioritised,
    Replay,
    Resample,
)
from unipost.sources import Mixture, Source
from unipost.train import train

OTHER = params_of(5)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def difficult(tmp_path) -> str:
    path = tmp_path / "levels.jsonl"
    lines = [
        f'{{"prompt": "{i}+{i}=", "answer": "{2 * i}", "level": {9 - i}}}'
        for i in range(10)
    ]
    path.write_text("\n".join(lines))
    return str(path)


KINDS = {
    "plain": {},
    "demonstration": {"guidance": (Demonstration(),)},
    "replay": {"guidance": (Replay(capacity=20, keep="correct"),)},
    "prefix": {"guidance": (Prefix(steps=4),)},
    "buffered": {"guidance": (BufferedDemonstrations(size=9),), "reward": exact},
    "drop": {"groups": Drop()},
    "resample": {"groups": Resample(3), "reward": exact, "sampler": Scripted(half)},
    "prioritised": {"order": Prioritised()},
    "curriculum": {"order": Curriculum("level", 5)},
    "all": {
        "group": 7,
        "guidance": (Replay(), Prefix(steps=4), Demonstration(), Replay(2, 9)),
        "groups": Resample(2),
        "order": Prioritised(),
        "truncated": "masked",
        "rewards": "shuffled",
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_stream_goes_on_as_it_would_have(kind, tmp_path):
    source = rollouts(difficult(tmp_path), **KINDS[kind])
    stream = source.open(SETTING)
    whole = steps(stream, OTHER, 5)
    again = steps(source.open(SETTING), OTHER, 5, keep=through_a_file)
    for one, other in zip(whole, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one[:3], other[:3])
        assert one.metrics.keys() == whole[0].metrics.keys()
        assert all(np.isfinite(v) for v in one.metrics.values())
        assert one.memory.keys() == other.memory.keys() == whole[0].memory.keys()
        shapes = [x.shape for x in jax.tree.leaves(one[:2])]
        assert shapes == [x.shape for x in jax.tree.leaves(whole[0][:2])]
    # asked twice with the same memory it says the same, and memories stay as they were
    before = {k: np.array(v) for k, v in whole[2].memory.items()}
    last = stream.batch(3, OTHER, whole[2].memory)
    jax.tree.map(np.testing.assert_array_equal, last[:3], whole[3][:3])
    jax.tree.map(np.testing.assert_array_equal, before, dict(whole[2].memory))


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_written_and_read_as_yaml(kind):
    source = rollouts("sums.jsonl", **(KINDS[kind] | {"sampler": rollouts("").sampler}))
    source = replace(source, reward=exact)
    tree = to_tree(source, Source)
    assert build(REGISTRIES[Source], tree, "data") == source


def test_a_mixture_keeps_the_memories_apart(sums):
    parts = (
        rollouts(sums, guidance=(Replay(capacity=30),)),
        rollouts(sums, guidance=(Replay(capacity=60),)),
    )
    source = Mixture(parts)
    whole = steps(source.open(SETTING), OTHER, 4, keep=through_a_file)
    for part, place in zip(parts, (slice(0, 4), slice(4, 8)), strict=True):
        alone = steps(part.open(SETTING), OTHER, 4)
        for both, one in zip(whole, alone, strict=True):
            mine = jax.tree.map(lambda x, at=place: x[at], both.batch)
            jax.tree.map(np.testing.assert_array_equal, mine, one.batch)


def test_memory_is_bounded_over_two_hundred_steps(sums):
    parts = (Replay(rows=2, capacity=40), BufferedDemonstrations(size=6))
    source = rollouts(sums, group=5, guidance=parts, sampler=Scripted(wrong))
    source = replace(source, reward=exact, order=Prioritised())
    stream, memory, sizes = source.open(SETTING), {}, set()
    for step in range(200):
        memory = stream.batch(step, OTHER, memory).memory
        sizes.add(sum(np.asarray(x).nbytes for x in memory.values()))
    assert len(sizes) == 1 and sizes.pop() < 3000


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_killed_run_goes_on_with_what_it_remembered(staleness, tmp_path, monkeypatch):
    """Replay, demonstrations, resampling, priorities: the same numbers and weights."""
    path = write_sums(tmp_path)
    guides = Demonstration(), Replay(capacity=30)
    data = rollouts(path, group=5, guidance=guides, groups=Resample(2), reward=exact)
    data = replace(data, order=Prioritised(), truncated="masked")
    run = experiment("grpo", path, data=data, objective=presets.luffy(max_length=3.0))
    run = replace(run, evaluation=None, staleness=staleness)
    train(run, tmp_path / "whole", model=MODEL)
    calls, update = [], loop.update

    def stopping(*args):
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return update(*args)

    monkeypatch.setattr(loop, "update", stopping)
    with pytest.raises(Stop):
        train(run, tmp_path / "again", model=MODEL)
    monkeypatch.setattr(loop, "update", update)
    train(run, tmp_path / "again", model=MODEL)
    told = lines(tmp_path / "again")
    assert told == lines(tmp_path / "whole") and len(told) == STEPS
    assert told[-1]["replay_rows"] > 0
    weights = [
        (tmp_path / name / "final" / "model.safetensors").read_bytes()
        for name in ("whole", "again")
    ]
    assert weights[0] == weights[1]
