"""Learning-rate schedules as data: the factor on the learning rate after the warm-up.

With n = steps - warmup, s = step - warmup and the part left, r = 1 - s/n in [0, 1]:

    constant      1
    linear        floor + (1 - floor) r
    cosine        floor + (1 - floor) (1 - cos(pi r)) / 2
    polynomial    floor + (1 - floor) r^power
    exponential   end^(1 - r)
    inverse_sqrt  sqrt(timescale / (timescale + s))
    wsd           1 until the last `tail` of the steps, then down to floor

Their numbers may be traced. `optax` takes any other schedule of optax by its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from unipost.optimizers.signatures import (
    Plain,
    Settings,
    check_arguments,
    function_of,
    unknown,
)
from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array


class Schedule(ABC):
    """factor(since, length): the factor `since` steps after the warm-up, of `length`.

    `since` is below 0 during the warm-up, where the factor is not read.
    """

    @abstractmethod
    def factor(self, since: Array, length: Array) -> Array:
        """The factor on the learning rate, a scalar."""


def left(since: Array, length: Array) -> Array:
    """The share of the steps after the warm-up that is still to come, in [0, 1]."""
    return jnp.clip(1.0 - since / jnp.maximum(length, 1), 0.0, 1.0)


@part
class Constant(Schedule):
    """The learning rate as it is."""

    def factor(self, since, length):
        return jnp.ones_like(left(since, length))


@part
class Linear(Schedule):
    """A line down to `floor` times the learning rate at the last step."""

    floor: Scalar = 0.0

    def __post_init__(self):
        _share("linear.floor", self.floor)

    def factor(self, since, length):
        return self.floor + (1.0 - self.floor) * left(since, length)


@part
class Cosine(Schedule):
    """Half a cosine down to `floor` times the learning rate (1608.03983)."""

    floor: Scalar = 0.0

    def __post_init__(self):
        _share("cosine.floor", self.floor)

    def factor(self, since, length):
        wave = 0.5 - 0.5 * jnp.cos(jnp.pi * left(since, length))
        return self.floor + (1.0 - self.floor) * wave


@part
class Polynomial(Schedule):
    """A power of the part left, down to `floor` times the learning rate."""

    power: Scalar
    floor: Scalar = 0.0

    def __post_init__(self):
        in_range("polynomial.power", self.power, 0.0, what="is not positive")
        _share("polynomial.floor", self.floor)

    def factor(self, since, length):
        return self.floor + (1.0 - self.floor) * left(since, length) ** self.power


@part
class Exponential(Schedule):
    """The same ratio from step to step, down to `end` times the learning rate."""

    end: Scalar

    def __post_init__(self):
        in_range("exponential.end", self.end, 0.0, 1.0, what="is outside (0, 1)")

    def factor(self, since, length):
        return self.end ** (1.0 - left(since, length))


@part
class InverseSqrt(Schedule):
    """1/sqrt of the steps, the factor 1/2 at 3 `timescale` steps after the warm-up.

    With `timescale` equal to the warm-up it is sqrt(warmup / step) (1706.03762).
    """

    timescale: Scalar

    def __post_init__(self):
        what = "is not positive; write a number of steps"
        in_range("inverse_sqrt.timescale", self.timescale, 0.0, what=what)

    def factor(self, since, length):
        return jnp.sqrt(self.timescale / (self.timescale + jnp.maximum(since, 0)))


@part
class WarmupStableDecay(Schedule):
    """Constant, then down to `floor` in the last `tail` of the steps (2404.06395).

    tail   share of the steps after the warm-up, in (0, 1]
    shape  of the fall: a line, half a cosine, or 1 - sqrt(progress) (2405.18392)
    """

    tail: Scalar = 0.1
    shape: Literal["linear", "cosine", "sqrt"] = "linear"
    floor: Scalar = 0.0

    def __post_init__(self):
        known = concrete(self.tail)
        ok = known is None or 0 < known <= 1
        require("wsd.tail", self.tail, ok, "is outside (0, 1]")
        _share("wsd.floor", self.floor)

    def factor(self, since, length):
        rest = jnp.clip(left(since, length) / self.tail, 0.0, 1.0)
        fall = {
            "linear": rest,
            "cosine": 0.5 - 0.5 * jnp.cos(jnp.pi * rest),
            "sqrt": 1.0 - jnp.sqrt(1.0 - rest),
        }[self.shape]
        return self.floor + (1.0 - self.floor) * fall


def _share(where: str, value: Scalar) -> None:
    known = concrete(value)
    require(where, value, known is None or 0 <= known <= 1, "is outside [0, 1]")


@part
class OptaxSchedule(Schedule):
    """A schedule of optax by its name: its value is the factor on the learning rate.

    arguments  those of the function, by name; they count steps after the warm-up and
               are not traced, so another value compiles again
    """

    function: str
    arguments: dict[str, Plain] = field(default_factory=Settings)

    def __post_init__(self):
        where, arguments = "optax", Settings(self.arguments)
        object.__setattr__(self, "arguments", arguments)
        made = function_of(f"{where}.function", self.function, OPTAX_SCHEDULES)
        check_arguments(f"{where}.arguments", made, arguments, {})

    def factor(self, since, length):
        made = function_of("optax.function", self.function, OPTAX_SCHEDULES)
        return jnp.asarray(made(**self.arguments)(jnp.maximum(since, 0)))


OPTAX_SCHEDULES = tuple(
    name
    for name in sorted(vars(optax))
    if (name.endswith("_schedule") or name == "exponential_decay")
    # their arguments are mappings of numbers or of lists
    and not name.startswith(("piecewise", "sgdr", "join", "scale_by", "inject"))
)
"""The schedules of optax that take plain numbers."""

SCHEDULES = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "polynomial": Polynomial,
    "exponential": Exponential,
    "inverse_sqrt": InverseSqrt,
    "wsd": WarmupStableDecay,
    "optax": OptaxSchedule,
}


def schedule_named(name: str, where: str) -> Schedule:
    """The schedule of this name with its defaults. Raises ValueError for another."""
    if name not in SCHEDULES:
        raise ValueError(f"{where}.schedule: {unknown(name, SCHEDULES, 'one of')}")
    kind = SCHEDULES[name]
    try:
        return kind()
    except TypeError as error:
        raise ValueError(
            f"{where}.schedule: {name!r} needs arguments; write {kind.__name__}(...)"
        ) from error
