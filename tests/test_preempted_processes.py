"""Two processes as one run: one is told to stop, both do, and one process goes on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import CACHE, FLAGS
from tiny_pipeline import SIZES, rows
from tiny_runs import lines, write_sums

from unipost.cli import main

ROOT = Path(__file__).parents[1]
STEPS, LIMIT = 120, 300.0


def file_of(folder: Path) -> Path:
    """SFT on a mesh of all devices; more steps than are taken before the signal."""
    tree = {
        "model": dict(SIZES),
        "data": rows(write_sums(folder)),
        "objective": "sft",
        "optimizer": {"name": "sgd", "learning_rate": 0.03},
        "steps": STEPS,
        "checkpoints": {"every": 20},
        "mesh": {"data": 1, "fsdp": -1},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def start_two(file: Path, out: Path) -> list[subprocess.Popen[str]]:
    """The same command twice, with two devices each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    flags = " ".join([*FLAGS[1:], "--xla_force_host_platform_device_count=2"])
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "unipost", "run", str(file), "--out", str(out)]
    command += ["--cache", str(CACHE), "--num-processes", "2"]
    command += ["--coordinator", f"127.0.0.1:{port}", "--process-id"]
    return [
        subprocess.Popen(
            [*command, str(i)], stderr=subprocess.PIPE, text=True, env=environment
        )
        for i in range(2)
    ]


def ends(both: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """(exit code, standard error) of each."""
    try:
        told = [process.communicate(timeout=LIMIT)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    return [(p.returncode, text) for p, text in zip(both, told, strict=True)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(file, run, what each process said) of a run whose second process was told."""
    folder = tmp_path_factory.mktemp("two")
    file, run = file_of(folder), folder / "run"
    both, began = start_two(file, run), time.monotonic()
    # before the first step: even then the processes agree on one
    while not (run / "checkpoints").exists():
        assert time.monotonic() - began < LIMIT, [p.poll() for p in both]
        assert all(p.poll() is None for p in both), ends(both)
        time.sleep(0.01)
    both[1].send_signal(signal.SIGTERM)
    return file, run, ends(both)


def test_both_stop_after_the_same_step(stopped):
    _, run, ended = stopped
    assert [code for code, _ in ended] == [75, 75]
    done = len(lines(run))
    assert 1 <= done < STEPS
    assert (run / "checkpoints" / str(done)).exists()
    told = [line for _, text in ended for line in text.splitlines()]
    place = run / "checkpoints"
    assert [line for line in told if line.startswith("unipost: ")] == [
        f"unipost: stopped by SIGTERM after step {done}, saved in {place}; the same "
        "command goes on from there"
    ]


def test_one_process_goes_on_with_the_same_losses(stopped, tmp_path):
    file, run, _ = stopped
    assert len(lines(run)) < 50
    arguments = [str(file), "--cache", str(CACHE), f"steps={STEPS}"]
    assert main(["run", *arguments, "--out", str(run), "mesh=null"]) == 0
    assert main(["run", *arguments, "--out", str(tmp_path / "one"), "mesh=null"]) == 0
    torn, whole = lines(run), lines(tmp_path / "one")
    assert len(torn) == len(whole) == STEPS
    for one, other in zip(torn[:50], whole[:50], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5, abs=1e-5)


def test_two_processes_set_a_damaged_checkpoint_aside_together(stopped, tmp_path):
    file, run, _ = stopped
    torn = tmp_path / "torn"
    shutil.copytree(run, torn)
    newest = max(int(f.name) for f in (torn / "checkpoints").glob("[0-9]*"))
    about = torn / "checkpoints" / str(newest) / "about/metadata"
    checkpoint = json.loads(about.read_text())
    checkpoint["checksums"]["state.step"] += 1
    about.write_text(json.dumps(checkpoint))
    ended = ends(start_two(file, torn))
    assert [code for code, _ in ended] == [0, 0], ended
    said = [x for _, text in ended for x in text.splitlines() if "set aside" in x]
    assert len(said) == 1 and f"{newest}.damaged, going on from step" in said[0]
    assert len(lines(torn)) == STEPS
