"""The training loop: an experiment in, a run directory out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.aggregation import AGGREGATIONS, Aggregation
from unipost.checkpoint import Checkpoints, Store
from unipost.config import CHOICES, dump_tree, to_tree
from unipost.data import data_hash
from unipost.display import Display
from unipost.divergence import Divergence
from unipost.divergences import DIVERGENCES
from unipost.evaluation import Evaluation, Evaluator
from unipost.hf import load_pretrained, save_pretrained
from unipost.links import LINKS, Link
from unipost.model import ModelConfig, Policy, init_params, transformer_policy
from unipost.objective import Objective
from unipost.optimizers import OPTIMIZERS, Optimizer
from unipost.pair_links import PAIR_LINKS, PairLink
from unipost.presets import PRESETS
from unipost.rewards import REWARDS, Reward
from unipost.rollouts import SOURCES
from unipost.runs import JsonLines, RunError, environment, open_folder, write_atomic
from unipost.signals import SIGNALS, Advantage, Ones, Preference, Signal
from unipost.sources import Setting, Source, Stream
from unipost.tokenizer import CharTokenizer, Tokenizer, load_tokenizer
from unipost.update import State, advantage, update, with_streams


@dataclass(frozen=True)
class Experiment:
    """One training run: what is trained, on what, towards what, for how long.

    model         folder in the Hugging Face layout, or `new` parts (NewModel)
    data          where the rows come from
    objective     a preset, a preset with swapped parts, or an Objective
    steps         logical batches drawn; one optimiser step each, or
                  inner_epochs x minibatches
    inner_epochs  passes over every batch before the next is drawn (`old` stays)
    minibatches   optimiser steps per pass, each on its share of the prompts
    microbatches  pieces a step's batch is computed in; changes no number
    """

    model: str | NewModel
    data: Source
    objective: Objective
    optimizer: Optimizer
    steps: int
    seed: int = 0
    inner_epochs: int = 1
    minibatches: int = 1
    microbatches: int = 1
    evaluation: Evaluation | None = None
    checkpoints: Checkpoints | None = None

    def __post_init__(self):
        for name in ("steps", "inner_epochs", "minibatches", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; write 1 or more")
        _check_data(self.objective, self.data.gives)
        pieces = self.minibatches * self.microbatches
        prompts = self.data.prompts
        if prompts % pieces:
            raise ValueError(
                f"data.prompts: {prompts} do not divide into {self.minibatches} "
                f"minibatches x {self.microbatches} microbatches"
            )


def _check_data(objective: Objective, gives: str) -> None:
    """Refuse data that the objective would misread or ignore."""
    mixed = objective.off_policy is not None
    if isinstance(objective.signal, Advantage):
        wanted = "rewards+demonstrations" if mixed else "rewards"
    elif isinstance(objective.signal, Preference):
        wanted = "preferences"
    elif isinstance(objective.signal, Ones):
        wanted = "demonstrations"
    else:  # a signal of one's own knows what it reads
        return
    if gives != wanted:
        source = {
            "rewards": "rollouts",
            "rewards+demonstrations": "rollouts with demonstrations: 1",
            "preferences": "preferences or sampled_preferences",
            "demonstrations": "demonstrations",
        }[wanted]
        raise ValueError(
            f"data: gives {gives}, the objective follows {wanted}; write {source}"
        )


@dataclass(frozen=True)
class NewModel:
    """A model from scratch: sizes, and the characters of its tokenizer."""

    characters: str
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    max_position_embeddings: int = 512


@dataclass(frozen=True)
class Model:
    """A policy with its parameters and tokenizer.

    `config` is None for a model of one's own (`unipost.model.function_policy`): such a
    model is trained as any other, and saved as `final.npz`, a leaf by its path.
    """

    config: ModelConfig | None
    policy: Policy
    params: Any
    tokenizer: Any

    def save(self, folder: Path, params: Any) -> None:
        """Write `params` to `folder`/final, in the Hugging Face layout if it can."""
        if self.config is not None:
            save_pretrained(folder / "final", self.config, params, self.tokenizer)
            return
        leaves = jax.tree_util.tree_leaves_with_path(params)
        named: Any = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
        np.savez(folder / "final.npz", **named)


def load_model(model: str | NewModel, seed: int) -> Model:
    """The model of an experiment: read from its folder, or drawn from `seed`."""
    if isinstance(model, str):
        config, params, folder = load_pretrained(model)
        if folder is None:
            raise RunError(f"{model}: holds no tokenizer; save one beside the weights")
        tokenizer: Tokenizer = load_tokenizer(folder)
    else:
        tokenizer = CharTokenizer(model.characters)
        sizes = {k: v for k, v in vars(model).items() if k != "characters"}
        config = ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)
        params = init_params(config, seed)
    return Model(config, transformer_policy(config), params, tokenizer)


@dataclass(frozen=True)
class Result:
    """What a run leaves in memory: the trained parameters and how long it took."""

    model: Model
    params: Any
    seconds: float


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
    model = model or load_model(experiment.model, experiment.seed)
    open_folder(folder, dump_tree(to_tree(experiment)))
    _record(experiment, folder)
    setting = Setting(model.policy, model.params, model.tokenizer, experiment.seed)
    loop = _Loop(experiment, folder, model, experiment.data.open(setting))
    started = time.perf_counter()
    if experiment.checkpoints is None:
        params = loop.run(None, title)
    else:
        with experiment.checkpoints.open(folder / "checkpoints") as store:
            params = loop.run(store, title)
    seconds = time.perf_counter() - started
    model.save(folder, params)
    return Result(model, params, seconds)


def _record(experiment: Experiment, folder: Path) -> None:
    import json

    hashes = {"data": data_hash(experiment.data.paths)}
    if isinstance(experiment.model, str):
        hashes["model"] = data_hash(experiment.model)
    path = folder / "environment.json"
    before = json.loads(path.read_text())["hashes"] if path.exists() else hashes
    for name, digest in hashes.items():
        if before.get(name) != digest:
            place = experiment.data.path if name == "data" else experiment.model
            raise RunError(
                f"{place}: has changed since the run in {folder} began; choose "
                "another --out or put it back"
            )
    values = environment(experiment.seed, hashes)
    write_atomic(path, json.dumps(values, indent=1) + "\n")


class _Numbers:
    """metrics.jsonl, written one step late so that the device never waits for us."""

    def __init__(self, file: JsonLines):
        self._file = file
        self._pending: tuple[int, dict[str, Any]] | None = None
        self.shown: dict[str, float] = {}

    def put(self, step: int, numbers: dict[str, Any]) -> None:
        """Take the numbers of `step`; write those of the step before."""
        self.flush()
        self._pending = step, numbers

    def flush(self) -> None:
        """Write what is pending. Raises RunError when loss or gradient is not finite.

        Before the step is saved: a state after such a gradient is lost.
        """
        if self._pending is None:
            return
        step, numbers = self._pending
        self._pending = None
        self.shown = {k: float(v) for k, v in jax.device_get(numbers).items()}
        self._file.write({"step": step} | self.shown)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(self.shown.get(name, 0.0)):
                raise RunError(
                    f"{self._file.path}: {name} of step {step} is {self.shown[name]}; "
                    "lower the learning rate or look at the step before"
                )


@dataclass(frozen=True)
class _Loop:
    """The parts of a run while it goes on."""

    experiment: Experiment
    folder: Path
    model: Model
    stream: Stream

    def run(self, store: Store | None, title: str) -> Any:
        """All steps that are left; returns the parameters after the last."""
        steps = self.experiment.steps
        done, state = self._start(store)
        kept = done if store is not None else None
        names = ("metrics", "timing", "evaluation")
        files = [JsonLines(self.folder / f"{name}.jsonl", kept) for name in names]
        numbers, (_, timing, evaluations) = _Numbers(files[0]), files
        evaluator = self._evaluator()
        with Display(title, steps, done) as display:
            for step in range(done, steps):
                started, now = time.perf_counter(), step + 1
                state, values, tokens = self._step(state, step)
                numbers.put(now, values)
                if now == steps or self._saves(now) or self._evaluates(now):
                    numbers.flush()
                if evaluator is not None and self._evaluates(now):
                    report = evaluator(state.params, self.experiment.objective)
                    evaluations.write({"step": now} | report.numbers())
                # after the lines of this step: a kill in between repeats it whole
                if store is not None and self._saves(now):
                    store.save(now, state)
                seconds = time.perf_counter() - started
                timing.write({"step": now, "seconds": seconds, "tokens": tokens})
                display.update(now, numbers.shown, tokens)
        for file in files:
            file.close()
        return state.params

    def _start(self, store: Store | None) -> tuple[int, State]:
        # a copy: the step donates its state, the reference must outlive it
        params = jax.tree.map(jnp.array, self.model.params)
        inner = self.experiment.optimizer.init(params)
        state = State(params, inner, jnp.zeros((), jnp.int32))
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

    def _step(self, state: State, step: int):
        """Draw a batch and take its optimiser steps: (state, metrics, tokens)."""
        experiment, policy = self.experiment, self.model.policy
        objective = experiment.objective
        rows, batch, reported = self.stream.batch(step, state.params)
        reference = self.model.params
        batch = with_streams(objective, policy, rows, batch, state.params, reference)
        pieces = experiment.minibatches
        updates = experiment.inner_epochs * pieces
        total = jnp.asarray(experiment.steps * updates)
        count = rows.response.shape[0] // pieces
        whole = rows, batch, advantage(objective, batch) if pieces > 1 else None
        parts = []
        for i in range(updates):
            cut = slice(i % pieces * count, (i % pieces + 1) * count)
            part = whole
            if pieces > 1:
                part = jax.tree.map(lambda x, cut=cut: x[cut], whole)
            state, metrics = update(
                policy,
                objective,
                experiment.optimizer,
                state,
                *part[:2],
                experiment.microbatches,
                total,
                part[2],
            )
            parts.append(metrics)
        mean = jax.tree.map(lambda *x: sum(x) / updates, *parts)
        tokens = int(np.asarray(rows.response_mask).sum()) * experiment.inner_epochs
        return state, reported | mean, tokens


# What the names in an experiment file mean.
CHOICES.update(
    {
        Divergence: DIVERGENCES,
        Link: LINKS,
        PairLink: PAIR_LINKS,
        Signal: SIGNALS,
        Aggregation: AGGREGATIONS,
        Objective: {**PRESETS, "custom": Objective},
        Optimizer: OPTIMIZERS,
        Source: SOURCES,
        Reward: REWARDS,
    }
)
