"""SIGTERM: a run saves, ends with the code to be queued again, and goes on."""

import json
import os
import shutil
import signal
import threading
import time

import pytest
from tiny_pipeline import tree as pipeline_tree
from tiny_runs import lines, write_sums
from troubled_runs import (
    TROUBLE,
    assert_equal,
    experiment_tree,
    rollouts,
    run,
    saved_steps,
    terminate,
    undisturbed,
    write,
)

from unipost.checkpoint import Store
from unipost.preemption import EXIT, Stopped, asked, check, listening, patient
from unipost.rewards.sandbox import Call, Sandbox
from unipost.rewards.tasks import function_task


@pytest.fixture(autouse=True)
def no_trouble():
    """Nothing happens, unless a test says so."""
    TROUBLE.arm(0, lambda: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(file, folder) of an undisturbed run."""
    return undisturbed(tmp_path_factory.mktemp("whole"))


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
