"""What a start of a sweep has to do: this shard's runs, alone or several at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from unipost.sweep.record import Folders
from unipost.sweep.settings import Run, Sweep

T = TypeVar("T")
Grouping = Literal["together", "separate"]
LISTED = 3
"""Runs named in a line of the plan; the rest is counted."""


@dataclass(frozen=True)
class Shard:
    """The part `index` of `count`, counted from 1, as a job array takes them."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/4`. Raises ValueError."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ValueError(f"--shard {text}: write i/n, such as 1/4")
        if not 1 <= int(index) <= int(count):
            raise ValueError(
                f"--shard {text}: shards are counted from 1; write 1/{count} to "
                f"{count}/{count}"
            )
        return cls(int(index), int(count))

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Its block of `items`: blocks differ by one in size at most.

        Neighbours stay together, as those of a sweep often share a program.
        """
        first, last = (len(items) * i // self.count for i in self._ends)
        return items[first:last]

    @property
    def _ends(self) -> tuple[int, int]:
        return self.index - 1, self.index


class Unit(NamedTuple):
    """Runs that one process trains: a single one, or several as one program."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The run's name, or the first one's and how many others there are."""
        first, *others = self.runs
        return f"{first.name} and {len(others)} more" if others else first.name


class Plan(NamedTuple):
    """The units to run, and why some of them are single runs.

    runs      all runs of the shard, finished ones included
    alone     {why: runs that do not share a program}
    """

    runs: tuple[Run, ...]
    finished: tuple[Run, ...]
    units: tuple[Unit, ...]
    alone: dict[str, tuple[Run, ...]]


def make_plan(
    sweep: Sweep, shard: Shard, folders: Folders, grouping: Grouping, jobs: int = 1
) -> Plan:
    """The plan of a shard. What is finished does not change which runs are its own.

    Runs that could all be one program are cut into parts for `jobs` processes.
    """
    runs = tuple(shard.of(sweep.runs))
    finished = tuple(run for run in runs if folders.finished(run))
    left = [run for run in runs if run not in finished]
    if grouping == "separate":
        return Plan(runs, finished, tuple(Unit((run,)) for run in left), {})
    units, alone = _together(left, jobs)
    return Plan(runs, finished, units, alone)


def _together(runs: Sequence[Run], jobs: int):
    """(units, {why: runs alone}) of runs, those that share a program together."""
    from unipost.vectorised import split, why_not

    groups = split([run.experiment for run in runs]) if runs else []
    units, alone = [], {}
    for group in groups:
        # its share of the processes, so that none is idle while others have it all
        parts = -(-jobs * len(group) // len(runs))
        cuts = [Shard(i + 1, parts).of(group) for i in range(min(parts, len(group)))]
        units += [Unit(tuple(runs[i] for i in cut)) for cut in cuts if cut]
        if len(group) == 1:
            run = runs[group[0]]
            reason = why_not(run.experiment) or "no other run has the same program"
            alone[reason] = (*alone.get(reason, ()), run)
    return tuple(units), alone


def plan_text(sweep: Sweep, shard: Shard, plan: Plan, folders: Folders) -> str:
    """The plan as lines: how many runs, finished, together, alone and why."""
    seeds, points = len(sweep.seeds), len(sweep.combinations)
    lines = [
        f"{sweep.file}: {_count(points, 'combination')} x {_count(seeds, 'seed')} = "
        f"{_count(len(sweep.runs), 'run')}"
    ]
    lines += [f"  skipped   {p.name}: {reason}" for p, reason in sweep.skipped]
    if shard.count > 1:
        count = _count(len(plan.runs), "run")
        lines.append(f"  shard     {shard.index} of {shard.count}: {count}")
    lines += [f"  finished  {len(plan.finished)}"] if plan.finished else []
    left = [run for unit in plan.units for run in unit.runs]
    resumed = [run for run in left if folders.begun(run)]
    lines += [f"  go on     {listed(resumed)}"] if resumed else []
    again = [run for run in left if folders.failure(run)]
    lines += [f"  retried   {listed(again)}"] if again else []
    for unit in plan.units:
        if len(unit.runs) > 1:
            lines.append(f"  together  {len(unit.runs)} as one program: {unit.name}")
    lines += [f"  alone     {listed(r)}: {why}" for why, r in plan.alone.items()]
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def listed(runs: Sequence[Run]) -> str:
    """`5 (A/0, A/1, B/0 and 2 more)`."""
    names = ", ".join(run.name for run in runs[:LISTED])
    more = f" and {len(runs) - LISTED} more" if len(runs) > LISTED else ""
    return f"{len(runs)} ({names}{more})"
