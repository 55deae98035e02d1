"""The processes that train the runs of a sweep, each with its output in a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unipost.locks import BUSY
from unipost.preemption import EXIT
from unipost.runs import write_atomic
from unipost.sweep.plan import Unit
from unipost.sweep.record import Folders
from unipost.sweep.settings import Run

State = Literal["waiting", "running", "finished", "failed", "stopped", "elsewhere"]
PACKAGE = Path(__file__).parents[1]


@dataclass
class Child:
    """A process at work on a unit; `log` is where it writes from byte `offset` on.

    told  whether it was sent a signal
    """

    unit: Unit
    process: subprocess.Popen
    log: Path
    offset: int
    started: float
    told: bool = False

    def ended(self) -> bool:
        """Whether the process is over."""
        return self.process.poll() is not None

    def tell(self, signum: int) -> None:
        """Send it a signal: SIGTERM asks it to save and end."""
        if not self.ended():
            self.told = True
            self.process.send_signal(signum)

    def said(self, folder: Path) -> str:
        """Its last line about the run in `folder`, else its last line at all."""
        with self.log.open(errors="replace") as file:
            file.seek(self.offset)
            lines = [x.strip().removeprefix("unipost: ") for x in file if x.strip()]
        own = [x for x in lines if x.startswith(f"{folder}: ")]
        return (own or lines or [""])[-1]


def start(
    unit: Unit, folders: Folders, cache: str | None, slot: Mapping[str, str]
) -> Child:
    """Start a process on a unit, in a session of its own: only we send it signals.

    slot  what its environment has beside ours
    """
    for run in unit.runs:
        _write_config(run, folders.of(run))
        folders.forget_failure(run)
    log = folders.log(unit.runs[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        offset = file.tell()
        process = subprocess.Popen(
            command(unit, folders, cache),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment() | dict(slot),
            start_new_session=True,
        )
    return Child(unit, process, log, offset, time.monotonic())


def command(unit: Unit, folders: Folders, cache: str | None) -> list[str]:
    """What trains a unit; of a single run it can be repeated by hand."""
    places = [str(folders.of(run)) for run in unit.runs]
    kept = [] if cache is None else ["--cache", cache]
    if len(places) > 1:
        return [sys.executable, "-m", "unipost.sweep.together", *kept, *places]
    (place,) = places
    verb = ["-m", "unipost", "run", f"{place}/config.yaml", "--out", place]
    return [sys.executable, *verb, *kept]


def _write_config(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    if not path.exists() or path.read_text() != run.config:
        write_atomic(path, run.config)


def _environment() -> dict[str, str]:
    """Ours, with this package where the child looks for it, wherever it starts."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(PACKAGE.parent), *([before] if before else [])])
    return {**os.environ, "PYTHONPATH": path}


def outcome(child: Child, folders: Folders) -> dict[Run, tuple[State, str]]:
    """{run: (state, problem)} after a process has ended."""
    return {run: _outcome(child, run, folders) for run in child.unit.runs}


def _outcome(child: Child, run: Run, folders: Folders) -> tuple[State, str]:
    code, said = child.process.returncode, child.said(folders.of(run))
    if folders.finished(run):
        return "finished", ""
    if code == EXIT or (child.told and code < 0):
        return "stopped", ""
    place = str(folders.of(run))
    said = said.removeprefix(f"{place}: ").replace(f"{place}/", "")
    if BUSY in said:
        return "elsewhere", said
    return "failed", _problem(code, said)


def _problem(code: int, said: str) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (f"; last line: {said}" if said else "")
    if code == 0:
        return "ended without a trained model"
    return said or f"ended with code {code} and said nothing"
