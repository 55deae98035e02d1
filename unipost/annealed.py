"""Numbers that follow a schedule: what may stand where an objective takes a number.

    beta: {name: annealed, start: 0.9, end: 0.05, steps: 200}

An objective keeps them as they are; `at_step` gives the objective of one step, with
plain numbers, and the training loop calls it before every update. The numbers are
pytree leaves, so the steps share one compiled program. Called without, it is step 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from unipost.parts import Scalar, Varying, concrete, part

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
P = ParamSpec("P")


@part
class Annealed(Varying):
    """A number that goes from `start` to `end` in `steps` steps, after a warm-up.

    shape    cosine: end + (start - end)(1 + cos(pi s/steps))/2; linear: a line; step:
             start before `steps`, end from then on
    warmup   steps in which it goes from `initial` to `start` in a line, before that

    Sums, differences and products with numbers are annealed too: with mu annealed,
    1 - mu is its exact complement at every step. As CHORD's mu, 2508.11408.
    """

    start: Scalar
    end: Scalar
    steps: int
    shape: Literal["cosine", "linear", "step"] = "cosine"
    warmup: int = 0
    initial: Scalar = 0.0

    def __post_init__(self):
        for name in ("start", "end", "initial"):
            known = concrete(getattr(self, name))
            if known is not None and not math.isfinite(known):
                raise ValueError(f"annealed.{name}: {known:g} is not a finite number")
        for name, least in (("steps", 1), ("warmup", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"annealed.{name}: {value} is below {least}")
        ends = concrete(self.start), concrete(self.end)
        if self.warmup == 0 and ends[0] is not None and ends[0] == ends[1]:
            raise ValueError(
                f"annealed: from {ends[0]:g} to itself; write the number alone"
            )

    def __str__(self) -> str:
        numbers = [concrete(x) for x in (self.start, self.end, self.initial)]
        start, end, initial = ("?" if x is None else f"{x:g}" for x in numbers)
        rise = f"{initial} to {start} in {self.warmup} steps, then " * (self.warmup > 0)
        return f"{rise}{start} to {end} in {self.steps} steps ({self.shape})"

    def ends(self) -> tuple[Scalar, ...]:
        """The numbers between which all its values lie, the last one first."""
        first = (self.initial,) if self.warmup else ()
        return (self.end, self.start, *first)

    def at(self, step: int | jax.Array) -> Scalar:
        """The value at 0-based `step`: a float of a whole number, else a jax scalar."""
        m: Any = math if isinstance(step, int) else jnp
        done: Any = (step - self.warmup) / self.steps
        done = min(max(done, 0.0), 1.0) if m is math else done.clip(0.0, 1.0)
        left = {
            "cosine": lambda: 0.5 + 0.5 * m.cos(math.pi * done),
            "linear": lambda: 1.0 - done,
            "step": lambda: 1.0 * (done < 1.0),
        }[self.shape]()
        value = self.end + (self.start - self.end) * left
        if not self.warmup:
            return value
        early = self.initial + (self.start - self.initial) * step / self.warmup
        if m is math:
            return early if step < self.warmup else value
        return jnp.where(step < self.warmup, early, value)

    def __add__(self, other: Scalar) -> Annealed:
        return self._mapped(lambda x: x + other)

    def __mul__(self, factor: Scalar) -> Annealed:
        return self._mapped(lambda x: x * factor)

    def __truediv__(self, divisor: Scalar) -> Annealed:
        return self._mapped(lambda x: x / divisor)

    def __rsub__(self, other: Scalar) -> Annealed:
        return self._mapped(lambda x: other - x)

    def __sub__(self, other: Scalar) -> Annealed:
        return self._mapped(lambda x: x - other)

    def __neg__(self) -> Annealed:
        return self._mapped(lambda x: -x)

    __radd__, __rmul__ = __add__, __mul__

    def __rtruediv__(self, other: Scalar) -> Annealed:
        raise ValueError(
            "annealed: its inverse is asked for, which no schedule of this kind has; "
            "anneal a number that is used as it is"
        )

    def _mapped(self, affine: Callable[[Scalar], Scalar]) -> Annealed:
        numbers = (affine(self.start), affine(self.end))
        initial = affine(self.initial) if self.warmup else self.initial
        return Annealed(*numbers, self.steps, self.shape, self.warmup, initial)


def at_step(objective: T, step: int | jax.Array) -> T:
    """`objective` (any tree of parts) with plain numbers, those of 0-based `step`.

    The object itself where nothing in it is annealed. `step` may be traced.
    """
    if not annealed_numbers(objective):
        return objective
    step = step if isinstance(step, jax.Array) else int(step)

    def plain(leaf: Any) -> Any:
        return leaf.at(step) if isinstance(leaf, Varying) else leaf

    return jax.tree.map(plain, objective, is_leaf=_varies)


def annealed_numbers(tree: Any) -> dict[str, Varying]:
    """The numbers in a tree of parts that follow a schedule, by dotted path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_varies)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
        if _varies(leaf)
    }


def at_first_step(
    method: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], R]:
    """A method of an objective that sees its numbers as they are at step 0."""

    @wraps(method)
    def called(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(at_step(self, 0), *args, **kwargs)

    return called


def _varies(leaf: Any) -> bool:
    return isinstance(leaf, Varying)


ANNEALED = {"annealed": Annealed}
"""What may stand for a number of an objective, by its name in a config."""
