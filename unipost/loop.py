"""The training loop: draw a batch, take its optimiser steps, write what happened."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unipost.adapters import trained_part, with_trained
from unipost.agreement import check_agreement
from unipost.ahead import Ahead, Plan
from unipost.annealed import at_step
from unipost.batch import Batch
from unipost.checkpoint import Store
from unipost.compilation import CompileClock
from unipost.completions import write_step
from unipost.diagnostics import combine
from unipost.display import Display
from unipost.experiment import Experiment
from unipost.loading import Model
from unipost.measures import (
    Measure,
    When,
    best_number,
    measured,
    open_measures,
    past_numbers,
)
from unipost.objectives import Trainable
from unipost.placement import beside
from unipost.preemption import asked, stop
from unipost.processes import in_turn, on_first
from unipost.profiling import Phases, Trace, on_device, phase
from unipost.profiling.trace import traced_steps
from unipost.runs import JsonLines
from unipost.scalar.critic import OpenCritic, targets
from unipost.sources import Experience, Stream
from unipost.step_lines import StepLines
from unipost.update import (
    Rows,
    State,
    advantage,
    minibatch,
    spread_minibatch,
    update,
    with_packing,
    with_streams,
)


class Carried(NamedTuple):
    """What a step changes: the policy's state, and the critic's where there is one."""

    state: State
    critic: Any = None


class Records(NamedTuple):
    """What a run measures, the file for it, and the store of its checkpoints."""

    measures: list[tuple[Measure, When]]
    file: JsonLines
    store: Store | None


@dataclass(frozen=True)
class Loop:
    """The parts of a run while it goes on.

    also  what is measured beside the experiment's evaluation and held-out rows
    """

    experiment: Experiment
    folder: Path
    model: Model
    reference: Model | None
    stream: Stream
    first: Any
    critic: OpenCritic | None = None
    trace: Trace | None = None
    also: tuple[tuple[Measure, When], ...] = ()

    def run(self, store: Store | None, title: str):
        """All steps that are left: (parameters after the last, time of the first)."""
        steps = self.experiment.steps
        done, carried, ahead, late = self.start(store)
        files = self.files(None if store is None else done, late)
        records = self.records(files[2], store)
        clock, phases = CompileClock(), Phases()
        with clock, phases, Display(title, steps, done) as display, ahead:
            numbers, warning = StepLines(files[0], files[1], clock, phases), None
            traces = self.folder / "trace"
            if late:
                self.measure(done, carried, records)
            if store is not None:
                display.say(self.continued(store, done, files))
            for step in traced_steps(self.trace, traces, phases, done, steps):
                started, now = time.perf_counter(), step + 1
                carried, values, tokens = self.step(carried, step, ahead)
                numbers.put(now, values, tokens)
                stops = self.record(now, carried, ahead, numbers.flush, records)
                told = numbers.timed(now, time.perf_counter() - started)
                display.update(now, numbers.shown, told)
                if warning is None:
                    warning = self.disagreement(numbers.shown)
                    display.say(warning)
                if stops:
                    stop_run(now, store)
        for file in files:
            file.close()
        if self.critic is not None:
            self.critic.save(self.folder / "critic", carried.critic)
        return self.whole(carried.state), numbers.first

    def records(self, file: JsonLines, store: Store | None) -> Records:
        """What is measured as it goes on, written to `file`."""
        measures = [*open_measures(self.experiment, self.model), *self.also]
        return Records(measures, file, store)

    def files(self, done: int | None, late: bool) -> list[JsonLines]:
        """metrics, timing and evaluation, with their lines up to step `done`.

        What is measured late may have been written before, and is written again.
        """
        before = None if done is None else done - late
        kept = {"metrics": done, "timing": done, "evaluation": before}
        folder = self.folder
        return [
            JsonLines(folder / f"{name}.jsonl", last) for name, last in kept.items()
        ]

    def continued(self, store: Store, done: int, files: list[JsonLines]) -> str | None:
        """Take up the numbers measured before; a line where steps have been lost."""
        best = store.settings.best
        path = files[2].path
        store.numbers |= on_first(lambda: past_numbers(best, path))
        if done or not files[0].dropped:
            return None
        lost = files[0].dropped
        return f"{store.folder} holds no checkpoint; {lost} steps are taken again"

    def disagreement(self, shown: dict[str, float]) -> str | None:
        """A line to warn with where the sampler's log-probs are not the trainer's."""
        sampling = getattr(self.experiment.data, "sampling", None)
        age, dtype = shown.get("staleness", 0.0), self.experiment.compute.dtype
        return check_agreement(shown, sampling, age, dtype)

    def whole(self, state: State) -> Any:
        """The parameters of the policy: those trained on top of those frozen."""
        return with_trained(self.frozen, state.params)

    @property
    def frozen(self) -> Any:
        return trained_part(self.model.params)[0]

    def start(self, store: Store | None) -> tuple[int, Carried, Ahead, bool]:
        """(steps done, carried, ahead, whether what was due then is not measured)."""
        experiment = self.experiment
        inner, layout = experiment.optimizer.init(self.first), self.model.mesh
        counter = beside(jnp.zeros((), jnp.int32), self.first)
        critic = None if self.critic is None else self.critic.init()
        carried = Carried(State(self.first, inner, counter), critic)
        if layout is not None:
            carried = layout.spread(carried)
        plan = Plan(experiment.staleness, experiment.sync_every)
        done, kept, held, late = 0, None, None, False
        if store is not None and store.latest is not None:
            like = {"state": carried.state}
            if plan.holds:
                like["held"] = carried.state.params
            if critic is not None:
                like["critic"] = critic
            done, found, kept, about = store.restore(like)
            late = bool(about.get("unmeasured"))
            carried = Carried(found["state"], found.get("critic"))
            held = found.get("held")

        def whole(params):
            return with_trained(self.frozen, params)

        ahead = Ahead(self.stream, plan, whole, done, kept, held)
        return done, carried, ahead, late

    def record(
        self,
        now: int,
        carried: Carried,
        ahead: Ahead,
        flush: Callable[[], None],
        records: Records,
    ) -> bool:
        """Measure and save what is due after step `now`; whether SIGTERM ends it here.

        `flush` writes the lines of the steps until now, before anything else.

        A run that is ended is saved first and measured when it goes on: the scheduler
        may give it little time.
        """
        store, due = records.store, self._due(now, records)
        ends = self._ends(now, store)
        if now == self.experiment.steps or self._saves(now) or due or ends:
            flush()
        late = ends and bool(due)
        if due and not late:
            self.measure(now, carried, records)
        ends = ends or self._ends(now, store)
        # after the lines of this step: a kill in between repeats it whole
        if store is not None and (self._saves(now) or ends):
            with phase("save"):
                about = {"unmeasured": late}
                store.save(now, saved(carried, ahead), ahead.keep(), about)
        return ends

    def reads(self, now: int, records: Records) -> bool:
        """Whether `record` has something to do after step `now`."""
        last = now == self.experiment.steps or self._saves(now)
        return last or bool(self._due(now, records)) or self._ends(now, records.store)

    def _ends(self, now: int, store: Store | None) -> bool:
        # without checkpoints the last step is worth writing its model
        return asked(now) and (store is not None or now < self.experiment.steps)

    def _due(self, now: int, records: Records) -> list[Any]:
        steps = self.experiment.steps
        return [measure for measure, when in records.measures if when.due(now, steps)]

    def measure(self, now: int, carried: Carried, records: Records) -> None:
        """Measure what is due after step `now` and write the line."""
        with phase("evaluate"):
            params = self.whole(carried.state)
            found = measured(self._due(now, records), params, now)
        records.file.write({"step": now} | found)
        store = records.store
        number = store and best_number(store.settings.best, found)
        if store is not None and number is not None:
            store.numbers[now] = number

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
        params, cuts = self.whole(carried.state), pieces * experiment.microbatches
        judge = self.reference
        rows, batch = self._placed(drawn, cuts)
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
            returns, numbers = in_turn(targets(objective, batch))
        if pieces * experiment.inner_epochs > 1:
            signal = advantage(policy, objective, params, rows, batch, cuts, pieces)
        return (rows, batch, signal, returns), numbers

    def _placed(self, drawn: Experience, cuts: int) -> tuple[Rows, Batch]:
        """Rows and batch on the devices, the rows packed in `cuts` pieces if asked."""
        rows, batch, layout = drawn.rows, drawn.batch, self.model.mesh
        length, packed = self.experiment.packed_length, None
        if length is not None:
            blocks = 1 if layout is None else layout.row_shards
            packed = with_packing(rows, length, cuts, blocks).packed
        if layout is None:
            return jax.tree.map(jnp.asarray, (rows._replace(packed=packed), batch))
        rows, batch = layout.place((rows, batch))
        return rows._replace(packed=packed and layout.place_packed(packed)), batch

    def step(self, carried: Carried, step: int, ahead: Ahead):
        """Draw a batch and take its optimiser steps: (carried, metrics, tokens)."""
        experiment, state = self.experiment, carried.state
        objective = at_step(experiment.objective, step)
        with phase("data"):
            drawn = ahead.take(step, state.params, experiment.steps - 1)
        if experiment.data.varies == "step":
            age = {"staleness": float(ahead.age(step))}
            drawn = drawn._replace(metrics=drawn.metrics | age)
        with on_device("score") as gives:
            whole, numbers = self._prepared(objective, carried, drawn)
            gives(whole[1:])
        self._show(objective, state, step, drawn, whole)
        with on_device("update") as gives:
            carried, mean = self._updated(objective, carried, whole)
            gives(mean)
        # counted on the device, which the host must not wait for here
        tokens = in_turn(whole[0].response_mask.sum()) * experiment.inner_epochs
        # of groups that were drawn and left out, the source knows more
        return carried, numbers | mean | drawn.metrics, tokens

    def _updated(self, objective: Any, carried: Carried, whole: Any):
        """The optimiser steps on what `_prepared` gave: (carried, metrics)."""
        experiment, (state, critic) = self.experiment, carried
        pieces = experiment.minibatches
        updates = experiment.inner_epochs * pieces
        total = jnp.asarray(experiment.steps * updates)
        parts = []
        for i in range(updates):
            part = self._minibatch(whole, i % pieces, pieces)
            state, metrics = update(
                self.model.policy,
                objective,
                experiment.optimizer,
                state,
                *part[:2],
                experiment.microbatches,
                total,
                part[2],
                self.frozen,
                self.model.mesh,
            )
            in_turn(metrics)
            if self.critic is not None:
                rows, batch, _, returns = part
                some = rows, batch, returns, experiment.microbatches
                critic, others = self.critic.update(critic, *some, total)
                in_turn(others)
                metrics |= others
            parts.append(metrics)
        return Carried(state, critic), combine(parts)

    def _minibatch(self, whole: Any, index: int, count: int) -> Any:
        """A part of P of what `_prepared` gave, its rows over all devices again."""
        if self.model.mesh is None or count == 1:
            return minibatch(whole, index, count)
        return spread_minibatch(self.model.mesh, whole, index, count)

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
            self.whole(state),
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


def stop_run(now: int, store: Store | None) -> None:
    """End a run that SIGTERM has asked to, once what it saved is on disk."""
    if store is None:
        stop(
            f"stopped by SIGTERM after step {now}; nothing is saved, as the run has no "
            "checkpoints: write checkpoints: {every: ...}"
        )
    else:
        store.wait()
        stop(
            f"stopped by SIGTERM after step {now}, saved in {store.folder}; the same "
            "command goes on from there"
        )
