"""States of a run for tests of its checkpoints."""

import jax.numpy as jnp

from unipost.update import State


def state_of(seed: float) -> State:
    """A state of a megabyte, large enough for a save to take a while."""

    def params():
        return {"w": jnp.full((512, 512), seed, jnp.float32), "b": jnp.arange(3.0)}

    return State(params(), (jnp.float32(seed), params()), jnp.asarray(7, jnp.int32))
