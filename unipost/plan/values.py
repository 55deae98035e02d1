"""The critic of a PPO run as shapes, and its two programs: values and its update."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from unipost.adapters import init_adapter, trained_part, with_trained
from unipost.batch import Batch
from unipost.experiment import Experiment
from unipost.hf.names import fused
from unipost.model import Policy, transformer_policy
from unipost.plan.abstract import Subject, float32, read_shape, shaped
from unipost.scalar.critic import ValueRegression, values_of
from unipost.scalar.model import scalar_policy, with_head
from unipost.update import Rows, State, update


@dataclass(frozen=True)
class Valuer:
    """A value model with abstract parameters, and the state of its optimiser."""

    policy: Policy
    params: Any
    state: State

    @property
    def frozen(self) -> Any:
        """What the trained parameters stand on, or None."""
        return trained_part(self.params)[0]


def open_valuer(experiment: Experiment, subject: Subject) -> Valuer | None:
    """The critic of `experiment`, None without one; its head is new where it is."""
    settings = experiment.critic
    if settings is None:
        return None
    config = subject.config if settings.model is None else read_shape(settings.model)
    policy = transformer_policy(config, experiment.compute)
    trunk = {k: v for k, v in float32(config).items() if k != "head"}
    if settings.lora is not None:
        adapt = partial(init_adapter, settings.lora, seed=0, fused=fused(config))
        trunk = jax.eval_shape(adapt, trunk)
    params = jax.eval_shape(partial(with_head, policy, labels=1), trunk)
    trained = trained_part(params)[1]
    inner = jax.eval_shape(settings.optimizer.init, trained)
    state = State(trained, inner, shaped((), jnp.int32))
    return Valuer(scalar_policy(policy), params, state)


def lower_values(valuer: Valuer, rows: Rows, pieces: int) -> Any:
    """The program that scores a whole batch with the critic."""
    params = with_trained(valuer.frozen, valuer.state.params)
    return values_of.lower(valuer.policy, params, rows, pieces)


def lower_regression(
    experiment: Experiment, valuer: Valuer, rows: Rows, batch: Batch
) -> Any:
    """The critic's update on a minibatch, as `OpenCritic.update` calls it."""
    settings = experiment.critic
    assert settings is not None and batch.values is not None
    clip = shaped((), jnp.float32)
    return update.lower(
        valuer.policy,
        ValueRegression(clip),
        settings.optimizer,
        valuer.state,
        rows,
        Batch(mask=batch.mask, values=batch.values),
        experiment.microbatches,
        shaped((), jnp.int32),
        batch.values,
        valuer.frozen,
    )
