"""What every optimiser shares: schedule, clipping, and arithmetic in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from unipost.annealed import annealed_numbers
from unipost.optimizers.clipping import (
    clip_by_norm,
    clip_by_ratio,
    clip_by_value,
    global_norm,
)
from unipost.optimizers.leaves import (
    Decay,
    check_patterns,
    compiled,
    map_named,
    mask_of,
)
from unipost.optimizers.schedules import Constant, Schedule, schedule_named
from unipost.parts import Scalar, concrete, in_range, part, require
from unipost.placement import beside

Moments = Literal["bfloat16"] | None
"""The dtype of the first moment; None: float32, or that of wider parameters."""


@part
class Optimizer(ABC):
    """init(params) -> state, and update(grads, state, params, step, steps).

    warmup      steps over which the rate rises linearly, before the schedule
    clip_norm   bound on the global norm of the gradient; None: none
    clip_value  bound on every entry of the gradient, applied first; None: none
    clip_ratio  bound on the norm of the gradient over that of the weights, for every
                column of a matrix and every vector, applied second; None: none
    masters     "required": parameters narrower than float32 are refused; "none": they
                are trained as they are, each step rounded to the nearest. In bfloat16
                a change of less than 1/512 of a weight is then lost.
    """

    learning_rate: Scalar
    schedule: Schedule = Constant()
    warmup: int = 0
    _: KW_ONLY
    clip_norm: Scalar | None = 1.0
    clip_value: Scalar | None = None
    clip_ratio: Scalar | None = None
    masters: Literal["required", "none"] = "required"

    def __post_init__(self):
        where = self.label
        for name in annealed_numbers(self):
            raise ValueError(
                f"{where}.{name}: annealed is for numbers of an objective; write "
                "schedule: for the learning rate"
            )
        if isinstance(self.schedule, str):
            object.__setattr__(self, "schedule", schedule_named(self.schedule, where))
        known = concrete(self.learning_rate)
        ok = known is None or known >= 0
        require(f"{where}.learning_rate", self.learning_rate, ok, "is negative")
        require(f"{where}.warmup", self.warmup, self.warmup >= 0, "is negative")
        for name in ("clip_norm", "clip_value", "clip_ratio"):
            value, what = getattr(self, name), f"write {name}: null for none"
            if value is not None:
                in_range(f"{where}.{name}", value, 0.0, what=f"is not positive; {what}")

    @property
    def label(self) -> str:
        """The name that messages call it by."""
        return type(self).__name__.lower()

    def rate(self, step, steps) -> jax.Array:
        """The learning rate at 0-based `step` of `steps`.

        Linear warm-up over `warmup` steps, then as the schedule says.
        """
        step = jnp.asarray(step, jnp.float32)
        factor = self.schedule.factor(step - self.warmup, steps - self.warmup)
        warm = jnp.minimum((step + 1.0) / (self.warmup + 1.0), 1.0)
        return self.learning_rate * jnp.where(step < self.warmup, warm, factor)

    def init(self, params: Any) -> Any:
        """The optimiser's state for `params`.

        Raises ValueError where a leaf is narrower than float32 and masters are
        required, where none is and masters are "none", and where a regex of names
        matches no leaf.
        """
        self._check_leaves(params)
        return beside(self._transform(0.0).init(_wide(params)), params)

    def update(self, grads: Any, state: Any, params: Any, step, steps):
        """(new params, new state, {"grad_norm", "learning_rate"}).

        grad_norm is the global norm before any clipping.
        """
        grads, weights = _wide(grads), _wide(params)
        norm = global_norm(grads)
        if self.clip_value is not None:
            grads = clip_by_value(grads, self.clip_value)
        if self.clip_ratio is not None:
            grads = clip_by_ratio(grads, weights, self.clip_ratio)
        if self.clip_norm is not None:
            earlier = self.clip_value is not None or self.clip_ratio is not None
            now = global_norm(grads) if earlier else norm
            grads = clip_by_norm(grads, now, self.clip_norm)
        rate = self.rate(step, steps)
        updates, state = self._transform(rate).update(grads, state, weights)
        params = optax.apply_updates(params, updates)
        return params, state, {"grad_norm": norm, "learning_rate": rate}

    @abstractmethod
    def _transform(self, rate) -> optax.GradientTransformation:
        """The optax transformation at one learning rate."""

    def _check_leaves(self, params: Any) -> None:
        found = []

        def look(name, x):
            if wide_dtype(x.dtype) != x.dtype:
                found.append(f"{name} is {x.dtype}")

        map_named(look, params)
        where = f"{self.label}.masters"
        if found and self.masters == "required":
            raise ValueError(
                f"{where}: {found[0]}, which loses small updates; load the parameters "
                "in float32, or write masters: none"
            )
        if not found and self.masters == "none":
            raise ValueError(
                f"{where}: 'none', but every parameter is float32 or wider; leave it "
                "out"
            )


@part
class Decayed(Optimizer):
    """An optimiser with decoupled weight decay: w falls by rate * weight_decay * w.

    decay  the leaves that it acts on: all (optax, PyTorch, verl), matrices (no scale of
           a norm and no bias: transformers, TRL), or regexes of names of leaves such as
           `blocks.query.kernel`
    """

    _: KW_ONLY
    weight_decay: Scalar = 0.0
    decay: Decay = "all"

    def __post_init__(self):
        super().__post_init__()
        where, known = self.label, concrete(self.weight_decay)
        ok = known is None or known >= 0
        require(f"{where}.weight_decay", self.weight_decay, ok, "is negative")
        if isinstance(self.decay, list):
            object.__setattr__(self, "decay", tuple(self.decay))
        if isinstance(self.decay, tuple):
            compiled(f"{where}.decay", self.decay)
        if self.decay != "all" and known == 0:
            raise ValueError(
                f"{where}.decay: {self.decay!r} has no effect with weight_decay 0; "
                "write weight_decay, or leave decay out"
            )

    @property
    def mask(self):
        """The mask that optax takes for weight decay; None for all leaves."""
        return mask_of(self.decay)

    def _check_leaves(self, params):
        super()._check_leaves(params)
        if isinstance(self.decay, tuple):
            check_patterns(f"{self.label}.decay", self.decay, params)


def unit(where: str, value: Scalar) -> None:
    """Refuse a known coefficient of a running mean outside [0, 1)."""
    known = concrete(value)
    require(where, value, known is None or 0 <= known < 1, "is outside [0, 1)")


def wide_dtype(dtype: Any) -> Any:
    """float32 for narrower floating dtypes, any other as it is."""
    narrow = jnp.issubdtype(dtype, jnp.floating)
    return jnp.promote_types(dtype, jnp.float32) if narrow else dtype


def _wide(tree: Any) -> Any:
    """Floating leaves in float32, or as they are where they are wider."""
    return jax.tree.map(lambda x: x.astype(wide_dtype(x.dtype)), tree)
