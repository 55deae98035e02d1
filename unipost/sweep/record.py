"""What the folders of a sweep say of its runs: finished, begun, how far, what failed.

DIR/COMBINATION/SEED         a run directory, as `unipost run` makes it
DIR/logs/COMBINATION/SEED.log     what the run printed, start after start
DIR/logs/COMBINATION/SEED.failed  one line: why its last start failed
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unipost.runs import RunError, first_difference, holds_other, write_atomic
from unipost.sweep.settings import Run, Sweep, is_sweep
from unipost.tree import dump_tree

_TAIL = 65536
"""Bytes of a file's end in which its last line is."""


@dataclass(frozen=True)
class Folders:
    """The folders of a sweep below `root`."""

    root: Path

    def of(self, run: Run) -> Path:
        """The run directory."""
        return self.root / run.combination.name / str(run.seed)

    def log(self, run: Run) -> Path:
        """What the run prints."""
        return self._beside(run, "log")

    def finished(self, run: Run) -> bool:
        """Whether all steps are done and the trained model is there."""
        folder = self.of(run)
        whole = (folder / "final").exists() or (folder / "final.npz").exists()
        return whole and self.step(run) == run.experiment.steps

    def begun(self, run: Run) -> bool:
        """Whether there is a checkpoint to go on from."""
        kept = self.of(run) / "checkpoints"
        return kept.exists() and any(kept.iterdir())

    def step(self, run: Run) -> int:
        """Steps whose numbers are written."""
        return int(self.numbers(run).get("step", 0))

    def numbers(self, run: Run) -> dict[str, Any]:
        """The last line of metrics.jsonl; empty before the first."""
        return last_line(self.of(run) / "metrics.jsonl")

    def evaluation(self, run: Run) -> dict[str, Any]:
        """The last line of evaluation.jsonl; empty where nothing was evaluated."""
        return last_line(self.of(run) / "evaluation.jsonl")

    def failure(self, run: Run) -> str:
        """Why the last start of a run failed, in one line; "" where none did."""
        path = self._beside(run, "failed")
        return path.read_text().strip() if path.exists() else ""

    def fail(self, run: Run, problem: str) -> None:
        """Write down why a run failed."""
        path = self._beside(run, "failed")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, problem + "\n")

    def forget_failure(self, run: Run) -> None:
        """A new start of the run begins."""
        self._beside(run, "failed").unlink(missing_ok=True)

    def _beside(self, run: Run, kind: str) -> Path:
        # not in the run directory, which a run that never began leaves free
        return self.root / "logs" / run.combination.name / f"{run.seed}.{kind}"


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a JSONL file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        if line.endswith(b"\n"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return {}


def open_sweep(sweep: Sweep, root: Path) -> Folders:
    """Make the folder of a sweep, or check what it holds, before anything runs.

    A sweep may grow: combinations and seeds that are new begin, the others stay.
    Raises RunError where `root` holds something else, or a run with other settings.
    """
    path, folders = root / "config.yaml", Folders(root)
    there = yaml.safe_load(path.read_text()) if path.exists() else None
    if root.exists() and any(root.iterdir()) and not is_sweep(there or {}):
        raise RunError(f"{root}: holds no sweep; choose another --out")
    for run in sweep.runs:
        _check(run, folders.of(run))
    root.mkdir(parents=True, exist_ok=True)
    write_atomic(path, dump_tree(dict(sweep.tree)))
    return folders


def _check(run: Run, folder: Path) -> None:
    path = folder / "config.yaml"
    if path.exists() and path.read_text() == run.config:
        return
    if holds_other(folder, run.config):
        there = path.read_text() if path.exists() else "{}"
        difference = first_difference(there, run.config)
        raise RunError(
            f"{folder}: holds a run with other settings ({difference}); choose "
            "another --out or remove it"
        )


def check_files(sweep: Sweep) -> None:
    """Raise RunError for data or a model that is not there, before anything runs."""
    wanted: dict[str, Run] = {}
    for run in sweep.runs:
        for path in _read_by(run):
            wanted.setdefault(path, run)
    for path, run in wanted.items():
        if "://" not in path and not Path(path).exists():
            name = run.combination.name
            raise RunError(f"combination {name}: {path}: no such file or folder")


def _read_by(run: Run) -> list[str]:
    experiment = run.experiment
    paths = [*experiment.data.paths]
    paths += [x for x in (experiment.model, experiment.reference) if isinstance(x, str)]
    if experiment.evaluation is not None:
        paths += [task.path for task in experiment.evaluation.tasks.values()]
    if experiment.held_out is not None:
        paths += experiment.held_out.data.paths
    return paths
