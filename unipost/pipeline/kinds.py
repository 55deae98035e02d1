"""The kinds of stage: what each is made of, what it leaves, and how it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unipost.experiment import Experiment
from unipost.train import train

Gives = Literal["model", "rows", "nothing"]
Numbers = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """A model that is there already, measured beside those that the stages make."""

    model: str


class Kind(NamedTuple):
    """One kind of stage.

    settings  the dataclass that its keys describe
    gives     what `{stage}` stands for elsewhere: a model folder or a file of rows
    output    its place in the stage's folder
    run       (settings, folder, title) -> numbers of the stage, for the summary
    """

    settings: type
    gives: Gives
    output: str
    run: Callable[[Any, Path, str], Numbers]


def _train(settings: Experiment, folder: Path, title: str) -> Numbers:
    train(settings, folder, title=title)
    path = folder / "evaluation.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    measured = json.loads(lines[-1]) if lines else {}
    measured.pop("step", None)
    return {"steps": float(settings.steps)} | measured


def _measure(settings: Measure, folder: Path, title: str) -> Numbers:
    # its numbers are those of the pipeline's evaluation, which every model gets
    folder.mkdir(parents=True, exist_ok=True)
    return {}


KINDS: dict[str, Kind] = {
    "train": Kind(Experiment, "model", "final", _train),
    "evaluation": Kind(Measure, "nothing", "", _measure),
}
