"""A sweep file: a base experiment, the grid laid over it, seeds, and what is left out.

Everything is built before anything runs: a combination that is no experiment is
refused by its name, unless `skip` names it with a reason.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipost.choices import REGISTRIES
from unipost.config import CHOICES, build, dump_tree, to_tree
from unipost.experiment import Experiment
from unipost.sweep.grid import Combination, Values, combinations
from unipost.tree import (
    COMMAND_LINE,
    ConfigError,
    load_tree,
    merge_layers,
    parse_override,
)


@dataclass(frozen=True)
class Skip:
    """Combinations to leave out: those with all values of `when`, for `reason`."""

    when: dict[str, Any]
    reason: str

    def __post_init__(self):
        if not self.when or not self.reason.strip():
            raise ValueError("write when: {key: value, ...} and a reason")

    def fits(self, values: Values) -> bool:
        """Whether a combination has all of `when`."""
        return all(key in values and values[key] == x for key, x in self.when.items())


@dataclass(frozen=True)
class Settings:
    """What a sweep file holds.

    claim    what the sweep tests, stated so that it can fail
    base     an experiment: its file, or its settings; with `extends: FILE` both
    grid     {dotted key: [values]}, or a list of such grids
    seeds    every combination runs with each; without it, with the base's
    skip     combinations to leave out, each with a reason
    metrics  numbers of the training steps whose mean over the run is reported too
    """

    claim: str
    base: dict[str, Any]
    grid: Any = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    skip: tuple[Skip, ...] = ()
    metrics: tuple[str, ...] = ()

    def __post_init__(self):
        if self.seeds is None:
            return
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)}; write different numbers")


@dataclass(frozen=True, eq=False)
class Run:
    """One combination under one seed; `config` is the text of its config.yaml.

    Equal to itself alone: a key in mappings.
    """

    combination: Combination
    seed: int
    experiment: Experiment
    config: str

    @property
    def name(self) -> str:
        """COMBINATION/SEED: its folder below the sweep's."""
        return f"{self.combination.name}/{self.seed}"


@dataclass(frozen=True)
class Sweep:
    """A sweep with all of its experiments made, by combination and then by seed.

    tree     the file as it was read, overrides included
    skipped  combinations left out, with the reason
    """

    file: str
    settings: Settings
    tree: Mapping[str, Any]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    skipped: tuple[tuple[Combination, str], ...] = ()

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Those that are run, in the order of the grid."""
        found = {run.combination.name: run.combination for run in self.runs}
        return tuple(found.values())


def is_sweep(tree: Mapping[str, Any]) -> bool:
    """Whether a file describes a sweep."""
    return "grid" in tree


def load_sweep(file: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """A sweep from its file, every experiment made. Raises ConfigError, one line.

    Overrides change the file: seeds='[0]', base.steps=50, grid.objective.beta='[0.1]'.
    """
    name, tree = str(file), load_tree(file)
    given = [parse_override(o) for o in overrides]
    _check_keys(tree, name)
    _check_keys({key: None for one in given for key in one}, COMMAND_LINE)
    base = _base_over({}, tree.get("base"), Path(file).parent)
    for one in given:
        base = _base_over(base, one.pop("base", {}), Path())
    tree = merge_layers([("", tree), *(("", one) for one in given)]) | {"base": base}
    if not is_sweep(tree):
        raise ConfigError(name, "grid", "missing; write {dotted.key: [values]}")
    settings = build(Settings, tree, file=name)
    CHOICES.update(REGISTRIES)
    try:
        points = combinations(settings.grid)
        skipped, kept = _skipped(settings, points)
    except ValueError as error:
        raise ConfigError(name, "", str(error)) from error
    base = _base_tree(settings.base)
    seeds = settings.seeds or (int(base.get("seed", 0)),)
    runs = [run for point in kept for run in _runs(name, base, point, seeds)]
    _check_different(name, runs)
    return Sweep(name, settings, tree, seeds, tuple(runs), tuple(skipped))


def _check_keys(tree: Mapping[str, Any], file: str) -> None:
    known = {f.name for f in dataclasses.fields(Settings)}
    for key in tree:
        if key not in known:
            hint = f"write base.{key}" if file == COMMAND_LINE else "write it in base"
            problem = f"no key of a sweep ({', '.join(sorted(known))}); {hint}"
            raise ConfigError(file, key, f"{problem} for the experiment's {key}")


def _base_over(old: dict[str, Any], new: Any, folder: Path) -> Any:
    """The base `new` laid over `old`; a file in it is relative to `folder`.

    The name of a file alone replaces all of `old`.
    """
    if isinstance(new, str):
        return {"extends": os.path.normpath(folder / new)}
    if not isinstance(new, dict):
        return new
    if isinstance(new.get("extends"), str):
        new = new | {"extends": os.path.normpath(folder / new["extends"])}
    return merge_layers([("", old), ("", new)])


def _base_tree(base: Mapping[str, Any]) -> dict[str, Any]:
    """The base's own settings, laid over those of the file that it extends."""
    own = {k: v for k, v in base.items() if k != "extends"}
    under = load_tree(base["extends"]) if "extends" in base else {}
    return merge_layers([("", under), ("", own)])


def _skipped(settings: Settings, points: list[Combination]):
    """([(combination, reason) left out], [combinations kept])."""
    out, kept = [], []
    for point in points:
        fit = [x for x in settings.skip if x.fits(point.values)]
        if fit:
            out.append((point, fit[0].reason))
        else:
            kept.append(point)
    for i, skip in enumerate(settings.skip):
        if not any(skip.fits(point.values) for point in points):
            raise ValueError(f"skip.{i}: {skip.when} fits no combination of the grid")
    if not kept:
        raise ValueError("skip: leaves no combination to run")
    return out, kept


def _runs(file: str, base: dict[str, Any], point: Combination, seeds) -> list[Run]:
    """The runs of one combination. Raises ConfigError that names it."""
    layers: list[tuple[str, dict[str, Any]]] = [("", base)]
    for key, node in point.values.items():
        if key.split(".")[0] == "seed":
            raise ConfigError(file, "grid.seed", "write seeds: [...] instead")
        for part in reversed(key.split(".")):
            node = {part: node}
        layers.append(("", node))
    tree, found = merge_layers(layers), []
    for seed in seeds:
        try:
            made = _of_seed(build(Experiment, tree | {"seed": seed}))
        except ConfigError as error:
            problem = f"{error.where}: {error.problem}".removeprefix(": ")
            hint = "; mend it, or put it under skip with the reason"
            raise ConfigError(file, f"combination {point.name}", problem + hint) from (
                error
            )
        found.append(Run(point, seed, made, dump_tree(to_tree(made))))
    return found


def _of_seed(made: Experiment) -> Experiment:
    """Rows that change with the seed have their reference kept by seed."""
    folder = made.reference_cache
    if folder is None or made.data.varies != "seed":
        return made
    place = str(Path(folder) / str(made.seed))
    return dataclasses.replace(made, reference_cache=place)


def _check_different(file: str, runs: list[Run]) -> None:
    """Refuse two combinations that are one experiment: they would count twice."""
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(run.config, run)
        if other is not run:
            names = f"{other.combination.name} and {run.combination.name}"
            raise ConfigError(file, "grid", f"{names} are the same experiment")
