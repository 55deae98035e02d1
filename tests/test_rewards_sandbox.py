"""Time limits that hold, and worker processes that are neither lost nor left over."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import adversarial_rewards as adversarial
import numpy as np
import pytest
from adversarial_rewards import BAD, FATAL, GOOD, Longest, moody

from unipost.config import Bound
from unipost.rewards import REWARDS, Sample, math, numeric, open_reward, sandbox
from unipost.rewards import pool as pools
from unipost.rewards.sandbox import Call, Sandbox
from unipost.rewards.tasks import function_task


def samples(texts, **fields):
    return [Sample(text, "2", group=i, **fields) for i, text in enumerate(texts)]


def workers():
    """The worker processes of this process that are alive or not yet waited for."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            line = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and (b"worker.py" in line or not line):
            found.append(int(status.parent.name))
    return found


@pytest.mark.parametrize("limit", [None, 30.0])
def test_a_bad_reward_costs_its_sample_only(limit, capfd):
    words = ["aa", *BAD, "", *GOOD, "\u00e9\U0001f600\x00"]
    if limit is None:
        words.remove("interrupt")  # that is the user's own, in this process
        words.remove("read")
    with open_reward(Bound(moody, (("scale", 3.0),)), limit) as grader:
        graded = grader(samples(words))
    expected = {w: np.nan for w in BAD} | {w: v for w, (_, v) in GOOD.items()}
    assert graded.unscored == len(set(words) & set(BAD))
    for word, value in zip(words, graded.values, strict=True):
        np.testing.assert_equal(value, expected.get(word, 3.0 * len(word)))
    reasons = [line for line in graded.reasons if "\n" not in line]
    assert len(reasons) == graded.unscored
    place = words.index("text")
    assert f"sample {place}: the reward is '1.0', not a number" in reasons
    place = words.index("huge")
    assert f"sample {place}: the reward is 1e+300, beyond 1e+06" in reasons
    assert "sample 1: ZeroDivisionError: division by zero" in reasons


def test_what_never_ends_is_ended_and_the_rest_goes_on():
    words = [w for fatal in FATAL for w in (fatal, "good")]
    with open_reward(moody, 0.6) as grader:
        start = time.monotonic()
        graded = grader(samples(words))
        took = time.monotonic() - start
        assert graded.values[1::2].tolist() == [4.0] * len(FATAL)
        assert np.isnan(graded.values[::2]).all()
        expected = [
            f"sample {2 * i}: {why}" for i, (_, why) in enumerate(FATAL.values())
        ]
        assert graded.reasons == expected
        assert took < 3 * 0.6 + 30  # workers start anew, on a machine with other work
        assert grader(samples(["good"])).values.tolist() == [4.0]
        assert len(workers()) == 1
    assert workers() == []


def test_a_worker_is_started_when_needed_and_kept():
    with open_reward(adversarial.process, 10.0) as grader:
        assert workers() == []
        first = grader(samples(["a", "b"])).values
        assert len(workers()) == 1
        second = grader(samples(["c"])).values
        assert first[0] == first[1] == second[0] != os.getpid() % 1e6
        os.kill(workers()[0], signal.SIGKILL)  # between batches
        time.sleep(0.1)
        third = grader(samples(["d"]))
        assert third.unscored == 0 and third.values[0] != first[0]
        assert grader([]).values.shape == (0,)
    grader.close()


def test_the_worker_loads_neither_the_library_nor_jax():
    with open_reward(adversarial.modules, 10.0) as grader:
        names = ["jax", "unipost", "transformers", "sys"]
        assert grader(samples(names)).values.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_the_librarys_own_rewards_need_no_worker_but_math_does():
    with open_reward(numeric, 10.0) as grader:
        assert grader(samples(["2", "3"])).values.tolist() == [1.0, 0.0]
        assert workers() == []
    with open_reward(math, 30.0) as grader:
        assert grader(samples([r"\boxed{\frac42}", "is 2"])).values.tolist() == [
            1.0,
            1.0,
        ]
        assert len(workers()) == 1
    hang = r"\boxed{\int_0^1 e^{x^{x^x}} dx}"
    with open_reward(math, 2.0) as grader:
        graded = grader(samples([hang, r"\boxed{1+1}"]))
        assert np.isnan(graded.values[0]) and graded.values[1] == 1.0
        assert graded.reasons == ["sample 0: it took longer than its 2 s"]


def test_a_scorer_of_ones_own_is_called_group_by_group():
    texts = ["a", "b", "loop", "c", "raise", "d", "e"]
    groups = [5, 5, 1, 1, 2, 2, 5]
    shown = [
        Sample(t, group=g, tokens=i, row={"i": i})
        for i, (t, g) in enumerate(zip(texts, groups, strict=True))
    ]
    with open_reward(Longest(0.5), 0.6) as grader:
        graded = grader(shown)
    nan = np.nan
    expected = [0.5, 0.5, nan, nan, nan, nan, 1.5]
    np.testing.assert_array_equal(graded.values, expected)
    problems = {2: "it took longer than its 1.2 s"} | {4: "ZeroDivisionError"}
    for place, why in problems.items():
        assert any(f"sample {place}: {why}" in line for line in graded.reasons)
    with open_reward(Longest(0.5), None) as grader:
        graded = grader([s for s in shown if s.response != "loop"])
    np.testing.assert_array_equal(graded.values, [0.5, 0.5, 1.5, nan, nan, 1.5])


def test_a_limit_that_cannot_be_kept_is_refused():
    def inner(response, answer):
        return 1.0

    with pytest.raises(ValueError) as caught:
        open_reward(inner, 1.0)
    assert str(caught.value) == (
        "reward: test_a_limit_that_cannot_be_kept_is_refused.<locals>.inner is no "
        "function of a module, so no other process can call it and stop it; move it to "
        "a module of its own, or write time_limit: null"
    )
    assert open_reward(inner, None)(samples(["a"])).values.tolist() == [1.0]
    with pytest.raises(ValueError, match="settings of Longest cannot be sent"):
        open_reward(Longest(threading.Lock()), 1.0)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="time_limit: .*; write seconds > 0"):
            open_reward(moody, limit)
    with pytest.raises(ValueError, match="reward: 3 is no function and has no score"):
        open_reward(3, None)


def test_a_hopeless_reward_ends_its_batch(monkeypatch):
    monkeypatch.setattr(sandbox, "PATIENCE", 3)
    with open_reward(moody, 10.0) as grader:
        graded = grader(samples(["exit", "a", "kill", "exit", "exit", "a", "a"]))
    assert np.isnan(graded.values).tolist() == [True, False, *[True] * 5]
    assert "calls in a row ended the worker process" in graded.reasons[-1]


def test_a_module_that_the_worker_cannot_import(tmp_path, monkeypatch):
    (tmp_path / "gone_reward.py").write_text(
        "def one(response, answer):\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import gone_reward

    with open_reward(gone_reward.one, 10.0) as grader:
        (tmp_path / "gone_reward.py").write_text("raise OSError('no file')\n")
        graded = grader(samples(["a", "b"]))
    why = "the reward cannot be started: OSError: no file"
    assert graded.reasons == [f"sample 0: {why}", f"sample 1: {why}"]


def test_large_batches_are_dealt_out(monkeypatch):
    monkeypatch.setattr(pools, "SHARE", 4)
    monkeypatch.setattr(pools, "_cores", lambda: 3)
    texts = ["x" * i for i in range(13)]
    with open_reward(moody, 10.0) as grader:
        assert grader(samples(texts)).values.tolist() == list(range(13))
        assert len(workers()) == 3
    assert workers() == []


def test_messages_larger_than_a_pipe_from_another_thread():
    texts = ["y" * (1 << 19), "z" * 3]
    found = []
    with open_reward(moody, 10.0) as grader:
        thread = threading.Thread(target=lambda: found.append(grader(samples(texts))))
        thread.start()
        thread.join(30)
        assert grader(samples(["main"])).values.tolist() == [4.0]
    assert found[0].values.tolist() == [1 << 19, 3.0]


def test_a_worker_that_dies_late_costs_nothing(monkeypatch):
    with open_reward(adversarial.grudge, 10.0) as grader:
        monkeypatch.setattr(
            subprocess.Popen, "poll", lambda self: None
        )  # seen too late
        for _ in range(3):
            graded = grader(samples(["a"]))
            assert graded.values.tolist() == [1.0], graded.reasons
            end = time.monotonic() + 10
            while time.monotonic() < end and any(map(_running, workers())):
                time.sleep(0.01)


def test_an_interrupted_batch_leaves_nothing_in_the_pipe(monkeypatch):
    with open_reward(adversarial.process, 10.0) as grader:
        before = grader(samples(["a"])).values
        with monkeypatch.context() as patch:
            patch.setattr(sandbox.Pipes, "reply", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                grader(samples(["a", "b"]))
        assert workers() == []
        assert grader(samples(["a"])).values != before


def test_a_worker_does_not_outlive_a_killed_parent():
    """Neither one that waits nor one that loops in C."""
    code = """
import os, signal, sys, threading, time
from adversarial_rewards import moody
from unipost.rewards.sandbox import Call, Sandbox
from unipost.rewards.tasks import function_task
idle, busy = Sandbox(), Sandbox()
idle.run(function_task(moody, {}), [Call(9.0, ("a", ""))])
threading.Thread(
    target=busy.run, args=(function_task(moody, {}), [Call(1.0, ("C", ""))])
).start()
while busy._process is None:
    time.sleep(0.01)
time.sleep(0.3)
print(idle._process.pid, busy._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "tests")])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
    )
    pids = [int(word) for word in ran.stdout.split()]
    assert ran.returncode == -signal.SIGKILL and len(pids) == 2
    end = time.monotonic() + 10
    while time.monotonic() < end and any(_running(pid) for pid in pids):
        time.sleep(0.05)
    assert not any(_running(pid) for pid in pids)


def _running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # its new parent may be slow to notice


def test_an_abandoned_sandbox_ends_its_worker():
    box = Sandbox()
    box.run(function_task(moody, {}), [Call(5.0, ("a", ""))])
    assert len(workers()) == 1
    del box
    assert workers() == []


def test_every_reward_of_the_library_ends_or_is_limited():
    """Texts made to be slow: no reward but `math` may take long over one."""
    nasty = [
        r"\boxed{" * 20_000,
        r"\boxed{" * 9_000 + "}" * 9_000,
        "<think>" * 20_000,
        "$" * 50_001,
        "```" * 20_001,
        "1=1" * 30_000,
        "a\n\n" * 30_000,
        "\\[" * 30_000,
        "<answer>" * 20_000 + "1 " * 20_000,
        "\u4e2d" * 50_000,
        "Step 1: " * 20_000,
        "x " * 50_000,
        "(" * 50_000 + "=" + "9" * 50_000,
        "http://" * 20_000,
        "\\boxed{" + "\\text{" * 5_000,
    ]
    shown = [Sample(text, "24", tokens=9, limit=9) for text in nasty]
    made = {"soft_overlong": lambda: REWARDS["soft_overlong"](cache=4)}
    for name, reward in REWARDS.items():
        if name in ("math", "sum") or reward.__module__.endswith(".learned"):
            continue
        opened = made.get(name, reward)() if isinstance(reward, type) else reward
        start = time.process_time()
        graded = open_reward(opened)(shown)
        assert time.process_time() - start < 5.0, name
        assert len(graded.values) == len(nasty)
