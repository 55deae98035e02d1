"""Faults: kills, a full disk, no right to write, two runs in one folder."""

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CACHE
from tiny_pipeline import tree as pipeline_tree
from tiny_runs import write_sums
from troubled_runs import (
    TROUBLE,
    assert_equal,
    experiment_tree,
    run,
    saved_steps,
    terminate,
    undisturbed,
    write,
)

from unipost import locks
from unipost.locks import held
from unipost.runs import RunError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(autouse=True)
def no_trouble():
    """Nothing happens, unless a test says so."""
    TROUBLE.arm(0, lambda: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(file, folder) of an undisturbed run."""
    return undisturbed(tmp_path_factory.mktemp("whole"))


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


def test_a_stop_that_cannot_be_saved_says_so(whole, tmp_path, capsys):
    """It is not queued again as if it had been."""
    file, undisturbed = whole
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        terminate()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))

    TROUBLE.arm(16 * 5, fill)
    try:
        assert run(file, tmp_path / "run") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    errors = [x for x in capsys.readouterr().err.splitlines() if "unipost: " in x]
    assert len(errors) == 1 and "not be written: " in errors[0]
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


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_killed_at_random_moments(kind, tmp_path):
    """The short form of benchmarks/faults.py: three kills, and the same numbers."""
    from faults import fault_test

    tally, _ = fault_test(kind, 3, 0, tmp_path, CACHE)
    assert not tally.problems
    assert len(tally.kills) == 3
