"""How numbers of parts of a step become those of the step, by the end of their name.

_min, _max   the smallest, the largest
_log         logs of sums, which add inside the log
any other    sums
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array
Tally = dict[str, Array]
FIRST = ("sampler_gap", "sampler_gap_max")
"""Of these a step has what its first update found: later on the policy has moved."""


def merge(total: Tally, piece: Tally) -> Tally:
    """The tally of two parts of a batch, name by name."""

    def one(name: str) -> Array:
        a, b = total[name], piece[name]
        match name.rpartition("_")[2]:
            case "min":
                return jnp.minimum(a, b)
            case "max":
                return jnp.maximum(a, b)
            case "log":
                return jnp.logaddexp(a, b)
        return a + b

    return {name: one(name) for name in total}


def nothing(shapes: dict[str, jax.ShapeDtypeStruct]) -> Tally:
    """The tally of no rows at all: `merge` with it changes nothing."""
    neutral = {"min": jnp.inf, "max": -jnp.inf, "log": -jnp.inf}
    return {
        name: jnp.full(s.shape, neutral.get(name.rpartition("_")[2], 0.0), s.dtype)
        for name, s in shapes.items()
    }


@jax.jit
def combine(updates: Sequence[Tally]) -> Tally:
    """The metrics of a step from those of its updates: means, least and largest.

    `sampler_gap` is that of the first update, whose policy has not moved yet.
    """

    def one(name: str) -> Array:
        values = jnp.stack([update[name] for update in updates])
        if name in FIRST:
            return values[0]
        match name.rpartition("_")[2]:
            case "min":
                return values.min()
            case "max":
                return values.max()
        return values.mean()

    return {name: one(name) for name in updates[0]}
