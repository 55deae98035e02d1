"""AdamW that keeps its parameters in bfloat16, and the model that it starts from.

The arrays stay float32, so that nothing but the format of the weights differs from
AdamW: products, gradients and both moments are float32 in either.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from unipost.optimizers import AdamW
from unipost.parts import part


@part
class Rounded(AdamW):
    """AdamW without a master copy: w <- bf16(w + u), to nearest, ties to even.

    Of parameters that are bfloat16 numbers, as `rounded` makes them. A change u of less
    than half a unit in the last place, |w|/512 to |w|/256, is lost, however often it
    comes.
    """

    def update(self, grads, state, params, step, steps):
        """As AdamW's, the new parameters rounded."""
        params, state, numbers = super().update(grads, state, params, step, steps)
        return rounded(params), state, numbers


def rounded(params: Any) -> Any:
    """Every number as the nearest bfloat16 one, in the dtype that it has."""
    # a cast and back would be left out by XLA where it allows excess precision
    return jax.tree.map(lambda x: jax.lax.reduce_precision(x, 8, 7), params)


def is_rounded(params: Any) -> bool:
    """Whether every number of float32 `params` is a bfloat16 number."""
    same = jax.tree.map(lambda x: jnp.all(rounded(x) == x), params)
    return all(bool(x) for x in jax.tree.leaves(same))
