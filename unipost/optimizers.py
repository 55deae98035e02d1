"""Optimisers as data: numbers may be traced, so a learning-rate sweep compiles once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from unipost.parts import Scalar, concrete, in_range, part, require

Schedule = Literal["constant", "cosine", "linear"]


class Optimizer(ABC):
    """init(params) -> state, and update(grads, state, params, step, steps)."""

    learning_rate: Scalar
    schedule: Schedule
    warmup: int
    clip_norm: Scalar | None

    def rate(self, step, steps) -> jax.Array:
        """The learning rate at 0-based `step` of `steps`.

        Linear warm-up over `warmup` steps, then constant, or to 0 at the end by half a
        cosine or a line.
        """
        step = jnp.asarray(step, jnp.float32)
        left = 1.0 - (step - self.warmup) / jnp.maximum(steps - self.warmup, 1)
        left = jnp.clip(left, 0.0, 1.0)
        decay = {
            "constant": jnp.ones_like(left),
            "cosine": 0.5 - 0.5 * jnp.cos(jnp.pi * left),
            "linear": left,
        }[self.schedule]
        warm = jnp.minimum((step + 1.0) / (self.warmup + 1.0), 1.0)
        return self.learning_rate * jnp.where(step < self.warmup, warm, decay)

    def init(self, params: Any) -> Any:
        """The optimiser's state for `params`."""
        return self._transform(0.0).init(params)

    def update(self, grads: Any, state: Any, params: Any, step, steps):
        """(new params, new state, {"grad_norm", "learning_rate"})."""
        norm = optax.global_norm(grads)
        if self.clip_norm is not None:
            # scale in one place, so that the norm reported is the one before
            scale = jnp.minimum(1.0, self.clip_norm / jnp.maximum(norm, 1e-12))
            grads = jax.tree.map(lambda g: g * scale, grads)
        rate = self.rate(step, steps)
        updates, state = self._transform(rate).update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, {"grad_norm": norm, "learning_rate": rate}

    @abstractmethod
    def _transform(self, rate) -> optax.GradientTransformation:
        """The optax transformation at one learning rate."""

    def _check(self) -> None:
        where = type(self).__name__.lower()
        known = concrete(self.learning_rate)
        ok = known is None or known >= 0
        require(f"{where}.learning_rate", self.learning_rate, ok, "is negative")
        require(f"{where}.warmup", self.warmup, self.warmup >= 0, "is negative")
        what = "is not positive; write clip_norm: null for none"
        if self.clip_norm is not None:
            in_range(f"{where}.clip_norm", self.clip_norm, 0.0, what=what)


@part
class AdamW(Optimizer):
    """AdamW (1711.05101) with gradient clipping by global norm."""

    learning_rate: Scalar
    schedule: Schedule = "constant"
    warmup: int = 0
    b1: Scalar = 0.9
    b2: Scalar = 0.999
    eps: Scalar = 1e-8
    weight_decay: Scalar = 0.0
    clip_norm: Scalar | None = 1.0

    def __post_init__(self):
        self._check()
        for name in ("b1", "b2"):
            value = concrete(getattr(self, name))
            ok = value is None or 0 <= value < 1
            require(f"adamw.{name}", value, ok, "is outside [0, 1)")

    def _transform(self, rate):
        return optax.adamw(
            rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay
        )


@part
class SGD(Optimizer):
    """Plain gradient descent with gradient clipping by global norm."""

    learning_rate: Scalar
    schedule: Schedule = "constant"
    warmup: int = 0
    clip_norm: Scalar | None = None

    def __post_init__(self):
        self._check()

    def _transform(self, rate):
        return optax.sgd(rate)


OPTIMIZERS = {"adamw": AdamW, "sgd": SGD}
