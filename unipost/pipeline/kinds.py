"""The kinds of stage: what each is made of, what it leaves, and how it runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unipost.config import dump_tree, to_tree
from unipost.experiment import Experiment
from unipost.loading import load_model
from unipost.model import Compute
from unipost.preemption import check as check_stopped
from unipost.rollouts.labelling import Labelling, label_steps
from unipost.rollouts.rejection import Rejection, rejection_sample
from unipost.runs import open_folder, write_atomic
from unipost.sources import Setting
from unipost.test_time.settings import BestOf
from unipost.train import train

Gives = Literal["model", "rows", "nothing"]
Numbers = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """A model that is there already, measured beside those that the stages make."""

    model: str


@dataclass(frozen=True, kw_only=True)
class RejectionStage(Rejection):
    """Rejection sampling from a model: its settings and the model's folder."""

    model: str
    seed: int = 0
    compute: Compute = Compute()


@dataclass(frozen=True, kw_only=True)
class LabellingStage(Labelling):
    """Solutions of a model with labels on their steps, for reward models."""

    model: str
    seed: int = 0
    compute: Compute = Compute()


@dataclass(frozen=True, kw_only=True)
class BestOfStage(BestOf):
    """Many responses of a model to a question, and the accuracy of choosing one."""

    model: str


class Kind(NamedTuple):
    """One kind of stage.

    settings  the dataclass that its keys describe
    gives     what `{stage}` stands for elsewhere: a model folder or a file of rows
    output    its place in the stage's folder
    run       (settings, folder, title) -> what it did in numbers, for the summary
    """

    settings: type
    gives: Gives
    output: str
    run: Callable[[Any, Path, str], Numbers]


def _train(settings: Experiment, folder: Path, title: str) -> Numbers:
    train(settings, folder, title=title)
    check_stopped()
    return {"steps": float(settings.steps)}


def _reject(settings: RejectionStage, folder: Path, title: str) -> Numbers:
    print(f"{title}: {settings.samples} samples of every prompt in {settings.path}")
    found = rejection_sample(_opened(settings, folder), settings)
    _write_rows(found.rows, folder)
    return dict(found.numbers)


def _label(settings: LabellingStage, folder: Path, title: str) -> Numbers:
    print(f"{title}: {settings.samples} samples of every prompt in {settings.path}")
    found = label_steps(_opened(settings, folder), settings)
    _write_rows(found.rows, folder)
    return dict(found.numbers)


def _opened(settings: RejectionStage | LabellingStage, folder: Path) -> Setting:
    """What samples are drawn with; its settings are in the stage's folder."""
    open_folder(folder, dump_tree(to_tree(settings)))
    model = load_model(settings.model, settings.seed, compute=settings.compute)
    return Setting(model.policy, model.params, model.tokenizer, settings.seed)


def _write_rows(rows: list[dict[str, Any]], folder: Path) -> None:
    """rows.jsonl: whole or not at all, so a killed stage leaves no part of it."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(folder / "rows.jsonl", "".join(lines))


def _best_of(settings: BestOfStage, folder: Path, title: str) -> Numbers:
    from unipost.test_time.command import best_of

    print(f"{title}: best of {settings.samples}")
    own = {f.name: getattr(settings, f.name) for f in dataclasses.fields(BestOf)}
    best_of(settings.model, BestOf(**own), folder)
    return {"samples": float(settings.samples)}


def _measure(settings: Measure, folder: Path, title: str) -> Numbers:
    # its numbers are those of the pipeline's evaluation, which every model gets
    folder.mkdir(parents=True, exist_ok=True)
    return {}


KINDS: dict[str, Kind] = {
    "train": Kind(Experiment, "model", "final", _train),
    "rejection": Kind(RejectionStage, "rows", "rows.jsonl", _reject),
    "labelling": Kind(LabellingStage, "rows", "rows.jsonl", _label),
    "best_of": Kind(BestOfStage, "nothing", "", _best_of),
    "evaluation": Kind(Measure, "nothing", "", _measure),
}
