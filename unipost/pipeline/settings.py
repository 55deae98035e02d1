"""What a pipeline file says: stages, their order, and what is measured.

`common` is laid under every stage that trains. A text `{stage}` stands for what an
earlier stage makes: the folder of its model, or its file of rows.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipost.choices import REGISTRIES
from unipost.config import CHOICES, build, to_tree
from unipost.evaluation import Evaluation
from unipost.pipeline.kinds import KINDS, Kind
from unipost.pipeline.references import (
    check_edges,
    check_unquoted,
    check_used,
    references,
)
from unipost.scalar.objective import ScalarObjective
from unipost.studies.claims import Claim
from unipost.study import Rule
from unipost.tree import COMMAND_LINE, ConfigError, load_tree, merge

_ARTICLE = {"model": "a model", "rows": "a file of rows", "nothing": "nothing"}


@dataclass(frozen=True)
class Stage:
    """One stage, its references still by name.

    fixed  it writes a seed of its own: it runs once, whatever the pipeline's seeds
    """

    kind: str
    settings: Any
    fixed: bool

    @property
    def of(self) -> Kind:
        """What its kind is made of."""
        return KINDS[self.kind]

    @property
    def measured(self) -> bool:
        """Whether it has a model that the pipeline's evaluation measures."""
        own = getattr(self.settings, "objective", None)
        scalar = isinstance(own, ScalarObjective)
        return self.kind in ("train", "evaluation") and not scalar

    @property
    def tree(self) -> dict[str, Any]:
        """Every setting, defaults written out, as plain data."""
        return {"kind": self.kind, **to_tree(self.settings)}

    @property
    def reads(self) -> dict[str, str]:
        """{dotted key: the stage it refers to}."""
        return references(self.tree)


@dataclass(frozen=True)
class Pipeline:
    """Stages that run one after another, each from what earlier ones made.

    stages       by name, in the order in which they run
    claim        what the pipeline tests, stated so that it can fail
    evaluation   tasks on which the model of every stage is measured, item by item
    rule         the task and metric of the comparisons
    seeds        run the stages once for each; a stage with a seed of its own runs once
    results      stages whose model is meant for the reader, not for a later stage
    comparisons  [stage, other stage, label]: on the same seeds and items
    claims       what is said of the stages' models, or of the rules of a best_of
                 stage, with the tests that decide it (`unipost.pipeline.claims`)
    """

    stages: dict[str, Any]
    claim: str = ""
    evaluation: Evaluation | None = None
    rule: Rule | None = None
    seeds: tuple[int, ...] | None = None
    results: tuple[str, ...] = ()
    comparisons: tuple[tuple[str, ...], ...] = ()
    claims: dict[str, Claim] = field(default_factory=dict)

    def __post_init__(self):
        if not self.stages:
            raise ValueError("stages: none; write at least one")
        edges = self.edges
        check_edges(edges)
        for name, stage in self.stages.items():
            _check_kinds(name, stage, self.stages)
        _check_results(self)
        kept = {n for n, s in self.stages.items() if s.of.gives == "nothing"}
        check_used(edges, kept | {*self.results})
        _check_seeds(self)
        _check_measured(self)

    @property
    def edges(self) -> dict[str, dict[str, str]]:
        """Stage -> {dotted key: the stage it refers to}."""
        return {name: stage.reads for name, stage in self.stages.items()}

    def seeds_of(self, stage: str) -> tuple[int | None, ...]:
        """The seeds that a stage is run with; (None,) where it is run once."""
        if self.seeds is None or self.stages[stage].fixed:
            return (None,)
        return self.seeds

    def tree(self) -> dict[str, Any]:
        """The file but for its claims, every default written out, as plain data."""
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        rest["stages"] = {name: stage.tree for name, stage in self.stages.items()}
        del rest["claims"]
        return {
            key: value if key == "stages" else to_tree(value)
            for key, value in rest.items()
        }


def is_pipeline(tree: Mapping[str, Any]) -> bool:
    """Whether a file describes a pipeline: it has stages."""
    return "stages" in tree


def load_pipeline(file: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """A pipeline from its file, every stage checked. Raises ConfigError, one line."""
    CHOICES.update(REGISTRIES)
    tree, written = load_tree(file, overrides), load_tree(file)
    common, stages = tree.pop("common", {}), tree.get("stages")
    if not isinstance(common, dict) or not isinstance(stages, dict):
        raise ConfigError(str(file), "stages", "write a mapping, and common another")
    _refuse_new(tree, {*written, "common"}, "")
    _refuse_new(stages, written.get("stages") or {}, "stages.")
    try:
        fields = {"seeds"} & {*tree}
        tree["stages"] = {
            name: _stage(name, node, common, {*stages}, bool(fields))
            for name, node in stages.items()
        }
        return build(Pipeline, tree)
    except ConfigError as error:
        problem = error.where, error.problem
        raise ConfigError(str(file), *problem) from error.__cause__


def _refuse_new(here: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse what only the command line names: a slip would add a part in silence."""
    for key in here:
        if key not in known:
            near = difflib.get_close_matches(key, [*known], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problem = f"unknown {key!r}{hint} (the file has {', '.join(known)})"
            raise ConfigError(COMMAND_LINE, where + key, problem)


def _stage(
    name: str, node: Any, common: dict[str, Any], names: set[str], seeded: bool
) -> Stage:
    where = f"stages.{name}"
    if not isinstance(node, dict):
        raise ConfigError("", where, "expected a mapping with a kind")
    kind = node.get("kind")
    if kind not in KINDS:
        problem = f"{kind!r}; write one of {', '.join(KINDS)}"
        raise ConfigError("", f"{where}.kind", problem)
    if "." in name or "/" in name or name.startswith(("{", "-")):
        raise ConfigError("", where, "a stage names a folder; write letters and _")
    check_unquoted(node, names, where)
    if kind == "train":
        node = merge(common, node)
    tree = {key: value for key, value in node.items() if key != "kind"}
    settings = build(KINDS[kind].settings, tree, where)
    return Stage(kind, settings, not seeded or "seed" in tree or kind == "evaluation")


def _check_kinds(name: str, stage: Stage, stages: Mapping[str, Stage]) -> None:
    """Refuse a reference to rows where a model is read, and the reverse."""
    for key, other in stage.reads.items():
        where, gives = f"stages.{name}.{key}", stages[other].of.gives
        wanted = _wants(key) or gives
        if gives == "nothing" or wanted != gives:
            problem = f"{{{other}}} is {_ARTICLE[gives]}; write {_ARTICLE[wanted]}"
            raise ConfigError("", where, problem)
        if stage.kind == "evaluation":
            problem = f"{{{other}}} is measured as a stage already; leave this one out"
            raise ConfigError("", where, problem)


def _wants(key: str) -> str | None:
    """What a key must refer to: rows, a model, or either (None)."""
    *above, last = key.split(".")
    if last in ("model", "reference"):
        return "model"
    if last != "path":
        return None
    # an adapter, or the model of a learned reward
    return "model" if {"lora", "reward"} & {*above} else "rows"


def _check_results(pipeline: Pipeline) -> None:
    for name in pipeline.results:
        if name not in pipeline.stages:
            known = ", ".join(pipeline.stages)
            raise ValueError(f"results: no stage {name!r} (the stages are {known})")
    for entry in pipeline.comparisons:
        if len(entry) != 3 or not {*entry[:2]} <= {*pipeline.stages}:
            raise ValueError(
                f"comparisons: {list(entry)}; write [stage, other stage, label]"
            )
        for name in entry[:2]:
            if not pipeline.stages[name].measured:
                raise ValueError(
                    f"comparisons: {name} has no model that is measured; write another"
                )


def _check_seeds(pipeline: Pipeline) -> None:
    """A stage that runs once cannot read one that runs for every seed."""
    if pipeline.seeds is None:
        return
    if not pipeline.seeds or len({*pipeline.seeds}) < len(pipeline.seeds):
        raise ValueError(f"seeds: {list(pipeline.seeds)}; write each once")
    if all(stage.fixed for stage in pipeline.stages.values()):
        raise ValueError("seeds: every stage has a seed of its own; leave one out")
    for name, stage in pipeline.stages.items():
        for key, other in stage.reads.items():
            if stage.fixed and not pipeline.stages[other].fixed:
                problem = (
                    f"{{{other}}} runs for every seed, this stage once; leave its "
                    "own seed out"
                )
                raise ConfigError("", f"stages.{name}.{key}", problem)


def _check_measured(pipeline: Pipeline) -> None:
    """Refuse comparisons, rules and stages that nothing measures."""
    rule, evaluation = pipeline.rule, pipeline.evaluation
    if evaluation is None:
        only = [n for n, s in pipeline.stages.items() if s.kind == "evaluation"]
        for what in (*only, *(["rule"] if rule else [])):
            raise ValueError(f"{what}: nothing is measured; write evaluation: tasks")
    elif evaluation.every is not None:
        raise ValueError(
            "evaluation.every: a stage's model is measured once; write it in the "
            "stage's own evaluation"
        )
    if pipeline.comparisons and rule is None:
        raise ValueError("comparisons: need rule: {task, metric}")
    if rule is None or evaluation is None:
        return
    if not pipeline.comparisons and not pipeline.claims:
        raise ValueError("rule: no comparisons use it; write them or leave it out")
    task = evaluation.tasks.get(rule.task)
    if task is None:
        known = ", ".join(evaluation.tasks)
        raise ValueError(f"rule.task: {rule.task!r} is no task; write one of {known}")
    if rule.metric == "sampled" and not task.samples:
        raise ValueError(
            f"rule.metric: sampled, but evaluation.tasks.{rule.task}.samples is 0"
        )
