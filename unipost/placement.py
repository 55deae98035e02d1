"""Where arrays of a run lie when the parameters are spread over devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from unipost.processes import in_turn


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
            return put(x, spread[0])
        return put(x, NamedSharding(spread[0].mesh, PartitionSpec()))

    return jax.tree.map(place, tree)


def put(x: Any, sharding: Sharding) -> jax.Array:
    """`x` laid out as `sharding` says; where it lies so already, `x` itself.

    Over several processes an array of the host must be equal in all of them: each hands
    over what its own devices hold.
    """
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        return x
    if sharding.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
        return in_turn(jax.device_put(x, sharding))
    host = np.asarray(x)
    bounds = sharding.addressable_devices_indices_map(host.shape).values()
    local = host[np.ix_(*_held(list(bounds), host.shape))]
    return jax.make_array_from_process_local_data(sharding, local, host.shape)


def _held(bounds: list[Any], shape: tuple[int, ...]) -> list[np.ndarray]:
    """For each axis the places, in order, that some of these blocks hold."""
    held = []
    for axis, size in enumerate(shape):
        ranges = {cuts[axis].indices(size)[:2] for cuts in bounds}
        held.append(np.concatenate([np.arange(*ends) for ends in sorted(ranges)]))
    return held


def _sharding(x: Any) -> NamedSharding | None:
    """The sharding of an array over the devices of a mesh, None for any other."""
    if isinstance(x, jax.core.Tracer):
        return None
    sharding = getattr(x, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None
