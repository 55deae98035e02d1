"""Leaves of the parameters on the devices of this process, filled tensor by tensor.

A device holds a part of each leaf. It starts as zeros, and every slice of a stored
tensor is written where it belongs, in place. So beside the device arrays there is one
tensor at a time, and of it only what this process needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.hf.files import Stored
from unipost.hf.names import Piece

Array = jax.Array
Sharding = jax.sharding.Sharding
Shape = tuple[int, ...]
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Part:
    """What some devices, all alike, hold of a leaf: leaf[index], once on each."""

    index: Index
    devices: list[Any]
    arrays: list[Array]


def held_here(shape: Shape, sharding: Sharding | None) -> list[tuple[Index, list[Any]]]:
    """The parts of an array on devices of this process, each with these devices.

    Without a sharding it is whole on the default device, None.
    """
    full = tuple(slice(0, size) for size in shape)
    if sharding is None:
        return [(full, [None])]
    devices: dict[Shape, list[Any]] = defaultdict(list)
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        cuts = zip(index or full, shape, strict=True)
        bounds = tuple(x for cut, size in cuts for x in cut.indices(size)[:2])
        devices[bounds].append(device)
    return [
        (tuple(map(slice, bounds[::2], bounds[1::2])), each)
        for bounds, each in devices.items()
    ]


def zeros(shape: Shape, dtype: np.dtype, sharding: Sharding | None) -> list[Part]:
    """A leaf of zeros, as its parts on the devices of this process."""
    held = []
    for index, devices in held_here(shape, sharding):
        size = tuple(cut.stop - cut.start for cut in index)
        arrays = [jnp.zeros(size, dtype, device=device) for device in devices]
        held.append(Part(index, devices, arrays))
    return held


def whole(shape: Shape, sharding: Sharding | None, held: list[Part]) -> Array:
    """The array that the parts make up."""
    arrays = [array for part in held for array in part.arrays]
    if sharding is None:
        return arrays[0]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def fill(
    leaves: dict[tuple[str, ...], list[Part]], stored: Stored, held: Iterable[Piece]
) -> int:
    """Writes one tensor where it belongs; ValueError if an entry is not finite.

    Returns the bytes read: those of the slices that devices of this process hold.
    """
    tensor = stored.open()
    finite, read = [], 0
    for piece in held:
        source = tensor[piece.at]
        for part in leaves[piece.path]:
            place, cut = _within(piece, part.index)
            if place is None:
                continue
            read += source[cut].nbytes
            for i, device in enumerate(part.devices):
                value = jax.device_put(source[cut], device)
                written = _write(part.arrays[i], value, place, piece.transposed)
                part.arrays[i] = written[0]
                finite.append(written[1])
    # waits, so that only one tensor is under way
    if not all(map(bool, finite)):
        raise ValueError(
            f"{stored.file}: tensor {stored.name} has entries that are NaN or "
            "infinite; copy it again"
        )
    return read


def _within(piece: Piece, index: Index) -> tuple[np.ndarray | None, Index]:
    """Where a piece lies in leaf[index], and the slices of the piece that lie there."""
    lead = len(piece.index)
    pairs = zip(piece.index, index[:lead], strict=True)
    if not all(cut.start <= at < cut.stop for at, cut in pairs):
        return None, ()
    place = [at - cut.start for at, cut in zip(piece.index, index, strict=False)]
    cut = index[lead:]
    return np.array(place, np.int32), cut[::-1] if piece.transposed else cut


@partial(jax.jit, static_argnums=3, donate_argnums=0)
def _write(
    part: Array, value: Array, place: Array, transposed: bool
) -> tuple[Array, Array]:
    """`part` with `value` at `place` of its leading axes; whether it is finite."""
    finite = jnp.isfinite(value).all()
    value = (value.T if transposed else value).astype(part.dtype)
    lead = len(place)
    start = [place[i] for i in range(lead)] + [jnp.int32(0)] * (part.ndim - lead)
    value = value.reshape((1,) * lead + value.shape)
    return jax.lax.dynamic_update_slice(part, value, start), finite
