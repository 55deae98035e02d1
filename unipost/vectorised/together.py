"""Training a group of experiments together, each with the folder of a run alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from unipost.experiment import Experiment
from unipost.measures import Measure, When
from unipost.preemption import listening, patient
from unipost.processes import check_single
from unipost.runs import RunError
from unipost.train import Result
from unipost.vectorised.drawing import Drawing
from unipost.vectorised.group import Group
from unipost.vectorised.groups import difference, why_not
from unipost.vectorised.members import open_members
from unipost.vectorised.stacks import Way
from unipost.vectorised.steps import Steps, default_way


class Failed(RunError):
    """Some runs of a group have failed; the others are done.

    failures  {place in the group: why}
    results   the others' results, None in the place of a failure
    """

    def __init__(self, failures: dict[int, RunError], results: list[Result | None]):
        first = next(iter(failures.values()))
        more = len(failures) - 1
        others = f" (and {more} other{'s' * (more > 1)} of {len(results)})"
        super().__init__(f"{first}{others if more else ''}")
        self.failures, self.results = failures, results


def train_together(
    experiments: Sequence[Experiment],
    folders: Sequence[Path],
    title: str = "train",
    way: Way | None = None,
    also: Sequence[Sequence[tuple[Measure, When]]] = (),
) -> list[Result]:
    """Run `experiments`, a group of `split`, in `folders`, as one computation.

    Every folder is what `train` makes, and goes on from its newest checkpoint, by this
    function or by `train`; the metrics are those of the separate runs but for rounding.
    Wall times in timing.jsonl are a run's share of the group's. `way` None: the fastest
    here (`unipost.vectorised.steps`). `also` has for each run what is measured beside
    its evaluation, as in `train`. SIGTERM saves all and ends the process.

    Raises ValueError for experiments that cannot share a program. A run that fails
    stops with a line that names it while the others go on; then `Failed` is raised.
    """
    _check(experiments, folders)
    way = way or default_way()
    with contextlib.ExitStack() as resources:
        drawing = Drawing(len(experiments))
        beside = [*also] or [()] * len(experiments)
        opened = open_members(experiments, folders, drawing.sampled, beside)
        members, failures = resources.enter_context(opened)
        resources.enter_context(drawing)
        for error in failures.values():
            print(f"{title}: {error}", file=sys.stderr)
        with listening(), patient():
            if members:
                start = partial(Steps, drawing=drawing, way=way)
                Group(members, start, title).run()
            for member in members:
                member.close()
            failures |= {m.place: m.error for m in members if m.error is not None}
            done = {m.place: m.result() for m in members if m.error is None}
    if failures:
        raise Failed(failures, [done.get(i) for i in range(len(experiments))])
    return [done[i] for i in range(len(experiments))]


def _check(experiments: Sequence[Experiment], folders: Sequence[Path]) -> None:
    """Refuse experiments that do not share a program, and folders that are not apart.

    Raises ValueError naming the field.
    """
    check_single("runs are trained together by one process", "start one of them alone")
    if not experiments or len(experiments) != len(folders):
        counts = f"{len(experiments)} experiments and {len(folders)} folders"
        raise ValueError(f"train_together: {counts}; give one folder for each")
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError("train_together: two runs have one folder; give each its own")
    for folder, experiment in zip(folders, experiments, strict=True):
        reason = why_not(experiment)
        if reason is not None:
            raise ValueError(f"{folder}: cannot be trained together: {reason}")
        name = difference(experiments[0], experiment)
        if name is not None:
            raise ValueError(
                f"{folder}: cannot be trained together with {folders[0]}: they differ "
                f"in {name}; write groups as split gives them"
            )
