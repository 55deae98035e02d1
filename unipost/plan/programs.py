"""The programs of a step of an experiment, over a mesh of abstract arrays.

They are the ones that training compiles: `update`, the scoring pass of `with_streams`
where the objective reads old or reference log-probs, `advantage` where a batch is cut
into minibatches, and the sampler's `sample` where rows are sampled in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from unipost.annealed import at_step
from unipost.batch import Batch
from unipost.experiment import Experiment
from unipost.mesh import Layout
from unipost.plan.abstract import (
    Sizes,
    Subject,
    batch_of,
    full_rows,
    held_bytes,
    open_reference,
    open_subject,
    rows_of,
    shaped,
    sizes_of,
    state_of,
)
from unipost.plan.values import Valuer, lower_regression, lower_values, open_valuer
from unipost.rollouts import Rollouts
from unipost.sampling import BatchSampler, compiled_sample
from unipost.update import (
    Rows,
    State,
    advantage,
    minibatch,
    update,
    with_packing,
    with_streams,
)


@dataclass(frozen=True)
class Step:
    """One step of an experiment on a mesh, as abstract arrays with their shardings.

    whole    parameters of the policy, those frozen included
    judge    the reference, or None
    valuer   the critic, or None
    batch    what the data give; `scored` with the streams that are data, old and
             reference
    signal   of the whole batch, where it is cut into minibatches
    """

    experiment: Experiment
    layout: Layout
    subject: Subject
    judge: Subject | None
    valuer: Valuer | None
    sizes: Sizes
    state: State
    whole: Any
    rows: Rows
    batch: Batch
    scored: Batch
    signal: Any

    @property
    def cuts(self) -> int:
        """Pieces that a whole batch is scored in."""
        return self.experiment.minibatches * self.experiment.microbatches

    @property
    def resident(self) -> dict[str, int]:
        """Bytes on one chip of what stays there from step to step, by what it is."""
        state = self.state
        frozen = self.layout_of(self.subject.frozen)
        found = {
            "parameters": held_bytes(state.params) + held_bytes(frozen),
            "optimiser": held_bytes(state.optimizer),
        }
        adapted = self.subject.frozen is not None and self.experiment.reference is None
        if self.judge is not None and not adapted:
            found["reference"] = held_bytes(self.judge.params)
        if self.experiment.staleness or self.experiment.sync_every > 1:
            found["sampler"] = held_bytes(state.params)
        if self.valuer is not None:
            found["critic"] = held_bytes((self.valuer.params, self.valuer.state[1]))
        return found

    def layout_of(self, tree: Any) -> Any:
        """`tree` of parameters with their shardings."""
        return _with(tree, self.layout.shardings(tree))


@dataclass(frozen=True)
class Part:
    """A program of a step.

    lower  traces and lowers it
    runs   times that a step runs it
    turns  the most of loops that end when the data say so
    """

    name: str
    lower: Callable[[], Any]
    runs: int = 1
    turns: int = 1


def open_step(experiment: Experiment, layout: Layout) -> Step:
    """The step of `experiment` on `layout`.

    Raises ValueError, as a run would, for what does not divide over the mesh.
    """
    subject = open_subject(experiment)
    judge = open_reference(experiment, subject)
    layout.check(subject.params)
    if judge is not None:
        params = _with(judge.params, layout.shardings(judge.params))
        judge = Subject(judge.config, judge.policy, params)
    valuer = open_valuer(experiment, subject)
    if valuer is not None:
        params, state = valuer.params, valuer.state
        params = _with(params, layout.shardings(params))
        state = _with(state, layout.shardings(state))
        valuer = Valuer(valuer.policy, params, state)
    sizes = sizes_of(experiment.data)
    state = state_of(experiment, subject.trained)
    state = _with(state, layout.shardings(state))
    whole = _with(subject.params, layout.shardings(subject.params))
    rows = _placed(layout, rows_of(sizes))
    packed = _packed(experiment, layout, sizes)
    rows = rows._replace(packed=packed)
    critic = experiment.critic is not None
    batch = _placed(layout, batch_of(experiment.data, sizes, critic))
    step = Step(
        experiment,
        layout,
        subject,
        judge,
        valuer,
        sizes,
        state,
        whole,
        rows,
        batch,
        batch,
        None,
    )
    with jax.set_mesh(layout.mesh):
        return _with_scores(step)


def parts_of(step: Step) -> tuple[Part, ...]:
    """The programs of a step, the update first."""
    experiment = step.experiment
    updates = experiment.inner_epochs * experiment.minibatches
    parts = [Part("update", partial(_lower_update, step), updates)]
    if step.scored is not step.batch:
        parts.append(Part("score", partial(_lower_score, step)))
    if updates > 1:
        parts.append(Part("signal", partial(_lower_signal, step)))
    if step.valuer is not None:
        parts.append(Part("values", partial(_lower_values, step)))
        parts.append(Part("critic", partial(_lower_regression, step), updates))
    data = experiment.data
    if isinstance(data, Rollouts) and isinstance(data.sampler, BatchSampler):
        turns = data.sampling.max_tokens
        lower = partial(_lower_sample, step, data)
        parts.append(Part("sample", lower, turns=turns))
    return tuple(parts)


def left_out(experiment: Experiment) -> tuple[str, ...]:
    """What a run of `experiment` has beside its step that no program stands for."""
    data, found = experiment.data, []
    if experiment.evaluation is not None or experiment.held_out is not None:
        found.append("evaluation and held_out")
    if not isinstance(data, Rollouts):
        if data.varies == "seed":
            found.append("sampling before the first step")
        return tuple(found)
    if not isinstance(data.sampler, BatchSampler):
        found.append(f"the sampler {type(data.sampler).__name__}")
    if data.groups.tries > 1:
        found.append(f"up to {data.groups.tries - 1} more rounds of sampling")
    if data.guidance:
        found.append("what guidance samples")
    learned = [p for p in data.paths if Path(p).is_dir()]
    return (*found, *(f"the reward model {path}" for path in learned))


def _with_scores(step: Step) -> Step:
    """`step` with the streams that are data, and the signal of its whole batch."""
    from dataclasses import replace

    scored = jax.eval_shape(partial(_scores, step), *_score_arguments(step))
    names = [n for n in vars(scored) if getattr(scored, n) is not None]
    if any(getattr(step.batch, name) is None for name in names):
        step = replace(step, scored=_placed(step.layout, scored))
    experiment = step.experiment
    if experiment.inner_epochs * experiment.minibatches > 1:
        static = step.cuts, experiment.minibatches
        policy, objective = step.subject.policy, at_step(experiment.objective, 0)
        call = partial(advantage, policy, microbatches=static[0], minibatches=static[1])
        signal = jax.eval_shape(call, objective, step.whole, step.rows, step.scored)
        step = replace(step, signal=_placed(step.layout, signal))
    return step


def _scores(step: Step, rows: Rows, batch: Batch, params: Any, judge: Any) -> Batch:
    experiment = step.experiment
    return with_streams(
        at_step(experiment.objective, 0),
        step.subject.policy,
        rows,
        batch,
        params,
        judge,
        reference_policy=step.judge and step.judge.policy,
        microbatches=step.cuts,
        minibatches=experiment.minibatches,
    )


def _score_arguments(step: Step) -> tuple[Any, ...]:
    return step.rows, step.batch, step.whole, step.judge and step.judge.params


def _lower_score(step: Step):
    return jax.jit(partial(_scores, step)).lower(*_score_arguments(step))


def _lower_signal(step: Step):
    experiment = step.experiment
    objective = at_step(experiment.objective, 0)
    arguments = step.whole, step.rows, step.scored, step.cuts, experiment.minibatches
    return advantage.lower(step.subject.policy, objective, *arguments)


def _lower_update(step: Step):
    experiment, layout = step.experiment, step.layout
    pieces = experiment.minibatches
    part = minibatch_of(layout, (step.rows, step.scored, step.signal), pieces)
    frozen = step.subject.frozen
    return update.lower(
        step.subject.policy,
        at_step(experiment.objective, 0),
        experiment.optimizer,
        step.state,
        *part[:2],
        experiment.microbatches,
        shaped((), jnp.int32, sharding=layout.whole),
        part[2],
        None if frozen is None else step.layout_of(frozen),
        layout,
    )


def _lower_values(step: Step):
    assert step.valuer is not None
    return lower_values(step.valuer, step.rows, step.cuts)


def _lower_regression(step: Step):
    assert step.valuer is not None
    experiment, pieces = step.experiment, step.experiment.minibatches
    rows, batch, _ = minibatch_of(step.layout, (step.rows, step.scored, None), pieces)
    return lower_regression(experiment, step.valuer, rows, batch)


def _lower_sample(step: Step, data: Rollouts):
    """The program of a `BatchSampler`, with one stop token."""
    count, length = data.prompts, data.prompt_length
    prompt = shaped((count, length), jnp.int32)
    mask = shaped((count, length), jnp.bool_)
    prompt, mask = _placed(step.layout, (prompt, mask))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return compiled_sample.lower(
        step.subject.policy,
        step.whole,
        prompt,
        mask,
        key,
        data.sampling,
        group=data.own,
        stop_tokens=(0,),
        pad_token=0,
        ids=shaped((count * data.own,), jnp.int32),
    )


def minibatch_of(layout: Layout, whole: Any, pieces: int) -> Any:
    """A minibatch of abstract arrays, spread over all devices again."""
    if pieces == 1:
        return whole
    (rows, batch, signal) = jax.eval_shape(lambda x: minibatch(x, 0, pieces), whole)
    packed = rows.packed and _with_packed(layout, rows.packed)
    rows = _placed(layout, rows._replace(packed=None))._replace(packed=packed)
    return rows, _placed(layout, batch), _placed(layout, signal)


def _packed(experiment: Experiment, layout: Layout, sizes: Sizes) -> Any:
    """Packed rows when every text is as long as it may be, None without packing."""
    length = experiment.packed_length
    if length is None:
        return None
    cuts = experiment.minibatches * experiment.microbatches
    rows = with_packing(full_rows(sizes), length, cuts, layout.row_shards)
    shapes = jax.eval_shape(lambda: rows.packed)
    return _with_packed(layout, shapes)


def _with_packed(layout: Layout, packed: Any) -> Any:
    """Abstract packed rows where `Layout.place_packed` would put them."""
    return jax.tree.map(lambda x: shaped(x.shape, x.dtype, layout.packed), packed)


def _with(tree: Any, shardings: Any) -> Any:
    """Abstract leaves with shardings."""
    return jax.tree.map(
        lambda x, s: shaped(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _placed(layout: Layout, tree: Any) -> Any:
    """Abstract arrays of a batch where `Layout.place` would put them."""
    return _with(tree, layout.row_shardings(tree))
