"""What a claim can name: arms and their families, tasks, groups, steps, numbers.

A frame is made from a study before it runs, to refuse what is not there, and from its
results, to look it up.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

BASE = "base"
"""The model that all arms start from, as an arm of a claim."""
MEMBER = "@"
"""What stands between the name of an arm and its point of the grid."""
At = Literal["final", "matched"] | int
"""When: after the last step, at the accuracy of `matched`, at a step of the curve."""
DISTANCES = ("kl_reverse", "kl_forward", "entropy", "margin")
OF_TASK = ("length", "length_wrong", "style")
ONCE = ("tokens", "train_seconds", "seconds", "steps")
"""Numbers of a run that have no curve."""


@dataclass(frozen=True)
class Matched:
    """Where arms are compared `at: matched`: when `metric` of `task` first is `reach`.

    reach  percent; between two points of the curve the step is interpolated
    """

    task: str
    reach: float
    metric: str = "greedy"

    def __post_init__(self):
        if not 1 < self.reach <= 100:
            raise ValueError(f"reach: {self.reach:g}; write percent, above 1 up to 100")


@dataclass(frozen=True)
class Quantity:
    """A number of a run: a weighted sum of accuracies, or one that it reports.

    terms    (task, metric, weight) of percentages; empty for a number
    number   its name, or ""
    changed  whether the base's value is subtracted
    """

    terms: tuple[tuple[str, str, float], ...] = ()
    number: str = ""
    changed: Literal["level", "change"] = "level"

    @property
    def unit(self) -> str:
        """points, %, or nothing."""
        if self.number:
            return ""
        return "points" if self.changed == "change" else "%"


@dataclass(frozen=True)
class Frame:
    """The names of a study.

    families  {arm, or arm of a grid: its members}
    tasks     {task: samples per item}
    groups    {group: its tasks}
    kept      the groups whose change is `retention`
    target    (task, metric) of the rule, whose change is `gain`
    curve     steps at which everything is measured
    numbers   names of what a run reports beside outcomes
    """

    families: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, int]
    groups: Mapping[str, Sequence[str]]
    kept: tuple[Sequence[str], ...]
    target: tuple[str, str]
    curve: tuple[int, ...] = ()
    numbers: frozenset[str] = frozenset()
    matched: Matched | None = None
    metrics: tuple[str, ...] = field(default=())

    def members(self, arm: str) -> tuple[str, ...]:
        """The arms that a name stands for. Raises ValueError for an unknown one."""
        if arm == BASE:
            return (BASE,)
        if arm not in self.families:
            _unknown(arm, "arm", [*self.families, BASE])
        return self.families[arm]

    def quantity(self, what: str) -> Quantity:
        """The number that `what` names. Raises ValueError, one line, for none."""
        if what in self.numbers:
            return Quantity(number=what)
        if what == "retention":
            if not self.kept:
                raise ValueError("what: retention, but no task has role: retention")
            return Quantity(_mean(self.kept), changed="change")
        if what == "gain":
            return Quantity(((*self.target, 1.0),), changed="change")
        if what in self.groups:
            return Quantity(_mean([self.groups[what]]))
        task, _, metric = what.partition("/")
        if task not in self.tasks:
            known = ["retention", "gain", *self.groups, *self.tasks, *self.numbers]
            _unknown(what, "task, group or number", known)
        self.check_metric(task, metric or "greedy")
        return Quantity(((task, metric or "greedy", 1.0),))

    def check_metric(self, task: str, metric: str) -> None:
        """Raises ValueError where a task is not measured so."""
        samples = self.tasks[task]
        k = metric.removeprefix("pass@")
        if metric == "greedy" or (metric == "sampled" and samples):
            return
        if k != metric and k.isdecimal() and 1 <= int(k) <= samples:
            return
        told = "greedy" + (f", sampled, pass@1 to pass@{samples}" if samples else "")
        own = sorted(n for n in self.numbers if n.startswith(f"{task}/"))
        raise ValueError(
            f"what: {task} has no {metric!r} ({samples} samples per item); write one "
            f"of {', '.join([told, *own])}"
        )

    def check_at(self, at: At, what: str = "") -> None:
        """Raises ValueError where nothing is measured at `at`."""
        if at == "matched" and self.matched is None:
            raise ValueError(
                "at: matched, but the study has no threshold; write matched: {task: "
                f"{self.target[0]}, metric: {self.target[1]}, reach: PERCENT}}"
            )
        if at == "matched" and not self.curve:
            raise ValueError("at: matched needs checkpoints; write curve: [STEP, ...]")
        if isinstance(at, int) and at not in self.curve:
            listed = ", ".join(map(str, self.curve)) or "empty"
            raise ValueError(
                f"at: {at} is no step of the curve ({listed}); write curve with it, or "
                "at: final"
            )
        if at != "final" and what in ONCE:
            raise ValueError(f"at: {at}, but {what} has no curve; write at: final")


def _mean(groups: Iterable[Sequence[str]]) -> tuple[tuple[str, str, float], ...]:
    """Greedy accuracy as the mean over groups of the mean over their tasks."""
    groups = [*groups]
    return tuple(
        (task, "greedy", 1.0 / len(groups) / len(group))
        for group in groups
        for task in group
    )


def _unknown(name: Any, kind: str, known: Iterable[str]) -> None:
    known = [*known]
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name!r} is no {kind}{hint}; write one of {', '.join(known)}")


def families(arms: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """{name: arms}: every arm, and the arms of a grid by what they have in common."""
    arms = [*arms]
    found: dict[str, tuple[str, ...]] = {arm: (arm,) for arm in arms}
    for arm in arms:
        family = arm.partition(MEMBER)[0]
        if family != arm and (family,) != found.get(family):
            found[family] = (*found.get(family, ()), arm)
    return found


def kept_groups(
    groups: Mapping[str, Sequence[str]], roles: Mapping[str, str]
) -> tuple[Sequence[str], ...]:
    """The groups whose change is retention: those without a target task.

    Without groups, every task with role retention is one.
    """
    if not groups:
        return tuple((task,) for task, role in roles.items() if role == "retention")
    return tuple(
        tuple(tasks)
        for tasks in groups.values()
        if all(roles[task] == "retention" for task in tasks)
    )


def number_names(
    tasks: Mapping[str, bool],
    measured: bool,
    metrics: Sequence[str],
    diagnostics: Sequence[str],
) -> frozenset[str]:
    """What a run reports: of each task (with a marker or without), distances, the rest.

    `measured` tells whether the distance to the base is.
    """
    names = [f"{task}/{key}" for task in tasks for key in OF_TASK[:2]]
    names += [f"{task}/style" for task, marked in tasks.items() if marked]
    names += DISTANCES if measured else ()
    names += [f"{over}/{name}" for name in metrics for over in ("train", "window")]
    return frozenset([*names, *diagnostics, *ONCE])
