"""The critic of PPO: a value head on a trunk of its own, trained beside the policy.

One step of a run: `values` of the batch before any update, GAE from them, `targets`
once for the logical batch, then `update` with every minibatch of the policy's.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unipost.adapters import Adapted, LoRA, trained_part, with_trained
from unipost.aggregation import TokenMean
from unipost.batch import Batch, check_shapes
from unipost.critic import value_loss
from unipost.levels import given
from unipost.loading import Model
from unipost.model import Compute, Params, Policy
from unipost.objective import Objective
from unipost.objectives import Trainable, terms
from unipost.optimizers import Optimizer
from unipost.parts import Scalar, in_range, part
from unipost.placement import beside
from unipost.scalar.loading import ScalarModel, load_scalar, scalar_of
from unipost.scalar.model import ScalarStreams, scalar_streams
from unipost.scalar.objective import ScalarObjective
from unipost.sources import Source
from unipost.update import Rows, State, in_pieces, update

Array = jax.Array
NAMES: dict[str, str] = {
    "loss": "value_loss",
    "grad_norm": "critic_grad_norm",
    "learning_rate": "critic_learning_rate",
}


@dataclass(frozen=True)
class Critic:
    """The critic of a PPO run; its epochs and minibatches are the policy's.

    optimizer  of its own
    model      folder of a language model, which gets a value head of zeros, or of a
               model with one label (reward model, critic); None: the policy's first
               weights
    clip       bound on |V - V_old| in the loss (`unipost.critic.value_loss`)
    lora       adapter on its trunk, trained with the head in place of the whole
    """

    optimizer: Optimizer
    model: str | None = None
    clip: float = math.inf
    lora: LoRA | None = None

    def __post_init__(self):
        what = "is not positive; write .inf for no bound"
        in_range("critic.clip", self.clip, 0.0, what=what, infinite=True)


def check_critic(
    objective: Trainable, settings: Critic | None, data: Source
) -> frozenset[str]:
    """The fields of `Batch` that a critic fills. ValueError for one that none reads."""
    if settings is None:
        return frozenset()
    if "values" not in objective.needs:
        raise ValueError(
            "critic: the objective reads no values; leave it out, or write ppo"
        )
    if "values" in data.fields:
        raise ValueError("critic: the data give values of their own; leave it out")
    return frozenset({"values"})


class Regression(NamedTuple):
    """A prepared value regression: old values, returns and weights, each [P, G, T]."""

    values: Array
    returns: Array
    weight: Array


@part
class ValueRegression(ScalarObjective):
    """mean_t 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) over the batch.

    R is the signal, NaN where there is no target; V_old are `batch.values`. The mean is
    over the tokens of the logical batch with a target.
    """

    clip: Scalar = math.inf

    @property
    def needs(self):
        return frozenset({"state_values", "values"})

    def prepare(self, batch: Batch, signal: Array | None = None) -> Regression:
        """The regression on the returns `signal` [P, G, T]. ValueError without them."""
        check_shapes(batch)
        if signal is None:
            raise ValueError("value_regression: no returns; give those of `targets`")
        known = (batch.mask > 0) & jnp.isfinite(signal)
        weight = TokenMean().weights(known.astype(jnp.result_type(float)))
        values = jnp.where(known, given(batch, "values"), 0.0)
        return Regression(values, jnp.where(known, signal, 0.0), weight)

    def loss(self, streams: ScalarStreams, prepared: Regression):
        """(loss, {loss, value_clip_fraction}); both add up over slices along P."""
        if streams.values is None:
            raise ValueError("streams.values: missing; the value regression needs them")
        loss, numbers = value_loss(streams.values, *prepared, self.clip)
        share = numbers["clip_fraction"] * prepared.weight.sum()
        return loss, {"loss": loss, "value_clip_fraction": share}


@dataclass(frozen=True)
class OpenCritic:
    """A critic with its parameters: pure functions of its state.

    `model` holds the first parameters; the state's are trained in their place.
    """

    settings: Critic
    model: ScalarModel

    def init(self) -> State:
        """The state before the first step, with arrays of its own."""
        params = jax.tree.map(jnp.array, trained_part(self.model.params)[1])
        inner = self.settings.optimizer.init(params)
        return State(params, inner, beside(jnp.zeros((), jnp.int32), params))

    def params(self, state: State) -> Params:
        """The whole parameters of a state, those frozen included."""
        return with_trained(self._frozen, state.params)

    def values(self, state: State, rows: Rows, microbatches: int = 1) -> Array:
        """V(s_t) [P, G, T] of the rows, 0 outside the responses, in pieces of P."""
        return values_of(self.model.policy, self.params(state), rows, microbatches)

    def update(
        self,
        state: State,
        rows: Rows,
        batch: Batch,
        returns: Array,
        microbatches: int,
        steps: Array,
    ) -> tuple[State, dict[str, Array]]:
        """One optimiser step on a minibatch: (new state, metrics); `state` is donated.

        `batch.values` are the values before the first update, `returns` those of
        `targets` cut as the minibatch is, `steps` the length of the schedule. Metrics:
        value_loss, value_clip_fraction, critic_grad_norm, critic_learning_rate.
        """
        seen = Batch(mask=batch.mask, values=batch.values)
        clip = jnp.asarray(self.settings.clip, jnp.float32)
        state, numbers = update(
            self.model.policy,
            ValueRegression(clip),
            self.settings.optimizer,
            state,
            rows,
            seen,
            microbatches,
            steps,
            returns,
            self._frozen,
        )
        return state, {NAMES[k] if k in NAMES else k: v for k, v in numbers.items()}

    def save(self, folder: Path, state: State) -> None:
        """Write the critic to `folder`, as token classification with one label."""
        self.model.write(folder, self.params(state))

    @property
    def _frozen(self) -> Any:
        return trained_part(self.model.params)[0]


def open_critic(
    settings: Critic, model: Model, seed: int = 0, compute: Compute | None = None
) -> OpenCritic:
    """The critic of a run that trains `model`, whose arrays it leaves alone.

    Raises ValueError for a folder whose head has several labels, RunError for one with
    other tokens than the policy's.
    """
    if settings.model is None:
        if settings.lora is not None and not isinstance(model.params, Adapted):
            # what its adapter stands on stays, while the policy's is overwritten
            own = jax.tree.map(jnp.array, model.params)
            model = dataclasses.replace(model, params=own)
        found = scalar_of(model, 1, None, settings.lora, seed)
    else:
        asked = settings.lora, compute, model.mesh
        found = load_scalar(settings.model, seed, 1, None, *asked)
        found.check_tokens(model, settings.model)
    return OpenCritic(settings, found)


@partial(jax.jit, static_argnums=(0, 3))
def values_of(policy: Policy, params: Params, rows: Rows, microbatches: int) -> Array:
    """V(s_t) [P, G, T] of the rows under the parameters of a critic, 0 elsewhere."""

    def piece(rows: Rows) -> Array:
        values = scalar_streams(("state_values",), policy, params, rows).values
        assert values is not None
        return values

    return in_pieces(piece, rows, microbatches)


@jax.jit
def targets(objective: Trainable, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """The critic's targets of a logical batch: (returns [P, G, T], metrics).

    R_t = A_t + V_t with the A_t of the objective's own GAE before it is whitened: the
    same gamma and lambda, the same rewards less the same penalty. NaN on rows without
    a reward: they are no target. Metrics over the tokens with a target:
    explained_variance 1 - Var(R - V) / Var(R), 0 where R does not vary; value_mean;
    return_mean. Raises ValueError where no term, or more than one, reads values.
    """
    every = terms(objective)
    readers = [x for x in every if isinstance(x, Objective) and "values" in x.needs]
    if len(readers) != 1:
        raise ValueError(
            f"critic: {len(readers)} terms of the objective read values; write one "
            "with the signal gae, such as ppo"
        )
    returns = readers[0].returns(batch)
    known = (batch.mask > 0) & jnp.isfinite(returns)
    mean = TokenMean().weights(known.astype(jnp.result_type(float)))
    values, aims = (jnp.where(known, x, 0.0) for x in (given(batch, "values"), returns))

    def variance(x: Array) -> Array:
        return (mean * (x - (mean * x).sum()) ** 2).sum()

    spread = variance(aims)
    left = variance(aims - values) / jnp.where(spread > 0, spread, 1.0)
    return returns, {
        "explained_variance": jnp.where(spread > 0, 1.0 - left, 0.0),
        "value_mean": (mean * values).sum(),
        "return_mean": (mean * aims).sum(),
    }
