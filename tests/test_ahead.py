"""Sampling ahead of training: which parameters a batch comes from, and resuming it."""

import gc
import threading
import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import MODEL, experiment, lines, write_sums

from unipost import loop
from unipost.ahead import Ahead, Plan, pack, synced, unpack
from unipost.batch import Batch
from unipost.checkpoint import Checkpoints, Store
from unipost.experiment import check_staleness
from unipost.rollouts.guidance import Replay
from unipost.sources import EMPTY, Demonstrations, Experience
from unipost.train import train
from unipost.update import Rows

PLANS = [Plan(0, 1), Plan(0, 3), Plan(1, 1), Plan(4, 1), Plan(2, 3)]


def experience(step, params, memory):
    """Rows that say from which parameters they come, and what was remembered."""
    shape = (2, 3, 4)
    tokens = jnp.full(shape, step, jnp.int32)
    rows = Rows(tokens, tokens > 0, tokens, tokens >= 0)
    batch = Batch(mask=rows.response_mask, rewards=jnp.full((2, 3), float(params["w"])))
    seen = np.append(memory.get("seen", np.zeros(0, int)), step)
    return Experience(rows, batch, {"reward": step / 3}, {"seen": seen}, ("a",))


@dataclass
class Told:
    """A stream that notes the threads it is drawn in."""

    size = 4

    def __post_init__(self):
        self.threads, self.closed = [], False

    def batch(self, step, params, memory=EMPTY):
        self.threads.append(threading.current_thread())
        return experience(step, params, memory)

    def close(self):
        self.closed = True


def taken(plan, steps=12, first=0, kept=None, held=None):
    """(parameters each batch came from, staleness, the Ahead, its stream)."""
    stream, versions, ages = Told(), [], []
    double = jax.jit(lambda p: {"w": p["w"] + 1}, donate_argnums=0)
    params = {"w": jnp.asarray(float(first))}
    with Ahead(stream, plan, lambda x: x, first, kept, held) as ahead:
        for step in range(first, steps):
            drawn = ahead.take(step, params, 99)
            assert int(drawn.rows.response[0, 0, 0]) == step
            versions.append(int(drawn.batch.rewards[0, 0]))
            ages.append(ahead.age(step))
            params = double(params)  # overwrites its argument, as an update does
        keeping = ahead.keep()
    return versions, ages, keeping, ahead.held, stream


@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_comes_from_the_parameters_that_the_rule_says(plan):
    """Parameters count their own updates: w after n steps is n."""
    versions, ages, *_, stream = taken(plan)
    k, n = plan.staleness, plan.sync_every
    expected = []
    for step in range(12):
        version = max(0, step - k)
        while version % n:
            version -= 1
        expected.append(version)
    assert versions == expected
    assert versions == [synced(step, k, n) for step in range(12)]
    assert ages == [step - v for step, v in enumerate(expected)]
    assert max(ages) == k + n - 1  # the bound that the settings give
    assert stream.closed


def test_sampling_ahead_has_a_thread_of_its_own():
    *_, ahead = taken(Plan(1, 1))
    *_, here = taken(Plan(0, 2))
    main = threading.main_thread()
    assert main not in ahead.threads and len({*ahead.threads}) == 1
    assert {*here.threads} == {main}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("cut", [1, 5, 6])
def test_taken_up_from_what_was_kept(plan, cut):
    """Batches drawn ahead, the memory and the sampler's parameters all come back."""
    whole = taken(plan)
    head = taken(plan, steps=cut)
    again = taken(plan, 12, cut, head[2], head[3])
    assert head[0] + again[0] == whole[0]
    assert head[1] + again[1] == whole[1]
    for one, other in zip(
        unpack(again[2])[0].items(), unpack(whole[2])[0].items(), strict=True
    ):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])
    assert unpack(whole[2])[0]["seen"].tolist() == list(range(12 + plan.staleness))


def test_packed_experience_is_the_same_bit_for_bit():
    memory = {"empty": np.zeros((0, 3), np.float32), "n": np.arange(3)}
    drawn = experience(5, {"w": 1 / 3}, {})
    drawn = drawn._replace(memory=memory, metrics={"reward": 0.1 + 0.2, "x": 1.0})
    kept, (found,) = unpack(pack(memory, [(5, drawn)]))
    assert found[0] == 5 and found[1].metrics == drawn.metrics
    assert found[1].components == ("a",)
    jax.tree.map(np.testing.assert_array_equal, found[1][:2], drawn[:2])
    for same in (kept, found[1].memory):
        assert same.keys() == memory.keys()
        for name, array in memory.items():
            assert same[name].dtype == array.dtype
            np.testing.assert_array_equal(same[name], array)


def test_an_error_in_the_thread_stops_the_run():
    class Broken(Told):
        def batch(self, step, params, memory=EMPTY):
            if step == 2:
                raise ValueError("data.jsonl:3: is broken")
            return super().batch(step, params, memory)

    params = {"w": jnp.asarray(0.0)}
    with Ahead(Broken(), Plan(1, 1), lambda x: x) as ahead:
        ahead.take(0, params, 9), ahead.take(1, params, 9)
        with pytest.raises(ValueError, match="data.jsonl:3"):
            ahead.take(2, params, 9)


def test_nothing_is_drawn_beyond_the_last_step():
    stream = Told()
    with Ahead(stream, Plan(4, 1), lambda x: x) as ahead:
        for step in range(3):
            ahead.take(step, {"w": jnp.asarray(0.0)}, 2)
    assert len(stream.threads) == 3


def test_sampling_and_training_overlap():
    """Two waits of 50 ms each in a step: one after the other, or both at once."""

    class Slow(Told):
        def batch(self, step, params, memory=EMPTY):
            time.sleep(0.05)
            return super().batch(step, params, memory)

    def seconds(plan):
        params, steps = {"w": jnp.asarray(0.0)}, 10
        with Ahead(Slow(), plan, lambda x: x) as ahead:
            ahead.take(0, params, steps)
            started = time.perf_counter()
            for step in range(1, steps):
                ahead.take(step, params, steps)
                time.sleep(0.05)
            return time.perf_counter() - started

    both, turns = seconds(Plan(1, 1)), seconds(Plan(0, 1))
    assert both < 0.85 * turns


@pytest.mark.parametrize("settings", [(0, 2), (1, 1), (3, 1), (2, 3)])
def test_a_stale_run_resumes_to_the_same_numbers(settings, tmp_path, monkeypatch):
    staleness, sync_every = settings
    path = write_sums(tmp_path)
    run = replace(
        experiment("grpo", path, steps=8, evaluation=None),
        staleness=staleness,
        sync_every=sync_every,
        checkpoints=Checkpoints(every=3),
    )
    train(run, tmp_path / "whole", model=MODEL)
    calls, update = [], loop.update

    def stopping(*args):
        calls.append(1)
        if len(calls) == 6:  # after the checkpoint of step 3, in the middle of step 6
            raise KeyboardInterrupt
        return update(*args)

    monkeypatch.setattr(loop, "update", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "cut", model=MODEL)
    monkeypatch.setattr(loop, "update", update)
    train(run, tmp_path / "cut", model=MODEL)
    whole, cut = (tmp_path / name / "metrics.jsonl" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    ages = [line["staleness"] for line in lines(tmp_path / "whole")]
    most = staleness + sync_every - 1
    assert max(ages) == most and ages[0] == 0.0
    fresh = replace(run, staleness=0, sync_every=1)
    train(fresh, tmp_path / "fresh", model=MODEL)
    others = lines(tmp_path / "fresh")
    assert {line["staleness"] for line in others} == {0.0}
    # the first batch is the same, those of later steps come from other parameters
    assert others[0]["reward"] == lines(tmp_path / "whole")[0]["reward"]
    assert [x["loss"] for x in others] != [x["loss"] for x in lines(tmp_path / "whole")]


def test_refused():
    fixed = Demonstrations("x.jsonl", 2, 4, 4)
    with pytest.raises(ValueError, match="staleness: 1, but the rows of Demonstr"):
        check_staleness(fixed, 1, 1)
    with pytest.raises(ValueError, match="sync_every: 0; write 1 or more"):
        check_staleness(fixed, 0, 0)


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_long_run_holds_no_more_than_a_short_one(staleness, tmp_path, monkeypatch):
    """Arrays on the device and bytes of a checkpoint are as many late as early."""
    held, sizes, update = [], [], loop.update

    def counted(*args):
        gc.collect()  # Orbax leaves cycles behind
        held.append(len(jax.live_arrays()))
        return update(*args)

    keep = Ahead.keep

    def measured(self):
        kept = keep(self)
        sizes.append(len(kept or b""))
        return kept

    monkeypatch.setattr(loop, "update", counted)
    save = Store.save

    def waited(self, *args, **options):
        save(self, *args, **options)
        self.wait()  # a save under way holds a copy of what it writes

    monkeypatch.setattr(Ahead, "keep", measured)
    monkeypatch.setattr(Store, "save", waited)
    path = write_sums(tmp_path)
    run = experiment("grpo", path, steps=24, evaluation=None)
    data = replace(run.data, guidance=(Replay(capacity=8),))
    run = replace(run, data=data, staleness=staleness, checkpoints=Checkpoints(6))
    train(run, tmp_path / "run", model=MODEL)
    assert len(held) == 24
    # draws under way hold some; two arrays a step left behind would show
    assert min(held[16:]) <= min(held[4:12]) + 20
    assert max(sizes[2:]) < 1.05 * sizes[1]
