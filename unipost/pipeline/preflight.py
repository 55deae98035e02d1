"""Checks of all stages before the first runs: files, models, texts that do not fit.

What depends on a model that a stage has yet to make is checked when its stage begins;
its tokenizer is known, being that of the model the line of stages starts from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unipost.data import encode_rows, read_rows
from unipost.evaluation import Evaluation, open_tasks
from unipost.experiment import Experiment
from unipost.formats import DataError
from unipost.loading import NewModel, adapter_base
from unipost.pipeline.record import outside
from unipost.pipeline.references import references
from unipost.pipeline.settings import Pipeline
from unipost.rollouts.labelling import Labelling
from unipost.rollouts.rejection import Rejection
from unipost.rows import Kind
from unipost.runs import RunError
from unipost.sources import (
    Demonstrations,
    LabelledRows,
    Mixture,
    Preferences,
    Source,
)
from unipost.test_time.settings import BestOf
from unipost.tokenizer import Tokenizer, load_tokenizer

_KINDS: dict[type, Kind] = {
    Demonstrations: "demonstrations",
    Preferences: "preferences",
    LabelledRows: "labelled",
}


def check_stages(pipeline: Pipeline) -> None:
    """Raise RunError, one line naming the stage, for what would stop it later."""
    for name, stage in pipeline.stages.items():
        for path in outside(stage):
            if not Path(path).exists():
                raise RunError(f"stages.{name}: {path}: no such file or folder")
    for name, stage in pipeline.stages.items():
        tokenizer = _tokenizer(pipeline, name)
        for where, evaluation in _evaluations(pipeline, name):
            _guarded(where, open_tasks, evaluation, tokenizer)
        if isinstance(stage.settings, Rejection | Labelling | BestOf):
            _guarded(f"stages.{name}", _read, stage.settings, "questions", tokenizer)
        if isinstance(stage.settings, Experiment):
            where = f"stages.{name}.data"
            _guarded(where, _check_source, stage.settings.data, tokenizer)


def _tokenizer(pipeline: Pipeline, name: str) -> Tokenizer:
    """The tokenizer of the model that the line of a stage begins with."""
    stage = pipeline.stages[name]
    before = stage.reads.get("model")
    if before is not None:
        return _tokenizer(pipeline, before)
    model = stage.settings.model
    if isinstance(model, NewModel):
        return model.new_tokenizer()
    return load_tokenizer(Path(adapter_base(model) or model))


def _evaluations(pipeline: Pipeline, name: str) -> Iterator[tuple[str, Evaluation]]:
    settings = pipeline.stages[name].settings
    own = settings.evaluation if isinstance(settings, Experiment) else None
    if own is not None and not references([t.path for t in own.tasks.values()]):
        yield f"stages.{name}.evaluation", own
    if pipeline.evaluation is not None and pipeline.stages[name].measured:
        yield "evaluation", pipeline.evaluation


def _check_source(source: Source, tokenizer: Tokenizer) -> None:
    if isinstance(source, Mixture):
        for part in source.parts:
            _check_source(part, tokenizer)
    elif type(source) in _KINDS:
        _read(source, _KINDS[type(source)], tokenizer)


def _read(source: Any, kind: Kind, tokenizer: Tokenizer) -> None:
    """Read and tokenise a file, unless an earlier stage has yet to write it."""
    if references(source.path):
        return
    bad, on = source.on_bad_row, "last"
    if isinstance(source, Demonstrations):
        on = source.train_on
    asked = source.path, kind, source.columns, bad, tokenizer, on, source.wording
    rows = read_rows(*asked).rows
    response = getattr(source, "response_length", 1)
    encode_rows(tokenizer, rows, source.prompt_length, response, source.too_long)


def _guarded(where: str, check, *arguments: Any) -> None:
    try:
        check(*arguments)
    except DataError as error:
        raise RunError(f"{where}: {error}") from error
