"""Training: an experiment in, a run directory out."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from unipost.adapters import trained_part
from unipost.checkpoint import Store
from unipost.choices import REGISTRIES
from unipost.compilation import Compiling
from unipost.config import CHOICES, dump_tree, to_tree
from unipost.data import data_hash
from unipost.experiment import Experiment as Experiment
from unipost.experiment import open_mesh
from unipost.loading import Model as Model
from unipost.loading import NewModel as NewModel
from unipost.loading import adapter_base, laid_out, load_reference, setting_of
from unipost.loading import load_model as load_model
from unipost.locks import elsewhere, held
from unipost.loop import Loop
from unipost.measures import Measure, When
from unipost.mesh import Layout, within
from unipost.packing_checks import check_packing
from unipost.preemption import listening, patient
from unipost.processes import on_first
from unipost.profiling import Trace
from unipost.reference_cache import with_reference
from unipost.runs import RunError, check_own, environment, open_folder, write_atomic
from unipost.scalar.critic import open_critic
from unipost.scalar.ends import open_rows
from unipost.scalar.loading import open_model
from unipost.sources import Stream
from unipost.update import REFERENCE


@dataclass(frozen=True)
class Result:
    """What a run leaves in memory: the trained parameters and how long it took.

    first_step  seconds of the first step taken, and what of it was compiling
    """

    model: Model
    params: Any
    seconds: float
    first_step: tuple[float, Compiling] | None = None


def train(
    experiment: Experiment,
    folder: Path,
    *,
    model: Model | None = None,
    title: str = "train",
    trace: Trace | None = None,
    also: Sequence[tuple[Measure, When]] = (),
) -> Result:
    """Run `experiment` in `folder`, from its newest checkpoint if it has one.

    `model` is the experiment's model where it is loaded already, `also` what is
    measured beside its evaluation, in lines of evaluation.jsonl too. A run killed at
    any moment and started again gives the same metrics.jsonl, byte for byte, from the
    last checkpoint on. SIGTERM saves and ends the process (`unipost.preemption`).
    Raises RunError when the folder holds another run or is in use, or the loss is not
    finite (the checkpoints before stay whole).
    """
    layout = open_mesh(experiment)
    with within(layout):
        return _train(experiment, folder, model, layout, title, trace, also)


def _train(
    experiment: Experiment,
    folder: Path,
    given: Model | None,
    layout: Layout | None,
    title: str,
    trace: Trace | None,
    also: Sequence[tuple[Measure, When]],
) -> Result:
    model = _model(experiment, given, layout)
    on_first(lambda: check_own(folder))
    with held(folder):
        loop = opened(experiment, folder, model, given, trace)
        loop = dataclasses.replace(loop, also=tuple(also))
        with listening(), patient():
            return _ran(loop, title)


def opened(
    experiment: Experiment,
    folder: Path,
    model: Model,
    given: Model | None = None,
    trace: Trace | None = None,
    stream: Stream | None = None,
    reference: Model | None = None,
) -> Loop:
    """The parts of a run, its folder made or checked.

    `given` is the model where the caller of `train` had it; `stream` and `reference`
    are those of the experiment where they are open already.
    """
    open_folder(folder, dump_tree(to_tree(experiment)))
    on_first(lambda: _record(experiment, folder))
    if stream is None:
        stream = open_stream(experiment, model, given)
    if reference is None and experiment.reference_cache is None:
        reference = open_reference(experiment, model)
    if experiment.packed_length is not None:
        check_packing(experiment.packed_length, experiment.data, model.config, stream)
    first = _first(experiment, model, given)
    critic = None
    if experiment.critic is not None:
        parts = experiment.seed, experiment.compute
        critic = open_critic(experiment.critic, model, *parts)
    return Loop(experiment, folder, model, reference, stream, first, critic, trace)


def open_reference(experiment: Experiment, model: Model) -> Model:
    """The frozen reference of a run of `model`."""
    whole = "reference_vocab" in experiment.objective.needs
    return load_reference(experiment.reference, model, whole, experiment.compute)


def open_stream(
    experiment: Experiment, model: Model, given: Model | None = None
) -> Stream:
    """The rows of a run of `model`, with what a cache says of them; see `opened`."""
    setting = setting_of(model, experiment.seed)
    stream = open_rows(experiment.objective, experiment.data, setting)
    if experiment.reference_cache is None:
        return stream
    # the parameters of a given model may be others than those in its folder
    place = model.folder if given is None else None
    return with_reference(experiment, model, place, stream)


def _ran(loop: Loop, title: str) -> Result:
    started = time.perf_counter()
    with checkpoints_of(loop) as store:
        params, timed = loop.run(store, title)
    return finished(loop, params, time.perf_counter() - started, timed)


@contextlib.contextmanager
def checkpoints_of(loop: Loop) -> Iterator[Store | None]:
    """The checkpoints of a run while it goes on; None where it has none."""
    settings = loop.experiment.checkpoints
    if settings is None:
        yield None
        return
    place, config = settings.place(loop.folder), dump_tree(to_tree(loop.experiment))
    with elsewhere(settings, place), settings.open(place, config) as store:
        yield store


def finished(
    loop: Loop, params: Any, seconds: float, timed: tuple[float, Compiling] | None
) -> Result:
    """The result of a run that has taken its last step, its model written."""
    loop.model.save(loop.folder, params)
    trained = dataclasses.replace(loop.model, params=params)
    return Result(trained, params, seconds, timed)


def _model(experiment: Experiment, given: Model | None, layout: Layout | None) -> Model:
    """The experiment's model, or that which is given, on its mesh."""
    asked = experiment.seed, experiment.lora, experiment.compute, layout
    model = laid_out(given, layout) if given is not None else None
    model = model or open_model(experiment.objective, experiment.model, *asked)
    if layout is not None:
        layout.check(model.params)
    return model


def _first(experiment: Experiment, model: Model, given: Model | None) -> Any:
    """The parameters that training starts from and overwrites.

    A copy where somebody reads the first ones later, so that no run holds two models
    without need.
    """
    first = trained_part(model.params)[1]
    reads = experiment.objective.needs & REFERENCE
    other = experiment.reference or experiment.reference_cache
    measured = experiment.evaluation and experiment.evaluation.distance
    if given is None and measured is None and (other or not reads):
        return first
    return jax.tree.map(jnp.array, first)


def _record(experiment: Experiment, folder: Path) -> None:
    import json

    hashes = {"data": data_hash(experiment.data.paths)}
    places = {"data": experiment.data.path}
    critic = experiment.critic and experiment.critic.model
    for name, place in (
        ("model", experiment.model),
        ("reference", experiment.reference),
        ("critic", critic),
    ):
        if isinstance(place, str):
            base = adapter_base(place)
            parts = [place] if base is None else [place, base]
            places[name], hashes[name] = place, data_hash(parts)
    path = folder / "environment.json"
    before = json.loads(path.read_text())["hashes"] if path.exists() else hashes
    for name, digest in hashes.items():
        if before.get(name) != digest:
            raise RunError(
                f"{places[name]}: has changed since the run in {folder} began; choose "
                "another --out or put it back"
            )
    values = environment(experiment.seed, hashes)
    write_atomic(path, json.dumps(values, indent=1) + "\n")


# What the names in an experiment file mean.
CHOICES.update(REGISTRIES)
