"""Which experiments can share one program, and why others cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from unipost.experiment import Experiment
from unipost.rewards import ProcessRewardModel, RewardModel
from unipost.rollouts import Rollouts
from unipost.sampling import BatchSampler
from unipost.sources import Mixture, Source

OWN = frozenset({"seed", "objective", "optimizer"})
"""Fields in which experiments of a group may differ, the last two in numbers alone."""
ALONE = {
    "critic": "a value model is trained beside it",
    "completions": "pages of completions are written as it goes on",
    "packed_length": "rows are packed by their lengths, which differ from run to run",
    "mesh": "it is spread over a mesh of devices",
}
"""Fields that keep an experiment alone when they are not None, and why."""
ONE = {
    "microbatches": "batches in pieces are for models that fill a device",
    "sync_every": "the sampler keeps parameters of its own",
}
"""Numbers that keep an experiment alone when they are not 1, and why."""


def why_not(experiment: Experiment) -> str | None:
    """Why `experiment` cannot be trained together with others: one line, or None."""
    for name, reason in ALONE.items():
        if getattr(experiment, name) is not None:
            return f"{name}: {reason}"
    for name, reason in ONE.items():
        if getattr(experiment, name) != 1:
            return f"{name}: {getattr(experiment, name)}, and {reason}"
    if experiment.staleness:
        return f"staleness: {experiment.staleness}, so sampling runs beside training"
    for name in ("objective", "optimizer"):
        for leaf in jax.tree.leaves(getattr(experiment, name)):
            if not isinstance(leaf, int | float | np.ndarray | np.number | jax.Array):
                return f"{name}: {leaf!r} is no number"
    return next(_sampled_otherwise(experiment.data), None)


def _sampled_otherwise(data: Source) -> Iterator[str]:
    """What of a source that samples as it goes on cannot be sampled together."""
    if isinstance(data, Mixture):
        for part in data.parts:
            yield from _sampled_otherwise(part)
        return
    if data.varies != "step":
        return
    kind = type(data).__name__
    if not isinstance(data, Rollouts):
        yield f"data: {kind} has rows that come from the policy in a way of its own"
        return
    if type(data.sampler) is not BatchSampler:
        name = type(data.sampler).__name__
        yield f"data.sampler: {name} samples one run at a time; write batch"
    rewards = [data.reward, *getattr(data.reward, "rewards", {}).values()]
    if any(isinstance(x, RewardModel | ProcessRewardModel) for x in rewards):
        yield "data.reward: it is a model, of which every run would hold one"


def split(experiments: Sequence[Experiment]) -> list[list[int]]:
    """Positions of `experiments` in groups that can share one program, in order.

    A group agrees in everything but the seed and the numbers of objective and
    optimiser; an experiment that cannot be trained with others is a group by itself.
    """
    groups: list[list[int]] = []
    open_groups: list[list[int]] = []
    for i, experiment in enumerate(experiments):
        alone = why_not(experiment) is not None
        for group in () if alone else open_groups:
            if together(experiments[group[0]], experiment):
                group.append(i)
                break
        else:
            groups.append([i])
            if not alone:
                open_groups.append(groups[-1])
    return groups


def together(one: Experiment, other: Experiment) -> bool:
    """Whether the two differ at most in the seed and in numbers that are traced."""
    return difference(one, other) is None


def difference(one: Experiment, other: Experiment) -> str | None:
    """The name of the first field that the two cannot share a program with, or None."""
    for field in dataclasses.fields(Experiment):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if field.name == "seed":
            continue
        same = _alike(mine, its) if field.name in OWN else mine == its
        if not same:
            return field.name
    return None


def _alike(one: Any, other: Any) -> bool:
    """Whether two trees of parts have one structure and leaves of one shape.

    The structure holds names, integers and choices, which a program is compiled for.
    """
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.shape(a) == np.shape(b) for a, b in pairs)
