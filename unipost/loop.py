"""The training loop: draw a batch, take its optimiser steps, write what happened."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from unipost.adapters import trained_part, with_trained
from unipost.agreement import check_agreement
from unipost.ahead import Ahead, Plan
from unipost.annealed import at_step
from unipost.checkpoint import Store
from unipost.compilation import CompileClock
from unipost.completions import write_step
from unipost.diagnostics import combine
from unipost.display import Display
from unipost.evaluation import Evaluation, Evaluator
from unipost.experiment import Experiment
from unipost.held_out import HeldOut
from unipost.loading import Model, setting_of
from unipost.objectives import Trainable
from unipost.placement import beside
from unipost.profiling import Phases, Trace, on_device, phase
from unipost.profiling.trace import traced_steps
from unipost.runs import JsonLines
from unipost.scalar.critic import OpenCritic, targets
from unipost.sources import Experience, Stream
from unipost.step_lines import StepLines
from unipost.update import (
    State,
    advantage,
    minibatch,
    update,
    with_packing,
    with_streams,
)

Measure = Callable[[Any], dict[str, float]]
"""Numbers of the parameters of a policy."""


class Carried(NamedTuple):
    """What a step changes: the policy's state, and the critic's where there is one."""

    state: State
    critic: Any = None


@dataclass(frozen=True)
class Loop:
    """The parts of a run while it goes on."""

    experiment: Experiment
    folder: Path
    model: Model
    reference: Model | None
    stream: Stream
    first: Any
    critic: OpenCritic | None = None
    trace: Trace | None = None

    def run(self, store: Store | None, title: str):
        """All steps that are left: (parameters after the last, time of the first)."""
        steps = self.experiment.steps
        done, carried, ahead = self._start(store)
        kept = done if store is not None else None
        names = ("metrics", "timing", "evaluation")
        files = [JsonLines(self.folder / f"{name}.jsonl", kept) for name in names]
        measures, evaluations = self._measures(), files[2]
        clock, phases = CompileClock(), Phases()
        with clock, phases, Display(title, steps, done) as display, ahead:
            numbers, warning = StepLines(files[0], files[1], clock, phases), None
            traces = self.folder / "trace"
            for step in traced_steps(self.trace, traces, phases, done, steps):
                started, now = time.perf_counter(), step + 1
                carried, values, tokens = self._step(carried, step, ahead)
                numbers.put(now, values, tokens)
                due = [measure for measure, when in measures if when.due(now, steps)]
                if now == steps or self._saves(now) or due:
                    numbers.flush()
                if due:
                    params = self._whole(carried.state)
                    with phase("evaluate"):
                        found = {k: v for x in due for k, v in x(params).items()}
                    evaluations.write({"step": now} | found)
                # after the lines of this step: a kill in between repeats it whole
                if store is not None and self._saves(now):
                    with phase("save"):
                        store.save(now, saved(carried, ahead), ahead.keep())
                told = numbers.timed(now, time.perf_counter() - started)
                display.update(now, numbers.shown, told)
                if warning is None:
                    warning = self._disagreement(numbers.shown)
                    display.say(warning)
        for file in files:
            file.close()
        if self.critic is not None:
            self.critic.save(self.folder / "critic", carried.critic)
        return self._whole(carried.state), numbers.first

    def _disagreement(self, shown: dict[str, float]) -> str | None:
        """A line to warn with where the sampler's log-probs are not the trainer's."""
        sampling = getattr(self.experiment.data, "sampling", None)
        age, dtype = shown.get("staleness", 0.0), self.experiment.compute.dtype
        return check_agreement(shown, sampling, age, dtype)

    def _whole(self, state: State) -> Any:
        """The parameters of the policy: those trained on top of those frozen."""
        return with_trained(self._frozen, state.params)

    @property
    def _frozen(self) -> Any:
        return trained_part(self.model.params)[0]

    def _start(self, store: Store | None) -> tuple[int, Carried, Ahead]:
        experiment = self.experiment
        inner = experiment.optimizer.init(self.first)
        counter = beside(jnp.zeros((), jnp.int32), self.first)
        critic = None if self.critic is None else self.critic.init()
        carried = Carried(State(self.first, inner, counter), critic)
        plan = Plan(experiment.staleness, experiment.sync_every)
        done, kept, held = 0, None, None
        if store is not None and store.latest is not None:
            like = {"state": carried.state}
            if plan.holds:
                like["held"] = carried.state.params
            if critic is not None:
                like["critic"] = critic
            done, found, kept = store.restore(like)
            carried = Carried(found["state"], found.get("critic"))
            held = found.get("held")

        def whole(params):
            return with_trained(self._frozen, params)

        return done, carried, Ahead(self.stream, plan, whole, done, kept, held)

    def _measures(self) -> list[tuple[Measure, Evaluation | HeldOut]]:
        """What is measured of the parameters as the run goes on, and when."""
        experiment, model = self.experiment, self.model
        objective, seed = experiment.objective, experiment.seed
        found: list[tuple[Measure, Evaluation | HeldOut]] = []
        tasks, held = experiment.evaluation, experiment.held_out
        if tasks is not None:
            parts = model.policy, model.tokenizer, model.params, seed
            evaluator = Evaluator(tasks, *parts)
            found.append((lambda p: evaluator(p, objective).numbers(), tasks))
        if held is not None:
            measure = held.open(objective, model.policy, setting_of(model, seed))
            found.append((measure, held))
        return found

    def _saves(self, step: int) -> bool:
        checkpoints, last = self.experiment.checkpoints, self.experiment.steps
        if checkpoints is None:
            return False
        return step % checkpoints.every == 0 or step == last

    def _prepared(self, objective: Trainable, carried: Carried, drawn: Experience):
        """(rows, batch, signal, returns) of a step before its updates, and numbers.

        The signal is None where the one update takes it itself, the returns are without
        a critic.
        """
        experiment, policy = self.experiment, self.model.policy
        pieces = experiment.minibatches
        params, cuts = self._whole(carried.state), pieces * experiment.microbatches
        judge = self.reference
        rows, batch = drawn.rows, drawn.batch
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
        signal = returns = None
        numbers = {}
        if self.critic is not None:
            values = self.critic.values(carried.critic, rows, cuts)
            batch = dataclasses.replace(batch, values=values)
            returns, numbers = targets(objective, batch)
        if pieces * experiment.inner_epochs > 1:
            signal = advantage(policy, objective, params, rows, batch, cuts, pieces)
        return (rows, batch, signal, returns), numbers

    def _step(self, carried: Carried, step: int, ahead: Ahead):
        """Draw a batch and take its optimiser steps: (carried, metrics, tokens)."""
        experiment, state, critic = self.experiment, carried.state, carried.critic
        objective, pieces = at_step(experiment.objective, step), experiment.minibatches
        with phase("data"):
            drawn = ahead.take(step, state.params, experiment.steps - 1)
        if experiment.data.varies == "step":
            age = {"staleness": float(ahead.age(step))}
            drawn = drawn._replace(metrics=drawn.metrics | age)
        with on_device("score") as gives:
            whole, numbers = self._prepared(objective, carried, drawn)
            gives(whole[1:])
        self._show(objective, state, step, drawn, whole)
        updates = experiment.inner_epochs * pieces
        total = jnp.asarray(experiment.steps * updates)
        parts = []
        for i in range(updates):
            part = minibatch(whole, i % pieces, pieces)
            state, metrics = update(
                self.model.policy,
                objective,
                experiment.optimizer,
                state,
                *part[:2],
                experiment.microbatches,
                total,
                part[2],
                self._frozen,
            )
            if self.critic is not None:
                rows, batch, _, returns = part
                some = rows, batch, returns, experiment.microbatches
                critic, others = self.critic.update(critic, *some, total)
                metrics |= others
            parts.append(metrics)
        mean = combine(parts)
        # counted on the device, which the host must not wait for here
        tokens = whole[0].response_mask.sum() * experiment.inner_epochs
        # of groups that were drawn and left out, the source knows more
        return Carried(state, critic), numbers | mean | drawn.metrics, tokens

    def _show(
        self, objective: Any, state: State, step: int, drawn: Experience, whole: Any
    ) -> None:
        """Write the page of a step's completions where one is due."""
        experiment = self.experiment
        pages, source = experiment.completions, experiment.data
        if pages is None or not pages.due(step + 1, experiment.steps):
            return
        write_step(
            pages,
            self.folder / "completions",
            step + 1,
            objective,
            self.model.policy,
            self._whole(state),
            self.model.tokenizer,
            *whole[:3],
            components=drawn.components,
            stop=getattr(source, "stop", ()),
            staleness=drawn.metrics.get("staleness"),
            microbatches=experiment.microbatches,
        )


def saved(carried: Carried, ahead: Ahead) -> dict[str, Any]:
    """The arrays of a checkpoint: what is carried, and the sampler's parameters."""
    items = {"state": carried.state, "held": ahead.held, "critic": carried.critic}
    return {name: tree for name, tree in items.items() if tree is not None}
