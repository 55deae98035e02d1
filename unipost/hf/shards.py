"""Leaves of the parameters on the devices of this process, filled tensor by tensor.

A device holds a part of each leaf. It starts as zeros, and every slice of a stored
tensor is written where it belongs, in place. So beside the device arrays there is one
block of a tensor at a time, and only of what this process needs.
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
# Bytes of a tensor that are moved at a time.
BLOCK = 1 << 23


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
    tensor, read = stored.open(), 0
    for piece in held:
        for part in leaves[piece.path]:
            place, cut = _within(piece, part.index)
            if place is None:
                continue
            value = tensor[piece.at][cut]
            read += value.nbytes
            if not _put(part, value, place, piece.transposed):
                raise ValueError(
                    f"{stored.file}: tensor {stored.name} has entries that are NaN or "
                    "infinite; copy it again"
                )
    return read


def _within(piece: Piece, index: Index) -> tuple[tuple[int, ...] | None, Index]:
    """Where a piece lies in leaf[index], and the slices of the piece that lie there."""
    lead = len(piece.index)
    pairs = zip(piece.index, index[:lead], strict=True)
    if not all(cut.start <= at < cut.stop for at, cut in pairs):
        return None, ()
    place = tuple(at - cut.start for at, cut in zip(piece.index, index, strict=False))
    cut = index[lead:]
    return place, cut[::-1] if piece.transposed else cut


def _put(
    part: Part, value: np.ndarray, place: tuple[int, ...], transposed: bool
) -> bool:
    """Writes `value` into every copy of a part, by blocks; whether it is finite."""
    rows = max(1, BLOCK // (value.nbytes // len(value)))
    axis = -1 if transposed else len(place)
    start = np.zeros(part.arrays[0].ndim, np.int32)
    start[: len(place)] = place
    finite = True
    for first in range(0, len(value), rows):
        start[axis] = first
        block = np.ascontiguousarray(value[first : first + rows])
        for i, device in enumerate(part.devices):
            moved = jax.device_put(block, device)
            part.arrays[i], fine = _write(part.arrays[i], moved, start, transposed)
            # waits, so that only one block is under way
            finite &= bool(fine)
    return finite


@partial(jax.jit, static_argnums=3, donate_argnums=0)
def _write(
    part: Array, value: Array, start: Array, transposed: bool
) -> tuple[Array, Array]:
    """`part` with `value` at `start`, and whether `value` is finite; in place."""
    finite = jnp.isfinite(value).all()
    value = (value.T if transposed else value).astype(part.dtype)
    value = value.reshape((1,) * (part.ndim - value.ndim) + value.shape)
    update = jax.lax.dynamic_update_slice
    if part.dtype != jnp.bfloat16:
        return update(part, value, tuple(start)), finite
    # as bits: XLA on CPU would pass the whole part through float32
    cast = jax.lax.bitcast_convert_type
    changed = update(cast(part, jnp.uint16), cast(value, jnp.uint16), tuple(start))
    return cast(changed, part.dtype), finite
