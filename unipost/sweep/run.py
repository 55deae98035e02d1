"""Running a sweep: start what is left, some processes at a time, and watch them."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unipost.preemption import Stopped
from unipost.runs import RunError
from unipost.sweep.children import Child, State, outcome, start
from unipost.sweep.plan import (
    Grouping,
    Plan,
    Shard,
    Unit,
    listed,
    make_plan,
    plan_text,
)
from unipost.sweep.record import Folders, check_files, open_sweep
from unipost.sweep.settings import Run, Sweep
from unipost.sweep.summary import write_summary
from unipost.sweep.watch import View, open_view

PAUSE = 0.1
"""Seconds between two looks at the processes."""
ENDING = "stopping: the runs save; a second signal does not wait for that"


@dataclass(frozen=True)
class Asked:
    """How a sweep is run.

    slots  an entry for each process at once: its environment beside ours
    """

    shard: Shard = Shard()
    slots: tuple[Mapping[str, str], ...] = ({},)
    grouping: Grouping = "together"
    cache: str | None = None

    def __post_init__(self):
        if not self.slots:
            raise ValueError("--jobs 0: write 1 or more")


@dataclass
class Progress:
    """What is known of the runs of a plan while they are at work.

    problem   why runs failed, or where they are in use
    since     when each run began, by time.monotonic
    seconds   how long those took that are over
    ending    what happens after a signal, in words
    """

    state: dict[Run, State]
    problem: dict[Run, str] = field(default_factory=dict)
    since: dict[Run, float] = field(default_factory=dict)
    seconds: dict[Run, float] = field(default_factory=dict)
    ending: str = ""

    def having(self, state: State) -> list[Run]:
        """The runs in a state."""
        return [run for run, own in self.state.items() if own == state]


def run_sweep(sweep: Sweep, root: Path, asked: Asked) -> None:
    """Run what is left of a shard, then write the summary if nothing is left at all.

    Raises RunError where runs failed, or are another process's, after all others are
    done, and Stopped after a SIGTERM or Ctrl-C that was passed on to the runs.
    """
    check_files(sweep)
    folders = open_sweep(sweep, root)
    parts = asked.grouping, len(asked.slots)
    plan = make_plan(sweep, asked.shard, folders, *parts)
    print(plan_text(sweep, asked.shard, plan, folders), flush=True)
    progress = Progress(dict.fromkeys(plan.runs, "waiting"))
    for run in plan.finished:
        progress.state[run] = "finished"
    if plan.units:
        with open_view(progress, folders) as view, _signals() as heard:
            _Work(plan, folders, asked, progress, view, heard).run()
    _end(sweep, folders, progress, heard if plan.units else [])


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGTERM and SIGINT that come meanwhile, in a list that grows."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    wanted = signal.SIGTERM, signal.SIGINT
    before = [signal.signal(s, lambda number, _: heard.append(number)) for s in wanted]
    try:
        yield heard
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)


class _Work:
    """The processes at work on the units of a plan."""

    def __init__(
        self,
        plan: Plan,
        folders: Folders,
        asked: Asked,
        progress: Progress,
        view: View,
        heard: list[int],
    ):
        self._waiting = deque(plan.units)
        self._folders, self._asked = folders, asked
        self._progress, self._view = progress, view
        self._heard, self._passed = heard, 0
        self._free = deque(asked.slots)
        self._children: list[tuple[Child, Mapping[str, str]]] = []

    def run(self) -> None:
        """Until nothing waits and nothing runs, or a signal has ended it all."""
        try:
            while self._children or (self._waiting and not self._heard):
                self._pass_on()
                while self._free and self._waiting and not self._heard:
                    self._begin(self._waiting.popleft())
                for child, slot in [x for x in self._children if x[0].ended()]:
                    self._children.remove((child, slot))
                    self._free.append(slot)
                    self._over(child)
                self._view.show()
                time.sleep(PAUSE)
        finally:
            # an error of ours leaves no process behind
            for child, _ in self._children:
                child.tell(signal.SIGTERM)
            for child, _ in self._children:
                child.process.wait()

    def _pass_on(self) -> None:
        """The first signal asks the runs to save and end, a second one ends them."""
        while self._passed < len(self._heard):
            number = signal.SIGKILL if self._passed else signal.SIGTERM
            for child, _ in self._children:
                child.tell(number)
            self._passed += 1
            self._progress.ending = ENDING
            self._view.show()

    def _begin(self, unit: Unit) -> None:
        progress, left = self._progress, []
        for run in unit.runs:
            # another process may have done it since the plan was made
            done = self._folders.finished(run)
            progress.state[run] = "finished" if done else "running"
            progress.since[run] = time.monotonic()
            left += [] if done else [run]
        if left:
            slot, cache = self._free.popleft(), self._asked.cache
            child = start(Unit(tuple(left)), self._folders, cache, slot)
            self._children.append((child, slot))

    def _over(self, child: Child) -> None:
        progress = self._progress
        for run, (state, problem) in outcome(child, self._folders).items():
            progress.state[run] = state
            progress.seconds[run] = time.monotonic() - child.started
            if problem:
                progress.problem[run] = problem
            if state == "failed":
                self._folders.fail(run, problem)
            self._view.over(run)


def _end(sweep: Sweep, folders: Folders, progress: Progress, heard: list[int]) -> None:
    """Write the summary where all that can be is done; raise for what is not."""
    others = [
        run
        for run in sweep.runs
        if run not in progress.state
        and not folders.finished(run)
        and not folders.failure(run)
    ]
    busy, stopped = progress.having("elsewhere"), progress.having("stopped")
    if heard or stopped:
        left = len(sweep.runs) - len([r for r in sweep.runs if folders.finished(r)])
        raise Stopped(f"stopped, {left} runs left; the same command goes on from here")
    if others or busy:
        left = f"{len(others) + len(busy)} of {len(sweep.runs)} runs"
        print(f"{folders.root}: {left} are left to other processes, the last sums up")
    else:
        print(write_summary(sweep, folders))
        print(f"{folders.root}: summary.md, summary.csv, sweep.json, and the runs")
    said = []
    if failed := progress.having("failed"):
        said.append(f"{listed(failed)} failed; the same command tries again")
    if busy:
        said.append(f"{listed(busy)} in use by another process")
    if said:
        raise RunError(f"{folders.root}: {'; '.join(said)}")
