"""The loop: resuming, repeating, updates within a step, and what is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import (
    MODEL,
    STEPS,
    experiment,
    lines,
    rollouts,
    write_labels,
    write_sums,
)

from unipost import loop, presets
from unipost.checkpoint import Checkpoints
from unipost.hf import load_pretrained
from unipost.optimizers import SGD, AdamW
from unipost.rollouts import Demonstration
from unipost.runs import JsonLines, RunError
from unipost.train import train

KINDS = "sft", "grpo"
FILES = "metrics.jsonl", "evaluation.jsonl"


def bytes_of(folder: Path) -> list[bytes]:
    names = (*FILES, "final/model.safetensors")
    return [(folder / name).read_bytes() for name in names]


def refused(error, *args, **kwargs) -> str:
    """The one line with which train() refuses."""
    with pytest.raises(error) as caught:
        train(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs: the file of sums, and the folder of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_sums(folder)
    for kind in KINDS:
        train(experiment(kind, path), folder / kind, model=MODEL)
    return path, folder


# A run that stops for ever at its fifth update, for a parent that kills it there.
CHILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tiny_runs import MODEL, experiment
from unipost import loop
from unipost.train import train
update, calls = loop.update, []
def stopping(*args):
    calls.append(1)
    time.sleep(0 if len(calls) < 5 else 600)
    return update(*args)
loop.update = stopping
train(experiment(*sys.argv[2:4]), Path(sys.argv[4]), model=MODEL)
"""


def kill_at_the_fifth_step(kind: str, path: str, folder: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), kind, path]
    with open(folder.with_suffix(".log"), "w") as log:
        child = subprocess.Popen([*command, str(folder)], stdout=log, stderr=log)
    metrics, limit = folder / "metrics.jsonl", time.monotonic() + 100
    try:
        while time.monotonic() < limit and child.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= 4:
                break
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
    log = folder.with_suffix(".log").read_text()
    assert child.wait() == -signal.SIGKILL, log
    assert len(lines(folder)) == 4 and not (folder / "final").exists(), log


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_started_again(kind, whole, tmp_path):
    """SIGKILL in the middle, and a line torn by it: the bytes of the whole run."""
    path, runs = whole
    folder = tmp_path / "run"
    kill_at_the_fifth_step(kind, path, folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.')
    train(experiment(kind, path), folder, model=MODEL)
    assert bytes_of(folder) == bytes_of(runs / kind)


class Stop(Exception):
    """Raised in the middle of a run."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 3, 6])
def test_interrupted_and_started_again(kind, at, whole, tmp_path, monkeypatch):
    path, runs = whole
    calls, update = [], loop.update

    def stopping(*args):
        calls.append(1)
        if len(calls) == at:
            raise Stop
        return update(*args)

    monkeypatch.setattr(loop, "update", stopping)
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        train(experiment(kind, path), folder, model=MODEL)
    monkeypatch.setattr(loop, "update", update)
    started = []
    monkeypatch.setattr(
        loop, "update", lambda *args: started.append(1) or update(*args)
    )
    train(experiment(kind, path), folder, model=MODEL)
    # at a multiple of 2 steps, from there: nothing before is taken again
    assert len(started) == STEPS - (at - 1) // 2 * 2
    assert bytes_of(folder) == bytes_of(runs / kind)


@pytest.mark.parametrize("kind", ["kto", "orpo", "tis"])
def test_present_statistics_need_no_state(kind, tmp_path, monkeypatch):
    """Minibatches and passes of their own, stopped within a step: the same bytes."""
    path = write_labels(tmp_path, kind == "orpo")
    path = write_sums(tmp_path) if kind == "tis" else path
    run = experiment(kind, path, steps=3, evaluation=None, checkpoints=Checkpoints(1))
    run = replace(run, minibatches=2, inner_epochs=2)
    train(run, tmp_path / "whole", model=MODEL)
    calls, update = [], loop.update

    def stopping(*args):
        calls.append(1)
        if len(calls) == 7:  # the third update of the second step
            raise Stop
        return update(*args)

    monkeypatch.setattr(loop, "update", stopping)
    with pytest.raises(Stop):
        train(run, tmp_path / "run", model=MODEL)
    assert len(lines(tmp_path / "run")) == 1
    monkeypatch.setattr(loop, "update", update)
    train(run, tmp_path / "run", model=MODEL)
    for name in ("metrics.jsonl", "final/model.safetensors"):
        whole, again = (tmp_path / x / name for x in ("whole", "run"))
        assert whole.read_bytes() == again.read_bytes(), name
    assert all(line["grad_norm"] > 0 for line in lines(tmp_path / "run"))


def test_interrupted_between_the_lines_and_their_checkpoint(whole, tmp_path):
    """Lines beyond the newest checkpoint are taken back, not repeated."""
    path, runs = whole
    folder = tmp_path / "run"
    shutil.copytree(runs / "sft", folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    shutil.rmtree(folder / "final")
    train(experiment("sft", path), folder, model=MODEL)
    assert bytes_of(folder) == bytes_of(runs / "sft")


@pytest.mark.parametrize("kind", KINDS)
def test_finished_and_started_again_does_nothing(kind, whole, monkeypatch):
    path, runs = whole
    before = bytes_of(runs / kind), (runs / kind / "timing.jsonl").read_bytes()
    monkeypatch.setattr(loop, "update", None)
    result = train(experiment(kind, path), runs / kind, model=MODEL)
    assert before == (
        bytes_of(runs / kind),
        (runs / kind / "timing.jsonl").read_bytes(),
    )
    saved = load_pretrained(runs / kind / "final").params
    jax.tree.map(np.testing.assert_array_equal, saved, result.params)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_every_byte(kind, whole, tmp_path):
    path, runs = whole
    bare = experiment(kind, path, checkpoints=None)
    train(bare, tmp_path / "same", model=MODEL)
    assert bytes_of(tmp_path / "same") == bytes_of(runs / kind)
    train(replace(bare, seed=1), tmp_path / "other", model=MODEL)
    other = bytes_of(tmp_path / "other")
    pairs = zip(other, bytes_of(runs / kind), strict=True)
    assert all(a != b for a, b in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_microbatches_change_no_number(kind, whole, tmp_path):
    path, runs = whole
    cut = experiment(kind, path, microbatches=2, evaluation=None, checkpoints=None)
    train(cut, tmp_path / "run", model=MODEL)
    for a, b in zip(lines(tmp_path / "run"), lines(runs / kind), strict=True):
        assert a.keys() == b.keys()
        for key in ("loss", "implicit_reward", "grad_norm"):
            assert a[key] == pytest.approx(b[key], rel=1e-5, abs=1e-5), key


def test_inner_updates_leave_old_where_it_was(tmp_path, monkeypatch):
    """Two passes in two minibatches: four updates a step against one snapshot."""
    seen, update = [], loop.update

    def watching(*args):
        state, batch = args[3], args[5]
        seen.append((int(state.step), np.asarray(batch.old), np.asarray(batch.mask)))
        new, metrics = update(*args)
        seen[-1] += (float(metrics["implicit_reward"]),)
        return new, metrics

    monkeypatch.setattr(loop, "update", watching)
    path = write_sums(tmp_path)
    plain = experiment("grpo", path, evaluation=None, steps=2, optimizer=AdamW(1e-2))
    train(
        replace(plain, inner_epochs=2, minibatches=2),
        tmp_path / "run",
        model=MODEL,
    )
    assert [step for step, *_ in seen] == list(range(8))
    for first in (0, 4):
        # the second pass sees the first one's minibatches and old log-probs again
        for i in (first, first + 1):
            np.testing.assert_array_equal(seen[i][1], seen[i + 2][1])
            np.testing.assert_array_equal(seen[i][2], seen[i + 2][2])
        # 0 but for rounding: the snapshot was scored in a batch of another shape
        assert abs(seen[first][3]) < 1e-6
        assert all(abs(seen[first + i][3]) > 1e-4 for i in (1, 2, 3))
    for step, line in enumerate(lines(tmp_path / "run")):
        of_step = [x[3] for x in seen[4 * step : 4 * step + 4]]
        assert line["implicit_reward"] == pytest.approx(np.mean(of_step), rel=1e-6)
    tokens = [line["tokens"] for line in lines(tmp_path / "run", "timing")]
    masks = [sum(int(x[2].sum()) for x in seen[i : i + 4]) for i in (0, 4)]
    assert tokens == masks


def test_a_run_with_other_settings_is_refused(whole):
    path, runs = whole
    before = bytes_of(runs / "sft")
    other = experiment("sft", path, optimizer=AdamW(2e-2, "cosine", 2))
    message = refused(RunError, other, runs / "sft", model=MODEL)
    assert "optimizer.learning_rate: 0.01 there, 0.02 here" in message
    assert str(runs / "sft") in message
    message = refused(RunError, experiment("grpo", path), runs / "sft", model=MODEL)
    assert "data.name: 'demonstrations' there, 'rollouts' here" in message
    assert bytes_of(runs / "sft") == before


def test_a_foreign_folder_is_refused(whole, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    message = refused(RunError, experiment("sft", whole[0]), tmp_path, model=MODEL)
    assert message.startswith(f"{tmp_path}: is not empty and holds no run")
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_never_began_leaves_the_folder_free(whole, tmp_path):
    """A missing file is named; with the right one the same folder serves."""
    lost = experiment("sft", str(tmp_path / "lost.jsonl"))
    message = refused(ValueError, lost, tmp_path / "run", model=MODEL)
    assert str(tmp_path / "lost.jsonl") in message
    short = experiment("sft", whole[0], steps=1, evaluation=None)
    train(short, tmp_path / "run", model=MODEL)
    assert len(lines(tmp_path / "run")) == 1


def test_data_that_changed_under_a_run_is_refused(tmp_path):
    path = write_sums(tmp_path)
    short = experiment("sft", path, steps=2, evaluation=None)
    train(short, tmp_path / "run", model=MODEL)
    write_sums(tmp_path, 11)
    message = refused(RunError, short, tmp_path / "run", model=MODEL)
    assert message.startswith(f"{path}: has changed since the run in")


@pytest.mark.parametrize("pieces", [(3, 1), (2, 4)])
def test_prompts_must_divide(pieces, whole):
    with pytest.raises(ValueError, match="data.prompts: 4 do not divide into"):
        minibatches, microbatches = pieces
        experiment("sft", whole[0], minibatches=minibatches, microbatches=microbatches)


@pytest.mark.parametrize(
    "name", ["steps", "inner_epochs", "minibatches", "microbatches"]
)
def test_counts_start_at_one(name, whole):
    with pytest.raises(ValueError, match=f"{name}: 0; write 1 or more"):
        experiment("sft", whole[0], **{name: 0})


def test_a_loss_that_is_not_finite_stops_the_run(whole, tmp_path):
    """The step is named, and nothing that could pass for a model is left."""
    # a rate of 1e38 overflows float32 at the first update
    burst = experiment(
        "sft", whole[0], optimizer=SGD(1e38), checkpoints=Checkpoints(every=1)
    )
    message = refused(RunError, burst, tmp_path / "run", model=MODEL)
    file = tmp_path / "run" / "metrics.jsonl"
    assert message.startswith((f"{file}: loss of step 2", f"{file}: grad_norm of st"))
    assert "step 2 is" in message
    assert {f.name for f in (tmp_path / "run" / "checkpoints").iterdir()} == {"1"}
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]
    assert not (tmp_path / "run" / "final").exists()
    again = refused(RunError, burst, tmp_path / "run", model=MODEL)
    assert again == message


def test_a_damaged_base_is_named(whole, tmp_path):
    path, runs = whole
    base = tmp_path / "base"
    shutil.copytree(runs / "sft" / "final", base)
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    run = experiment("sft", path, model=str(base))
    assert str(weights) in refused(ValueError, run, tmp_path / "run")
    weights.unlink()
    assert str(base) in refused((ValueError, OSError), run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_named(whole, tmp_path, monkeypatch):
    """Whole lines stay; with room again the run ends as if nothing had been."""
    path, runs = whole
    run, folder = experiment("sft", path), tmp_path / "run"
    opened = JsonLines.__init__

    def full(self, file, done):
        opened(self, file, done)
        if file.name == "metrics.jsonl":
            # every write to this device fails as on a full disk
            self._file = open("/dev/full", "w")

    monkeypatch.setattr(JsonLines, "__init__", full)
    message = refused(OSError, run, folder, model=MODEL)
    assert message.startswith(f"{folder / 'metrics.jsonl'}: cannot be written: No")
    monkeypatch.setattr(JsonLines, "__init__", opened)
    train(run, folder, model=MODEL)
    assert bytes_of(folder) == bytes_of(runs / "sft")


def test_a_rename_that_fails_is_named(whole, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    message = refused(
        OSError, experiment("sft", whole[0]), tmp_path / "run", model=MODEL
    )
    assert message.startswith(f"{tmp_path / 'run' / 'config.yaml'}: cannot be written")


def test_rollouts_reach_other_objectives(tmp_path):
    """Two steps each; for LUFFY the demonstration is in the group."""
    path = write_sums(tmp_path)
    union = rollouts(path, guidance=(Demonstration(),))
    for name, data, objective in (
        ("rloo", rollouts(path), presets.rloo()),
        ("luffy", union, presets.luffy(max_length=3.0)),
    ):
        run = experiment("grpo", path, data=data, objective=objective, steps=2)
        run = replace(run, evaluation=None, checkpoints=None)
        train(run, tmp_path / name, model=MODEL)
        assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / name))
