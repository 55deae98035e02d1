"""Where arrays of a run lie when the parameters are spread over devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
from jax.sharding import NamedSharding, PartitionSpec


def beside(tree: Any, params: Any) -> Any:
    """`tree` with its arrays on the devices of `params`.

    An array of the shape of a single leaf `params` is spread as that is, any other
    that is not on the mesh yet is copied to every device. Without it a compiled step
    would see other placements the first time than ever after, and compile twice.
    Arrays that are being traced stay as they are.
    """
    found = [_sharding(x) for x in jax.tree.leaves(params)]
    spread = [s for s in found if s is not None]
    if not spread:
        return tree
    single = len(found) == 1

    def place(x):
        if isinstance(x, jax.core.Tracer) or _sharding(x) is not None:
            return x
        if single and x.shape == jax.tree.leaves(params)[0].shape:
            return jax.device_put(x, spread[0])
        return jax.device_put(x, NamedSharding(spread[0].mesh, PartitionSpec()))

    return jax.tree.map(place, tree)


def _sharding(x: Any) -> NamedSharding | None:
    """The sharding of an array over the devices of a mesh, None for any other."""
    if isinstance(x, jax.core.Tracer):
        return None
    sharding = getattr(x, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None
