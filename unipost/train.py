"""The training loop: an experiment in, a run directory out."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from unipost.adapters import LoRA, trained_part, with_trained
from unipost.checkpoint import Checkpoints, Store
from unipost.choices import REGISTRIES
from unipost.compilation import CompileClock, Compiling
from unipost.config import CHOICES, dump_tree, to_tree
from unipost.data import data_hash
from unipost.data_needs import check_data
from unipost.display import Display
from unipost.evaluation import Evaluation, Evaluator
from unipost.loading import Model as Model
from unipost.loading import NewModel as NewModel
from unipost.loading import adapter_base, load_reference
from unipost.loading import load_model as load_model
from unipost.model import Compute
from unipost.objectives import AnyObjective
from unipost.optimizers import Optimizer
from unipost.packing_checks import check_budget, check_packing
from unipost.placement import beside
from unipost.reference_cache import check_cache, with_reference
from unipost.runs import JsonLines, RunError, environment, open_folder, write_atomic
from unipost.sources import Setting, Source, Stream
from unipost.step_lines import StepLines
from unipost.update import (
    REFERENCE,
    State,
    advantage,
    minibatch,
    update,
    with_packing,
    with_streams,
)
from unipost.vocabulary import Distillation


@dataclass(frozen=True)
class Experiment:
    """One training run: what is trained, on what, towards what, for how long.

    model         folder in the Hugging Face layout, or `new` parts (NewModel)
    data          where the rows come from
    objective     a preset, a preset with swapped parts, or any objective
    steps         logical batches drawn; one optimiser step each, or
                  inner_epochs x minibatches
    inner_epochs  passes over every batch before the next is drawn (`old` stays)
    minibatches   optimiser steps per pass, each on its share of the prompts
    microbatches  pieces a step's batch is computed in; changes no number
    reference     folder of the frozen reference, the teacher of a distillation; None:
                  the model as it starts, without its adapter
    reference_cache  folder that keeps the reference's log-probs of fixed rows, computed
                  once and shared by runs; None: computed at every step
    packed_length  tokens of a row that several texts share, so that padding costs
                  nothing; None: a row per text
    lora          low-rank adapter that is trained in place of the model
    compute       dtype of products, what is recomputed, which attention
    """

    model: str | NewModel
    data: Source
    objective: AnyObjective
    optimizer: Optimizer
    steps: int
    seed: int = 0
    inner_epochs: int = 1
    minibatches: int = 1
    microbatches: int = 1
    evaluation: Evaluation | None = None
    checkpoints: Checkpoints | None = None
    reference: str | None = None
    reference_cache: str | None = None
    packed_length: int | None = None
    lora: LoRA | None = None
    compute: Compute = Compute()

    def __post_init__(self):
        for name in ("steps", "inner_epochs", "minibatches", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; write 1 or more")
        pieces, length = self.minibatches * self.microbatches, self.packed_length
        if length is not None and length < 1:
            raise ValueError(f"packed_length: {length}; write 1 or more, or null")
        check_budget(length, self.data)
        prompts = self.data.prompts
        if prompts % pieces:
            raise ValueError(
                f"data.prompts: {prompts} do not divide into {self.minibatches} "
                f"minibatches x {self.microbatches} microbatches"
            )
        check_data(self.objective, self.data, self.minibatches)
        _check_reference(self.objective, self.reference, self.model)
        check_cache(self.objective, self.data, self.reference_cache)


def _check_reference(
    objective: AnyObjective, reference: str | None, model: str | NewModel
) -> None:
    """Refuse a reference that nothing reads, and a model that is its own teacher."""
    if reference is not None and not objective.needs & REFERENCE:
        raise ValueError(
            f"reference: {reference}, but the objective reads none; leave it out"
        )
    if reference in (None, model) and isinstance(objective, Distillation):
        raise ValueError(
            f"reference: {reference or 'missing'}, so the model would be its own "
            "teacher and learn nothing; write the folder of a teacher"
        )


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
) -> Result:
    """Run `experiment` in `folder`, from its newest checkpoint if it has one.

    `model` is the experiment's model where it is loaded already. A run killed at any
    moment and started again gives the same metrics.jsonl, byte for byte, from the last
    checkpoint on. Raises RunError when the folder holds another run, or the loss is
    not finite (the checkpoints before stay whole).
    """
    given = model
    model = given or load_model(
        experiment.model, experiment.seed, experiment.lora, experiment.compute
    )
    open_folder(folder, dump_tree(to_tree(experiment)))
    _record(experiment, folder)
    setting = Setting(model.policy, model.params, model.tokenizer, experiment.seed)
    stream, reference = experiment.data.open(setting), None
    if experiment.reference_cache is None:
        whole = "reference_vocab" in experiment.objective.needs
        compute = experiment.compute
        reference = load_reference(experiment.reference, model, whole, compute)
    else:
        # the parameters of a given model may be others than those in its folder
        place = model.folder if given is None else None
        stream = with_reference(experiment, model, place, stream)
    if experiment.packed_length is not None:
        check_packing(experiment.packed_length, experiment.data, model.config, stream)
    first = _first(experiment, model, given)
    loop = _Loop(experiment, folder, model, reference, stream, first)
    started = time.perf_counter()
    if experiment.checkpoints is None:
        params, timed = loop.run(None, title)
    else:
        with experiment.checkpoints.open(folder / "checkpoints") as store:
            params, timed = loop.run(store, title)
    seconds = time.perf_counter() - started
    model.save(folder, params)
    trained = dataclasses.replace(model, params=params)
    return Result(trained, params, seconds, timed)


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
    for name in ("model", "reference"):
        place = getattr(experiment, name)
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


@dataclass(frozen=True)
class _Loop:
    """The parts of a run while it goes on."""

    experiment: Experiment
    folder: Path
    model: Model
    reference: Model | None
    stream: Stream
    first: Any

    def run(self, store: Store | None, title: str):
        """All steps that are left: (parameters after the last, time of the first)."""
        steps = self.experiment.steps
        done, state = self._start(store)
        kept = done if store is not None else None
        names = ("metrics", "timing", "evaluation")
        files = [JsonLines(self.folder / f"{name}.jsonl", kept) for name in names]
        evaluator, evaluations = self._evaluator(), files[2]
        with CompileClock() as clock, Display(title, steps, done) as display:
            numbers = StepLines(files[0], files[1], clock)
            for step in range(done, steps):
                started, now = time.perf_counter(), step + 1
                state, values, tokens = self._step(state, step)
                numbers.put(now, values, tokens)
                if now == steps or self._saves(now) or self._evaluates(now):
                    numbers.flush()
                if evaluator is not None and self._evaluates(now):
                    report = evaluator(self._whole(state), self.experiment.objective)
                    evaluations.write({"step": now} | report.numbers())
                # after the lines of this step: a kill in between repeats it whole
                if store is not None and self._saves(now):
                    store.save(now, state)
                told = numbers.timed(now, time.perf_counter() - started)
                display.update(now, numbers.shown, told)
        for file in files:
            file.close()
        return self._whole(state), numbers.first

    def _whole(self, state: State) -> Any:
        """The parameters of the policy: those trained on top of those frozen."""
        return with_trained(self._frozen, state.params)

    @property
    def _frozen(self) -> Any:
        return trained_part(self.model.params)[0]

    def _start(self, store: Store | None) -> tuple[int, State]:
        inner = self.experiment.optimizer.init(self.first)
        counter = beside(jnp.zeros((), jnp.int32), self.first)
        state = State(self.first, inner, counter)
        if store is None or store.latest is None:
            return 0, state
        return store.restore(state)

    def _evaluator(self) -> Evaluator | None:
        experiment, model = self.experiment, self.model
        if experiment.evaluation is None:
            return None
        return Evaluator(
            experiment.evaluation,
            model.policy,
            model.tokenizer,
            model.params,
            experiment.seed,
        )

    def _saves(self, step: int) -> bool:
        checkpoints, last = self.experiment.checkpoints, self.experiment.steps
        if checkpoints is None:
            return False
        return step % checkpoints.every == 0 or step == last

    def _evaluates(self, step: int) -> bool:
        evaluation, last = self.experiment.evaluation, self.experiment.steps
        if evaluation is None:
            return False
        every = evaluation.every
        return step == last or (every is not None and step % every == 0)

    def _draw(self, state: State, step: int):
        """((rows, batch, signal), numbers to report) of a step, before its updates."""
        experiment, policy = self.experiment, self.model.policy
        objective, pieces = experiment.objective, experiment.minibatches
        params, cuts = self._whole(state), pieces * experiment.microbatches
        judge = self.reference
        rows, batch, reported = self.stream.batch(step, params)
        if experiment.packed_length is not None:
            rows = with_packing(rows, experiment.packed_length, cuts)
        batch = with_streams(
            objective,
            policy,
            rows,
            batch,
            params,
            judge and judge.params,
            reference_policy=judge and judge.policy,
            microbatches=cuts,
            minibatches=pieces,
        )
        if pieces * experiment.inner_epochs == 1:  # the update takes the signal itself
            return (rows, batch, None), reported
        signal = advantage(policy, objective, params, rows, batch, cuts, pieces)
        return (rows, batch, signal), reported

    def _step(self, state: State, step: int):
        """Draw a batch and take its optimiser steps: (state, metrics, tokens)."""
        experiment = self.experiment
        pieces = experiment.minibatches
        whole, reported = self._draw(state, step)
        updates = experiment.inner_epochs * pieces
        total = jnp.asarray(experiment.steps * updates)
        parts = []
        for i in range(updates):
            part = minibatch(whole, i % pieces, pieces)
            state, metrics = update(
                self.model.policy,
                experiment.objective,
                experiment.optimizer,
                state,
                *part[:2],
                experiment.microbatches,
                total,
                part[2],
                self._frozen,
            )
            parts.append(metrics)
        mean = parts[0]
        if updates > 1:
            mean = jax.tree.map(lambda *x: sum(x) / updates, *parts)
        # counted on the device, which the host must not wait for here
        tokens = whole[0].response_mask.sum() * experiment.inner_epochs
        return state, reported | mean, tokens


# What the names in an experiment file mean.
CHOICES.update(REGISTRIES)
