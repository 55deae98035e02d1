"""A group of runs while it goes on: steps, lines, measures, checkpoints, the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from unipost.compilation import CompileClock, Compiling
from unipost.display import Display
from unipost.loop import stop_run
from unipost.profiling import Phases, phase
from unipost.runs import RunError
from unipost.vectorised.members import Member
from unipost.vectorised.steps import Steps, Taken

Start = Callable[[Sequence[Member]], Steps]


@dataclass
class _Step:
    """A step that was taken: what it gave, and when it was.

    numbers  of each run, once they are fetched and written
    """

    now: int
    taken: Taken
    start: float
    end: float = 0.0
    compiling: Compiling = Compiling(0.0, 0, 0)
    tokens: list[int] | None = None


class Group:
    """Runs that take their steps together, those behind first until they catch up."""

    def __init__(self, members: Sequence[Member], start: Start, title: str):
        self._members, self._start, self._title = members, start, title
        self._untold: list[_Step] = []

    def run(self) -> None:
        """All steps that are left, of every run that does not fail."""
        steps = max(m.loop.experiment.steps for m in self._members)
        done = min(m.done for m in self._members)
        self._clock, self._phases = CompileClock(), Phases()
        display = Display(self._title, steps, done)
        with self._clock, self._phases, display as self._display:
            for member in self._members:
                self._begin(member)
            while some := self._behind(steps):
                later = [m.done for m in self._members if m.done > some[0].done]
                self._stretch(some, min([steps, *later]))

    def _begin(self, member: Member) -> None:
        if member.late:
            member.loop.measure(member.done, member.carried, member.records)
        store = member.records.store
        if store is not None:
            told = member.loop.continued(store, member.done, member.files)
            self._display.say(told)

    def _behind(self, steps: int) -> list[Member]:
        """The runs that have done least, of those with steps left."""
        left = [m for m in self._members if m.error is None and m.done < steps]
        least = min((m.done for m in left), default=steps)
        return [m for m in left if m.done == least]

    def _stretch(self, members: list[Member], stop: int) -> None:
        """The steps of some runs until others join them."""
        # neighbours with the same rows: what is made of rows alone is made once
        members = sorted(members, key=lambda member: member.loop.experiment.seed)
        with self._start(members) as steps:
            self._taken(members, steps, stop)
        for member in members:
            member.done = stop

    def _taken(self, members: list[Member], steps: Steps, stop: int) -> None:
        last: _Step | None = None
        for step in range(members[0].done, stop):
            own = _Step(step + 1, Taken([], [], []), time.perf_counter())
            own.taken = steps.step(step)
            self._write(members, last)
            last = own
            self._untold.append(own)
            alive = [m for m in members if m.error is None]
            if any(m.loop.reads(own.now, m.records) for m in alive[:1]):
                self._write(members, own)
                last = None
                steps.settle()
                self._record(members, own.now)
            self._timed(members, own)
            if all(member.error is not None for member in members):
                break
        self._write(members, last)
        self._tell(members)
        steps.settle()

    def _write(self, members: Sequence[Member], step: _Step | None) -> None:
        """The lines of a step's numbers, which the device is waited for."""
        if step is None or step.tokens is not None:
            return
        values, drawn, tokens = step.taken
        with phase("sync"):
            values, tokens = jax.device_get((values, tokens))
        step.tokens = [int(count) for count in tokens]
        found = _of_runs(values)[: len(members)]
        for member, numbers, own in zip(members, found, drawn, strict=True):
            if member.error is None:
                member.write(step.now, dict(sorted((numbers | own).items())))
                self._display.say(member.error and str(member.error))
                self._display.say(member.warning())

    def _record(self, members: Sequence[Member], now: int) -> None:
        """Measure and save what is due of every run; end all where SIGTERM asks."""
        alive = [member for member in members if member.error is None]
        others = [member for member in alive if not self._recorded(member, now)]
        if len(others) == len(alive):
            return
        for member in others:  # the signal came while the first were recorded
            self._recorded(member, now)
        stores = [x.records.store for x in alive if x.error is None]
        for store in stores:
            if store is not None:
                store.wait()
        stop_run(now, stores[0] if stores else None)

    def _recorded(self, member: Member, now: int) -> bool:
        """Whether the run is to end after what was due of it is done."""
        parts = member.carried, member.ahead, _nothing, member.records
        try:
            return member.loop.record(now, *parts)
        except RunError as error:
            member.error = error
            self._display.say(str(error))
            return False

    def _timed(self, members: Sequence[Member], step: _Step) -> None:
        """Take the end of a step, and tell those of which all is known."""
        step.end, step.compiling = time.perf_counter(), self._clock.lap()
        tokens = self._tell(members)
        alive = [dict(m.shown) for m in members if m.error is None]
        names = alive[0].keys() if alive else ()
        shown = {k: sum(x[k] for x in alive) / len(alive) for k in names}
        self._display.update(step.now, shown, tokens)

    def _tell(self, members: Sequence[Member]) -> int:
        """The lines of the time of steps; the tokens that they were trained on."""
        told = [step for step in self._untold if step.tokens is not None and step.end]
        self._untold = [step for step in self._untold if step not in told]
        alive = [i for i, member in enumerate(members) if member.error is None]
        for step in told:
            line = {"seconds": step.end - step.start}
            line["compile_seconds"] = step.compiling.seconds
            line |= self._phases.between(step.start, step.end)
            shares = {name: x / max(len(alive), 1) for name, x in line.items()}
            for i in alive:
                own = shares | {"tokens": (step.tokens or [])[i]}
                members[i].timed(step.now, own, step.compiling)
        return sum(sum(step.tokens or []) for step in told)


def _nothing() -> None:
    """All lines are written."""


def _of_runs(parts: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The numbers of every run, of {name: [runs]} of each part."""
    found = []
    for part in parts:
        columns = {name: column.tolist() for name, column in part.items()}
        runs = len(next(iter(columns.values())))
        found += [{name: x[i] for name, x in columns.items()} for i in range(runs)]
    return found
