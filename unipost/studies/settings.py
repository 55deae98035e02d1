"""What a study file says: a base, arms, seeds, what is measured, and claims."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unipost.checkpoint import Checkpoints
from unipost.evaluation import Evaluation
from unipost.experiment import Experiment, check_staleness
from unipost.mesh import Mesh
from unipost.objectives import AnyObjective
from unipost.optimizers import Optimizer
from unipost.reference_cache import check_cache
from unipost.scalar.critic import Critic, check_critic
from unipost.sources import Source
from unipost.studies import diagnostics as seen
from unipost.studies.claims import Claim
from unipost.studies.diagnostics import Diagnostic
from unipost.studies.frame import (
    BASE,
    Frame,
    Matched,
    families,
    kept_groups,
    number_names,
)

RESERVED = ("retention", "gain")


@dataclass(frozen=True)
class Rule:
    """An arm has improved when the interval of its gain lies above `above`."""

    task: str
    metric: Literal["greedy", "sampled"]
    above: float = 0.0


@dataclass(frozen=True)
class Arm:
    """One method of the comparison; None takes what `common` says.

    after            the arm whose trained model this one starts from, same seed; None:
                     the base
    checkpoints      as in an experiment: a run that is killed goes on from them
    reference_cache  as in an experiment, for all arms with the same data; where the
                     rows change with the seed, a folder in it per seed
    """

    title: str
    data: Source
    objective: AnyObjective
    optimizer: Optimizer
    steps: int
    expected: Literal["learn", "fail"] = "learn"
    inner_epochs: int = 1
    minibatches: int = 1
    microbatches: int = 1
    staleness: int = 0
    sync_every: int = 1
    after: str | None = None
    checkpoints: Checkpoints | None = None
    reference_cache: str | None = None
    critic: Critic | None = None

    def __post_init__(self):
        check_critic(self.objective, self.critic, self.data)
        check_staleness(self.data, self.staleness, self.sync_every)
        check_cache(self.objective, self.data, self.reference_cache)


@dataclass(frozen=True)
class Study:
    """A comparison of arms from one base.

    base         folder of the base model, or `train`: make it again by `recipe`
    recipe       the experiment file that trained the base
    claim        what the study tests, stated so that it can fail
    rule         when an arm has improved over the base
    comparisons  pairs of arms to compare on the same seeds and items, with a label
    metrics      numbers of the training steps whose mean over the run is reported too
    groups       tasks by the name of their group
    curve        steps at which every task is evaluated beside the last one
    matched      the accuracy at which claims `at: matched` compare arms
    diagnostics  numbers of the parameters, measured wherever tasks are
    claims       what is said of the arms, with the tests that decide it
    together     runs of an arm, its seeds and the points of its grid, that are trained
                 as one program at most; 1: each by itself. For models so small that
                 a device idles; the numbers are the same but for rounding
    mesh         devices of every run and evaluation; None: one
    """

    name: str
    claim: str
    base: str
    rule: Rule
    seeds: tuple[int, ...]
    evaluation: Evaluation
    arms: dict[str, Arm]
    recipe: str | None = None
    comparisons: tuple[tuple[str, ...], ...] = ()
    metrics: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    curve: tuple[int, ...] = ()
    matched: Matched | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    claims: dict[str, Claim] = field(default_factory=dict)
    together: int = 1
    mesh: Mesh | None = None

    def __post_init__(self):
        task = self.evaluation.tasks.get(self.rule.task)
        if task is None:
            raise ValueError(
                f"rule.task: {self.rule.task!r} is no task; write one of "
                f"{', '.join(self.evaluation.tasks)}"
            )
        if self.rule.metric == "sampled" and not task.samples:
            raise ValueError(
                f"rule.metric: sampled, but evaluation.tasks.{self.rule.task}.samples "
                "is 0; write the number of samples"
            )
        if not self.seeds or not self.arms:
            raise ValueError("seeds, arms: a study needs at least one of each")
        for pair in self.comparisons:
            if len(pair) != 3 or not {*pair[:2]} <= {*self.arms}:
                raise ValueError(
                    f"comparisons: {list(pair)}; write [arm, other arm, label]"
                )
        _check_together(self)
        _check_names(self)
        _check_curve(self)
        _check_after(self)
        seen.check(self.diagnostics, self.evaluation)
        _check_claims(self)

    def experiment(
        self, arm: str, seed: int, base: str, folder: Path = Path()
    ) -> Experiment:
        """The experiment of one arm and seed from the base in folder `base`.

        `folder` is that of the study, where what an arm comes `after` is.
        """
        chosen = self.arms[arm]
        fields = {f.name for f in dataclasses.fields(Experiment)}
        values = {k: v for k, v in vars(chosen).items() if k in fields}
        if chosen.reference_cache is not None and chosen.data.varies == "seed":
            values["reference_cache"] = str(Path(chosen.reference_cache) / str(seed))
        if chosen.after is not None:
            base = str(folder / chosen.after / str(seed) / "final")
        return Experiment(model=base, seed=seed, mesh=self.mesh, **values)

    def frame(self) -> Frame:
        """What its claims can name."""
        tasks = self.evaluation.tasks
        marked = {name: task.marker is not None for name, task in tasks.items()}
        measured = self.evaluation.distance is not None
        own = [*seen.named(self.diagnostics)]
        return Frame(
            families=families(self.arms),
            tasks={name: task.samples for name, task in tasks.items()},
            groups=self.groups,
            kept=kept_groups(self.groups, {n: t.role for n, t in tasks.items()}),
            target=(self.rule.task, self.rule.metric),
            curve=self.curve,
            numbers=number_names(marked, measured, self.metrics, own),
            matched=self.matched,
        )


def _check_together(study: Study) -> None:
    if study.together < 1:
        raise ValueError(f"together: {study.together}; write 1 or more")
    if study.together > 1 and study.mesh is not None:
        raise ValueError(
            f"together: {study.together}, but runs on a mesh are trained each by "
            "itself; write together: 1, or mesh: null"
        )


def _check_names(study: Study) -> None:
    """Refuse names that a claim could not tell apart, and groups of unknown tasks."""
    tasks = study.evaluation.tasks
    if BASE in study.arms:
        raise ValueError(f"arms.{BASE}: the base has this name; write another")
    for group, members in study.groups.items():
        if group in tasks or group in RESERVED:
            raise ValueError(f"groups.{group}: the name is taken; write another")
        for task in members or [""]:
            if task not in tasks:
                raise ValueError(
                    f"groups.{group}: {task!r} is no task; write one of "
                    f"{', '.join(tasks)}"
                )
    for task in tasks:
        if task in RESERVED:
            raise ValueError(f"evaluation.tasks.{task}: the name is taken")


def _check_curve(study: Study) -> None:
    """Refuse points of the curve that some run does not have."""
    last = min(study.arms.items(), key=lambda pair: pair[1].steps)
    for step, before in zip(study.curve, (0, *study.curve), strict=False):
        if step <= before:
            raise ValueError(
                f"curve: {list(study.curve)}; write rising steps from 1 on (0 is the "
                "base, which is there anyway)"
            )
        if step > last[1].steps:
            raise ValueError(
                f"curve: {step} is after the last step of arm {last[0]}; write steps "
                f"up to {last[1].steps}"
            )
    rule, frame = study.matched, study.frame()
    if rule is not None:
        if rule.task not in frame.tasks:
            raise ValueError(
                f"matched.task: {rule.task!r} is no task; write one of "
                f"{', '.join(frame.tasks)}"
            )
        try:
            frame.check_metric(rule.task, rule.metric)
        except ValueError as error:
            raise ValueError(f"matched.metric: {error}") from error


def _check_after(study: Study) -> None:
    """An arm comes after one that stands above it in the file."""
    before: list[str] = []
    for name, arm in study.arms.items():
        if arm.after is not None and arm.after not in before:
            told = f"write one of {', '.join(before)}" if before else "none is"
            raise ValueError(
                f"arms.{name}.after: {arm.after!r} is no arm above it; {told}"
            )
        before.append(name)


def _check_claims(study: Study) -> None:
    for name, claim in study.claims.items():
        try:
            claim.test.check(study.frame())
        except ValueError as error:
            raise ValueError(f"claims.{name}.test: {error}") from error
