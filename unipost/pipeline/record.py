"""What a finished stage leaves behind, so that it is used again only if it still holds.

`done.json` in a stage's folder holds its settings, with references by name, and what
it was made from: a digest of every file and model it read, and the identity of every
earlier stage. A stage is used again when all of these are the same; anything else is
refused in one line that names the folders to remove.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unipost.config import build, dump_tree, to_tree
from unipost.experiment import Experiment
from unipost.formats import data_hash
from unipost.pipeline.references import readers, substitute
from unipost.pipeline.settings import Pipeline, Stage
from unipost.runs import RunError, first_difference, flat, holds_other, write_atomic

# the keys under which a stage names what it reads from disk
_INPUTS = ("path", "model", "reference")


@dataclass(frozen=True)
class Run:
    """One stage under one seed (None: it runs once), in its folder."""

    pipeline: Pipeline
    root: Path
    name: str
    seed: int | None

    @property
    def stage(self) -> Stage:
        """The stage's settings."""
        return self.pipeline.stages[self.name]

    @property
    def folder(self) -> Path:
        """ROOT/STAGE, or ROOT/STAGE/SEED."""
        place = self.root / self.name
        return place if self.seed is None else place / str(self.seed)

    @property
    def output(self) -> Path:
        """What a reference to it stands for."""
        return self.folder / self.stage.of.output

    @property
    def tree(self) -> dict[str, Any]:
        """Its settings with the seed in place and references by name."""
        tree = self.stage.tree
        return tree if self.seed is None else tree | {"seed": self.seed}

    def read(self, name: str) -> Run:
        """The run of an earlier stage that this one reads."""
        stage = self.pipeline.stages[name]
        seed = None if stage.fixed else self.seed
        return Run(self.pipeline, self.root, name, seed)

    def settings(self) -> Any:
        """Its settings with every reference resolved to a path."""
        tree = substitute(self.tree, lambda name: str(self.read(name).output))
        tree.pop("kind")
        return build(self.stage.of.settings, tree, f"stages.{self.name}")

    def inputs(self) -> dict[str, str]:
        """{what it reads: a digest}: files and models by content, stages by identity.

        A stage's identity is made of its own settings and inputs, so a change anywhere
        before it shows here.
        """
        files = {path: _content(path) for path in outside(self.stage)}
        before = {name: self.read(name) for name in self.stage.reads.values()}
        return files | {f"{{{n}}}": run.identity() for n, run in before.items()}

    def made(self) -> dict[str, str]:
        """{earlier stage it reads: a digest of what is there of it}, if finished.

        Two machines may round differently: the same settings, another model.
        """
        before = {name: self.read(name) for name in self.stage.reads.values()}
        return {f"{{{n}}}": data_hash(r.output) for n, r in before.items() if r.done}

    def identity(self) -> str:
        """A digest of its settings and inputs, without looking at what it made."""
        # what is null or empty is left out, as where settings are compared
        settings = {k: v for k, v in flat(self.tree).items() if v is not None}
        text = json.dumps([settings, self.inputs()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def done(self) -> bool:
        """Whether it is finished and what it made is still there."""
        return (self.folder / "done.json").exists() and self.output.exists()

    def numbers(self) -> dict[str, float]:
        """What the finished stage reported."""
        return json.loads((self.folder / "done.json").read_text())["numbers"]

    @property
    def seconds(self) -> float:
        """What the finished stage took."""
        return json.loads((self.folder / "done.json").read_text())["seconds"]

    def finish(self, numbers: dict[str, float], seconds: float) -> None:
        """Write done.json, the last thing a stage does."""
        values = {
            "settings": self.tree,
            "inputs": self.inputs(),
            "made": self.made(),
            "numbers": numbers,
            "seconds": round(seconds, 1),
        }
        text = json.dumps(values, indent=1) + "\n"
        write_atomic(self.folder / "done.json", text)


def runs_of(pipeline: Pipeline, root: Path) -> Iterator[Run]:
    """Every stage under every seed, in the order of the file, stage by stage."""
    for name in pipeline.stages:
        for seed in pipeline.seeds_of(name):
            yield Run(pipeline, root, name, seed)


def outside(stage: Stage) -> list[str]:
    """The files and models that a stage reads and that no stage makes."""
    found = [path for key, path in _texts(stage.tree) if key in _INPUTS]
    if isinstance(stage.settings, Experiment):
        found += stage.settings.data.paths
    made = {f"{{{name}}}" for name in stage.reads.values()}
    return [path for path in dict.fromkeys(found) if path not in made]


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, dict):
        for name, node in tree.items():
            yield from _texts(node, name)
    elif isinstance(tree, list):
        for node in tree:
            yield from _texts(node, key)


@cache
def _content(path: str) -> str:
    # once in a process: the files of a pipeline do not change while it runs
    return data_hash(path)


def check_stale(pipeline: Pipeline, root: Path) -> None:
    """Raise RunError, one line, for a stage that was made with other settings.

    It names the first setting or input that differs, and what to remove: the stage
    and all that depends on it.
    """
    for run in runs_of(pipeline, root):
        check_run(run)


def check_run(run: Run) -> None:
    """`check_stale` of one stage under one seed."""
    problem = _difference(run)
    if not problem:
        return
    names = [run.name, *readers(run.pipeline.edges, run.name)]
    there = [str(run.root / n) for n in names if (run.root / n).exists()]
    raise RunError(
        f"{run.folder}: was made otherwise ({problem}); remove {' '.join(there)} and "
        "run again, or choose another --out"
    )


def _difference(run: Run) -> str:
    """What a finished or begun stage was made with that is not so now, or ""."""
    path = run.folder / "done.json"
    if not path.exists():
        return _begun(run)
    before = json.loads(path.read_text())
    changed = first_difference(dump_tree(before["settings"]), dump_tree(run.tree))
    if changed:
        return changed
    for what, now in (("inputs", run.inputs()), ("made", run.made())):
        for name, digest in now.items():
            if before[what].get(name) != digest:
                return f"{name} has changed since"
    return ""


def _begun(run: Run) -> str:
    """The same of a stage that was killed, whose own config.yaml tells."""
    if run.stage.kind == "evaluation" or not run.folder.exists():
        return ""
    config, there = dump_tree(to_tree(run.settings())), run.folder / "config.yaml"
    if not holds_other(run.folder, config):
        return ""
    if not there.exists():
        return "it holds something else"
    return first_difference(there.read_text(), config)
