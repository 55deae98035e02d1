"""Faults: signals, kills, a full disk, no right to write, two runs in one folder."""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import CACHE
from tiny_pipeline import tree as pipeline_tree
from tiny_runs import lines, write_sums

from unipost import locks
from unipost.checkpoint import Store
from unipost.cli import main
from unipost.locks import held
from unipost.preemption import EXIT, Stopped, asked, check, listening, patient
from unipost.rewards.sandbox import Call, Sandbox
from unipost.rewards.tasks import function_task
from unipost.runs import RunError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
COMPARED = ("metrics.jsonl", "evaluation.jsonl", "final/model.safetensors")


class Trouble:
    """What a run meets at the n-th call of its reward: a signal, a limit."""

    def __init__(self):
        self.calls, self.at, self.act = 0, 0, lambda: None

    def arm(self, at: int, act) -> None:
        self.calls, self.at, self.act = 0, at, act


TROUBLE = Trouble()


def reward(response: str, answer: str) -> float:
    """The length, after whatever is to happen."""
    TROUBLE.calls += 1
    if TROUBLE.calls == TROUBLE.at:
        TROUBLE.act()
    return len(response) / 2


def terminate(times: int = 1):
    """Send this process SIGTERM."""
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def no_trouble():
    """Nothing happens, unless a test says so."""
    TROUBLE.arm(0, lambda: None)


def rollouts(path: str) -> dict:
    """Sixteen calls of `reward` a step, in this process."""
    return {
        "name": "rollouts",
        "path": path,
        "prompts": 4,
        "prompt_length": 4,
        "group": 4,
        "sampling": {"max_tokens": 3},
        "reward": "test_faults:reward",
        "time_limit": None,
    }


def experiment_tree(path: str) -> dict:
    """GRPO for eight steps, saved every third, evaluated every second."""
    sizes = pipeline_tree(path)["stages"]["cold"]["model"]
    task = {"path": path, "prompt_length": 4, "response_length": 3, "limit": 6}
    return {
        "model": sizes,
        "data": rollouts(path),
        "objective": "grpo",
        "optimizer": {"name": "adamw", "learning_rate": 0.01},
        "steps": 8,
        "checkpoints": {"every": 3},
        "evaluation": {"every": 2, "rows": 8, "tasks": {"sums": task}},
    }


def write(folder: Path, tree: dict, name: str = "run.yaml") -> str:
    """The file of an experiment, study or pipeline."""
    file = folder / name
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return str(file)


def run(file: str, out: Path, *more: str) -> int:
    """`unipost run`, in this process."""
    return main(["run", file, "--out", str(out), "--cache", str(CACHE), *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(file, folder) of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    file = write(folder, experiment_tree(write_sums(folder)))
    assert run(file, folder / "run") == 0
    return file, folder / "run"


def assert_equal(one: Path, other: Path) -> None:
    """The same numbers and weights, byte for byte."""
    for name in COMPARED:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run."""
    names = (f.name for f in (folder / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdigit())


# ---- SIGTERM


@pytest.mark.parametrize("step", [2, 3, 5, 8])
def test_sigterm_saves_after_the_step_and_asks_to_be_queued(
    step, whole, tmp_path, capsys
):
    """At a step that is measured, one that is saved anyway, another, and the last."""
    file, undisturbed = whole
    TROUBLE.arm(16 * step - 3, lambda: terminate(3))
    assert run(file, tmp_path / "run") == EXIT == 75
    told = capsys.readouterr().err.splitlines()
    assert [x for x in told if x.startswith("unipost: ")] == [
        f"unipost: stopped by SIGTERM after step {step}, saved in "
        f"{tmp_path / 'run' / 'checkpoints'}; the same command goes on from there"
    ]
    assert saved_steps(tmp_path / "run")[-1] == len(lines(tmp_path / "run")) == step
    assert len(lines(tmp_path / "run", "timing")) == step
    assert TROUBLE.calls == 16 * step
    assert run(file, tmp_path / "run") == 0
    assert_equal(tmp_path / "run", undisturbed)
    assert TROUBLE.calls == 16 * 8  # no step was taken twice


def test_what_was_due_when_it_stopped_is_measured_once(whole, tmp_path):
    """Even where the run is killed after that, before its next save."""
    file, undisturbed = whole
    TROUBLE.arm(16 * 4, terminate)
    assert run(file, tmp_path / "run") == EXIT
    assert [x["step"] for x in lines(tmp_path / "run", "evaluation")] == [2]
    shutil.copytree(tmp_path / "run/checkpoints", tmp_path / "kept")
    TROUBLE.arm(16 * 2, terminate)
    assert run(file, tmp_path / "run") == EXIT  # after step 6
    assert [x["step"] for x in lines(tmp_path / "run", "evaluation")] == [2, 4]
    shutil.rmtree(tmp_path / "run/checkpoints")
    shutil.copytree(tmp_path / "kept", tmp_path / "run/checkpoints")
    assert run(file, tmp_path / "run") == 0
    assert_equal(tmp_path / "run", undisturbed)


def test_sigterm_during_the_last_wait_does_not_break_the_save(
    whole, tmp_path, monkeypatch
):
    file, undisturbed = whole
    wait = Store.wait

    def signalled(store):
        terminate()
        wait(store)

    monkeypatch.setattr(Store, "wait", signalled)
    TROUBLE.arm(16 * 4, terminate)
    assert run(file, tmp_path / "run") == EXIT
    assert saved_steps(tmp_path / "run")[-1] == 4
    monkeypatch.undo()
    assert run(file, tmp_path / "run") == 0
    assert_equal(tmp_path / "run", undisturbed)


def test_without_checkpoints_it_says_that_nothing_is_saved(whole, tmp_path, capsys):
    file, undisturbed = whole
    TROUBLE.arm(16 * 2, terminate)
    assert run(file, tmp_path / "run", "checkpoints=null") == EXIT
    assert (
        "unipost: stopped by SIGTERM after step 2; nothing is saved, as the run has no "
        "checkpoints: write checkpoints: {every: ...}\n"
    ) in capsys.readouterr().err
    # after the last step it is worth writing the model
    TROUBLE.arm(16 * 8, terminate)
    assert run(file, tmp_path / "run", "checkpoints=null") == 0
    assert_equal(tmp_path / "run", undisturbed)


def test_a_pipeline_stops_in_its_stage_and_goes_on(tmp_path):
    tree = pipeline_tree(write_sums(tmp_path))
    tree["stages"]["rl"]["data"] = rollouts(str(tmp_path / "sums.jsonl"))
    file = write(tmp_path, tree)
    assert run(file, tmp_path / "whole") == 0
    TROUBLE.arm(16 * 3, terminate)
    assert run(file, tmp_path / "torn") == EXIT
    assert saved_steps(tmp_path / "torn" / "rl") == [2, 3]
    assert not (tmp_path / "torn" / "reject" / "rows.jsonl").exists()
    assert run(file, tmp_path / "torn") == 0
    for name in ("summary.json", "sft/final/model.safetensors", "rl/metrics.jsonl"):
        one, other = tmp_path / "whole" / name, tmp_path / "torn" / name
        assert one.read_bytes() == other.read_bytes(), name


def test_a_study_stops_between_its_arms_too(tmp_path, whole):
    """Its arms have no checkpoints: one that is over counts, one that is not does not.

    The signal comes in the last step of the first arm.
    """
    path = write_sums(tmp_path)
    tree = experiment_tree(path)
    task = tree["evaluation"]["tasks"]["sums"] | {"limit": None}
    arm = {k: tree[k] for k in ("data", "objective", "optimizer")} | {"steps": 2}
    study = {
        "name": "small",
        "claim": "none",
        "base": str(whole[1] / "final"),
        "rule": {"task": "sums", "metric": "greedy"},
        "seeds": [0],
        "evaluation": {"tasks": {"sums": task}, "rows": 8, "distance": "sums"},
        "arms": {"one": {**arm, "title": "One"}, "two": {**arm, "title": "Two"}},
    }
    file = write(tmp_path, study)
    TROUBLE.arm(16 * 2, terminate)
    assert run(file, tmp_path / "run") == EXIT
    assert (tmp_path / "run/one/0/final").exists()
    assert not (tmp_path / "run/two").exists()
    assert run(file, tmp_path / "run") == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {*results["arms"]} == {"one", "two"}


def test_where_nothing_runs_the_signal_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        Stopped, match="stopped by SIGTERM; the same command"
    ) as stopped:
        with listening():
            terminate()
            raise AssertionError("it went on")
    assert stopped.value.code == EXIT
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_is_noted_until_somebody_asks():
    with listening(), listening():
        with patient():
            assert not asked(1)
            terminate(2)
            assert asked(2) and asked(2)
            check()
        with pytest.raises(Stopped):
            check()
        terminate()  # it has been told of: what ends the run is not cut short
    with listening():
        check()
        assert not asked(1)


def test_somebody_elses_handler_and_other_threads_are_left_alone():
    def mine(*_):
        raise AssertionError("not in this test")

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with listening():
            assert signal.getsignal(signal.SIGTERM) == mine
            assert not asked(1)
    finally:
        signal.signal(signal.SIGTERM, before)
    found = []

    def inside():
        with listening():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [before]


def signalled(response: str, answer: str) -> float:
    """Is told to end, and ends a child of its own; the child's exit code."""
    os.kill(os.getpid(), signal.SIGTERM)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, b"!")
        while True:
            time.sleep(0.01)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    return float(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_a_worker_of_rewards_outlives_the_signal():
    """A scheduler may send it to every process; the step's rewards are still right."""
    box = Sandbox()
    try:
        task = function_task(signalled, {})
        assert box.run(task, [Call(20.0, ("a", "b"))] * 2) == [(-15.0, "", "")] * 2
    finally:
        box.close()


# ---- two runs in one folder


HOLDER = """
import sys, time
from pathlib import Path
from unipost.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of `folder` until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_until_the_first_is_gone(whole, tmp_path, capsys):
    file, undisturbed = whole
    first = holder(tmp_path / "run")
    try:
        assert run(file, tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert f"unipost: {tmp_path / 'run'}: another run is in it (process" in error
        assert f"(process {first.pid} on {os.uname().nodename})" in error
        assert error.count("\n") == 1
    finally:
        first.kill()
        first.wait()
    assert run(file, tmp_path / "run") == 0
    assert_equal(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("kind", ["pipeline", "apart"])
def test_other_folders_are_locked_too(kind, whole, tmp_path, capsys):
    """That of a pipeline, and checkpoints that lie apart from their run."""
    tree, folder = pipeline_tree(write_sums(tmp_path)), tmp_path / "run"
    if kind == "apart":
        tree = yaml.safe_load(Path(whole[0]).read_text())
        tree["checkpoints"]["folder"] = str(tmp_path / "apart")
        folder = tmp_path / "apart" / (tmp_path / "run").relative_to("/")
    file = write(tmp_path, tree)
    with held(folder):
        assert run(file, tmp_path / "run") == 2
    assert f"{folder}: another run is in it (process" in capsys.readouterr().err


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch, capsys):
    import errno
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with held(tmp_path / "run"):
        pass
    assert "run: this file system has no locks" in capsys.readouterr().err

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="run: cannot be locked: Input/output error"):
        with held(tmp_path / "run"):
            pass


def test_a_lock_that_nobody_signed_is_refused_all_the_same(tmp_path):
    with held(tmp_path):
        (tmp_path / locks.NAME).write_text("[]")
        with pytest.raises(RunError, match="another run is in it; wait"):
            with held(tmp_path):
                pass


# ---- what cannot be written


@pytest.mark.parametrize("size", [2**11, 2**13, 2**14])
def test_a_full_disk_stops_the_run_and_costs_no_number(size, whole, tmp_path, capsys):
    """No file may grow beyond `size` from the seventh step on, as on a full disk."""
    file, undisturbed = whole
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    TROUBLE.arm(16 * 7, fill)
    try:
        assert run(file, tmp_path / "run") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    errors = [x for x in capsys.readouterr().err.splitlines() if "unipost: " in x]
    assert len(errors) == 1
    assert errors[0].startswith(f"unipost: {tmp_path / 'run'}/")
    assert "be written" in errors[0]
    assert 3 in saved_steps(tmp_path / "run")
    assert run(file, tmp_path / "run") == 0
    assert_equal(tmp_path / "run", undisturbed)


OVERRIDE = 2  # the bit of CAP_DAC_OVERRIDE: root may write wherever it likes


def without_override() -> bytes:
    """Give up that right in this thread, where it has it; the rights before."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, data) == 0
    before = bytes(data)
    data[0] &= ~OVERRIDE
    assert libc.capset(head, data) == 0
    return before


def with_rights(before: bytes) -> None:
    """Take rights back that are permitted still."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6).from_buffer_copy(before)
    assert libc.capset(head, data) == 0


@pytest.fixture
def unprivileged(tmp_path):
    """A folder in which the mode of a file counts, even for root."""
    before = without_override()
    yield tmp_path
    with_rights(before)


def test_a_folder_without_the_right_to_write_is_named(unprivileged, capsys):
    file = write(unprivileged, experiment_tree(write_sums(unprivileged)))
    (unprivileged / "shut").mkdir()
    (unprivileged / "shut").chmod(0o500)
    out = unprivileged / "shut" / "run"
    assert run(file, out) == 2
    told = capsys.readouterr().err.splitlines()
    errors = [x for x in told if str(unprivileged) in x]
    assert errors == [f"unipost: {out}: cannot be written: Permission denied"]
    # the folder of the run is there, and only its checkpoints cannot be written
    out = unprivileged / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints").chmod(0o500)
    assert run(file, out) == 2
    told = capsys.readouterr().err.splitlines()
    errors = [x for x in told if str(unprivileged) in x]
    assert len(errors) == 1
    assert errors[0].startswith(f"unipost: {out / 'checkpoints'}: ")
    assert errors[0].endswith(": Permission denied")
    (out / "checkpoints").chmod(0o700)
    assert run(file, out) == 0


# ---- killed at any moment


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_killed_at_random_moments(kind, tmp_path):
    """The short form of benchmarks/faults.py: three kills, and the same numbers."""
    from faults import fault_test

    tally, _ = fault_test(kind, 3, 0, tmp_path, CACHE)
    assert not tally.problems
    assert len(tally.kills) == 3
