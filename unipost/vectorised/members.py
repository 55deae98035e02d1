"""The runs of a group: the parts of each, what they share, and where each stands."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from unipost.adapters import trained_part, with_trained
from unipost.ahead import Ahead
from unipost.compilation import Compiling
from unipost.experiment import Experiment
from unipost.loading import Model, NewModel
from unipost.locks import held
from unipost.loop import Loop, Records
from unipost.measures import Measure, When
from unipost.runs import JsonLines, RunError, check_own
from unipost.scalar.ends import WithoutEnd
from unipost.scalar.loading import open_model
from unipost.scalar.objective import ScalarObjective
from unipost.sources import Fixed, Mixed, Source, Stream
from unipost.step_lines import check_finite
from unipost.train import (
    Result,
    checkpoints_of,
    finished,
    open_reference,
    open_stream,
    opened,
)

Sampled = Callable[[Source, int], Source]
"""The source of the run at a place of the group, which may sample in another way."""


@dataclass
class Member:
    """A run of a group while it goes on.

    carried  what its steps change, as it is after `done` steps
    late     whether what was due then is not measured yet
    error    why it has stopped, while the others go on
    seconds  its share of the time of the steps
    """

    place: int
    loop: Loop
    carried: Any
    ahead: Ahead
    done: int
    late: bool
    files: list[JsonLines]
    records: Records
    resources: contextlib.ExitStack
    error: RunError | None = None
    seconds: float = 0.0
    first: tuple[float, Compiling] | None = None
    shown: Mapping[str, float] = field(default_factory=dict)
    warned: bool = False

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The line of a step. A loss that is not finite stops the run."""
        self.shown = numbers
        self.files[0].write({"step": step} | dict(numbers))
        try:
            check_finite(self.files[0].path, step, numbers)
        except RunError as error:
            self.error = error

    def timed(self, step: int, line: dict[str, float], compiling: Compiling) -> None:
        """The line of a step's wall time: its share of what the group took."""
        self.seconds += line["seconds"]
        self.first = self.first or (line["seconds"], compiling)
        first = {k: line[k] for k in ("seconds", "compile_seconds", "tokens")}
        self.files[1].write({"step": step} | first | line)

    def warning(self) -> str | None:
        """A line to warn with, once, where the sampler's log-probs are not its own."""
        found = None if self.warned else self.loop.disagreement(dict(self.shown))
        self.warned = self.warned or found is not None
        return found and f"{self.loop.folder}: {found}"

    def close(self) -> None:
        """Wait for its checkpoints and close its files."""
        for file in self.files:
            file.close()
        self.resources.close()

    def result(self) -> Result:
        """The result of a run that has taken its last step, its model written."""
        self.close()
        params = self.loop.whole(self.carried.state)
        return finished(self.loop, params, self.seconds, self.first)


@contextlib.contextmanager
def open_members(
    experiments: Sequence[Experiment],
    folders: Sequence[Path],
    sampled: Sampled,
    also: Sequence[Sequence[tuple[Measure, When]]],
) -> Iterator[tuple[list[Member], dict[int, RunError]]]:
    """The runs of a group, and by its place why one cannot begin: others go on."""
    failures: dict[int, RunError] = {}
    with contextlib.ExitStack() as resources:
        shared, members = _Shared(sampled), []
        for place, (experiment, folder) in enumerate(
            zip(experiments, folders, strict=True)
        ):
            try:
                check_own(folder)
                resources.enter_context(held(folder))
                loop = shared.open(place, experiment, folder)
                loop = dataclasses.replace(loop, also=tuple(also[place]))
                own = resources.enter_context(contextlib.ExitStack())
                members.append(_member(place, loop, own))
            except RunError as error:
                failures[place] = error
        yield members, failures


def _member(place: int, loop: Loop, resources: contextlib.ExitStack) -> Member:
    store = resources.enter_context(checkpoints_of(loop))
    done, carried, ahead, late = loop.start(store)
    resources.enter_context(ahead)
    files = loop.files(None if store is None else done, late)
    records = loop.records(files[2], store)
    parts = place, loop, carried, ahead, done, late, files, records, resources
    return Member(*parts)


class _Shared:
    """What runs that differ in seed and numbers alone have in common, held once."""

    def __init__(self, sampled: Sampled):
        self._sampled = sampled
        self._models: dict[int | None, Model] = {}
        self._streams: dict[int, Stream] = {}
        self._reference: Model | None = None

    def open(self, place: int, experiment: Experiment, folder: Path) -> Loop:
        """The parts of a run."""
        model = self._model(experiment)
        stream = self._stream(place, experiment, model)
        apart = experiment.reference is not None
        if apart and self._reference is None and experiment.reference_cache is None:
            self._reference = open_reference(experiment, model)
        parts = experiment, folder, model
        loop = opened(*parts, stream=stream, reference=self._reference)
        # updates overwrite what they are given, and the model may be another run's too
        return dataclasses.replace(loop, first=jax.tree.map(jnp.array, loop.first))

    def _model(self, experiment: Experiment) -> Model:
        new, adapted = isinstance(experiment.model, NewModel), experiment.lora
        drawn = new or adapted or isinstance(experiment.objective, ScalarObjective)
        key = experiment.seed if drawn else None
        if key in self._models:
            return self._models[key]
        parts = experiment.seed, experiment.lora, experiment.compute
        model = open_model(experiment.objective, experiment.model, *parts)
        if adapted and not new and self._models:
            model = _on_base_of(model, next(iter(self._models.values())))
        self._models[key] = model
        return model

    def _stream(self, place: int, experiment: Experiment, model: Model) -> Stream:
        if experiment.data.varies == "step":
            data = self._sampled(experiment.data, place)
            return open_stream(dataclasses.replace(experiment, data=data), model)
        if experiment.seed not in self._streams:
            again, cached = None, experiment.reference_cache is not None
            if experiment.data.varies == "never" and self._streams and not cached:
                again = reseeded(next(iter(self._streams.values())), experiment.seed)
            stream = open_stream(experiment, model) if again is None else again
            self._streams[experiment.seed] = stream
        return self._streams[experiment.seed]


def reseeded(stream: Stream, seed: int) -> Stream | None:
    """A stream of the same rows in the order of another seed; None: open it anew."""
    if isinstance(stream, Fixed):
        return dataclasses.replace(stream, seed=seed)
    if isinstance(stream, WithoutEnd):
        inner = reseeded(stream.stream, seed)
        return inner and dataclasses.replace(stream, stream=inner)
    if isinstance(stream, Mixed):
        parts = [reseeded(part, seed) for part in stream.streams]
        known = tuple(part for part in parts if part is not None)
        return Mixed(known) if len(known) == len(parts) else None
    return None


def _on_base_of(model: Model, other: Model) -> Model:
    """An adapted model on the base of another that was read from the same folder."""
    frozen, trained = trained_part(other.params)[0], trained_part(model.params)[1]
    return dataclasses.replace(model, params=with_trained(frozen, trained))
