"""Runs by the command line that meet something at a call of their reward."""

import os
import signal
from pathlib import Path

import yaml
from conftest import CACHE
from tiny_pipeline import SIZES
from tiny_runs import write_sums

from unipost.cli import main

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


def rollouts(path: str) -> dict:
    """Sixteen calls of `reward` a step, in this process."""
    return {
        "name": "rollouts",
        "path": path,
        "prompts": 4,
        "prompt_length": 4,
        "group": 4,
        "sampling": {"max_tokens": 3},
        "reward": "troubled_runs:reward",
        "time_limit": None,
    }


def experiment_tree(path: str) -> dict:
    """GRPO for eight steps, saved every third, evaluated every second."""

    task = {"path": path, "prompt_length": 4, "response_length": 3, "limit": 6}
    return {
        "model": dict(SIZES),
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


def assert_equal(one: Path, other: Path) -> None:
    """The same numbers and weights, byte for byte."""
    for name in COMPARED:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a run."""
    names = (f.name for f in (folder / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def undisturbed(folder: Path) -> tuple[str, Path]:
    """(file, folder) of a run that meets nothing."""
    file = write(folder, experiment_tree(write_sums(folder)))
    TROUBLE.arm(0, lambda: None)
    assert run(file, folder / "run") == 0
    return file, folder / "run"
