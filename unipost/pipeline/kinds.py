"""The kinds of stage: what each is made of, what it leaves, and how it runs."""

from __future__ import annotations

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
from unipost.rollouts.rejection import Rejection, rejection_sample
from unipost.runs import open_folder, write_atomic
from unipost.sources import Setting
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
    """Write rows.jsonl: whole or not at all, so a killed stage leaves no part of it."""
    open_folder(folder, dump_tree(to_tree(settings)))
    model = load_model(settings.model, settings.seed, compute=settings.compute)
    print(f"{title}: {settings.samples} samples of every prompt in {settings.path}")
    setting = Setting(model.policy, model.params, model.tokenizer, settings.seed)
    found = rejection_sample(setting, settings)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
    write_atomic(folder / "rows.jsonl", "".join(lines))
    return dict(found.numbers)


def _measure(settings: Measure, folder: Path, title: str) -> Numbers:
    # its numbers are those of the pipeline's evaluation, which every model gets
    folder.mkdir(parents=True, exist_ok=True)
    return {}


KINDS: dict[str, Kind] = {
    "train": Kind(Experiment, "model", "final", _train),
    "rejection": Kind(RejectionStage, "rows", "rows.jsonl", _reject),
    "evaluation": Kind(Measure, "nothing", "", _measure),
}
