"""The loop over fixed rows never waits for the step that it has just begun."""

import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import MODEL, experiment, lines, write_labels, write_sums

from unipost import loop
from unipost.checkpoint import Checkpoints
from unipost.sources import Setting
from unipost.train import train

STEPS = 4


class Reads:
    """Every time the loop reads an array of the device, by the updates begun by then.

    The thread that times the phases waits for the device, so that the loop need not.
    `jax.transfer_guard` sees nothing on CPU, where a read is no transfer; it waits all
    the same.
    """

    def __init__(self, monkeypatch):
        self.begun, self.at = 0, []
        update, array = loop.update, type(jnp.zeros(()))

        def counted(*args):
            out = update(*args)
            self.begun += 1
            return out

        def watched(function):
            def call(*args, **kwargs):
                waits = threading.current_thread() is threading.main_thread()
                if waits and any(isinstance(x, array) for x in jax.tree.leaves(args)):
                    self.at.append(self.begun)
                return function(*args, **kwargs)

            return call

        monkeypatch.setattr(loop, "update", counted)
        for name in ("asarray", "array", "copy"):  # by the buffer, past jax
            monkeypatch.setattr(np, name, watched(getattr(np, name)))
        for name in ("device_get", "block_until_ready"):
            monkeypatch.setattr(jax, name, watched(getattr(jax, name)))
        for name in ("item", "tolist", "block_until_ready"):
            monkeypatch.setattr(array, name, watched(getattr(array, name)))
        # float(), int(), bool(), format()
        value = array._value.fget
        monkeypatch.setattr(array, "_value", property(watched(value)))


def run_of(kind, folder):
    path = write_labels(folder, kind == "orpo") if kind != "sft" else None
    path = path or write_sums(folder)
    return experiment(kind, path, steps=STEPS, evaluation=None, checkpoints=None)


@pytest.mark.parametrize("kind", ["sft", "orpo", "kto"])
def test_no_read_before_the_next_step_is_on_its_way(kind, tmp_path, monkeypatch):
    """Metrics of a step are read after the update of the next, all in one go."""
    run, reads = run_of(kind, tmp_path), Reads(monkeypatch)
    written = []
    put = loop.StepLines.put

    def noted(self, step, numbers, tokens):
        before = len(reads.at)
        put(self, step, numbers, tokens)
        written.append((step, reads.at[before:]))
        del reads.at[before:]

    monkeypatch.setattr(loop.StepLines, "put", noted)
    monkeypatch.setattr(loop.Model, "save", lambda self, folder, params: None)
    train(run, tmp_path / "run", model=MODEL)
    # the first put reads nothing; that of step n reads the numbers of step n - 1
    assert [step for step, _ in written] == list(range(1, STEPS + 1))
    assert written[0][1] == []
    assert all({*at} == {step} for step, at in written[1:])
    # and outside of them only the last numbers are read, after the last update
    before = [at for at in reads.at if 0 < at < STEPS]
    assert before == []
    assert len(lines(tmp_path / "run")) == STEPS


def test_a_read_in_the_loop_is_noticed(tmp_path, monkeypatch):
    """The test above can fail: a source that looks at the parameters is caught."""
    run, reads = run_of("sft", tmp_path), Reads(monkeypatch)
    stream = type(run.data.open(Setting(*MODEL_SETTING)))
    batch = stream.batch

    def looking(self, step, params, memory):
        float(jax.tree.leaves(params)[0].sum())
        return batch(self, step, params, memory)

    monkeypatch.setattr(stream, "batch", looking)
    monkeypatch.setattr(loop.StepLines, "flush", lambda self: None)
    train(run, tmp_path / "run", model=MODEL)
    assert {1, 2, 3} <= {*reads.at}


def test_lines_are_written_late_but_whole(tmp_path):
    """Tokens of every step by its own rows, passes counted; compiling in the first."""
    run = replace(run_of("sft", tmp_path), inner_epochs=2, checkpoints=Checkpoints(2))
    result = train(run, tmp_path / "run", model=MODEL)
    timing = lines(tmp_path / "run", "timing")
    assert [line["step"] for line in timing] == [1, 2, 3, 4]
    data = run.data.open(Setting(*MODEL_SETTING))
    for line in timing:
        rows, _, _ = data.batch(line["step"] - 1, MODEL.params)[:3]
        assert line["tokens"] == 2 * int(np.asarray(rows.response_mask).sum())
        assert line["seconds"] >= line["compile_seconds"] >= 0
    # the first save, after step 2, compiles its checksums
    assert timing[0]["compile_seconds"] > 0 == timing[2]["compile_seconds"]
    seconds, compiling = result.first_step
    assert seconds == timing[0]["seconds"]
    assert compiling.seconds == timing[0]["compile_seconds"]
    assert compiling.programs > 0


MODEL_SETTING = MODEL.policy, MODEL.params, MODEL.tokenizer, 0
