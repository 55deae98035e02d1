"""verl's flat rows and group ids, laid out as [prompts, group, ...] and back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def group_rows(
    array: Array | np.ndarray,
    group_ids: Sequence[Hashable] | np.ndarray,
    fill: float = 0.0,
) -> Array:
    """Rows [B, ...] as [P, G, ...]: one line per group, padded to the largest group.

    `group_ids` [B] are numbers or strings in any order. Groups stand in the order of
    their first row, rows in theirs; the padding is `fill`: 0 for a mask, which makes
    the rows empty, and NaN for rewards, which leaves them out of every statistic.

        >>> group_rows(jnp.array([1., 2., 3.]), ["a", "b", "a"])
        Array([[1., 3.], [2., 0.]])
    """
    array = jnp.asarray(array)
    group, place = _places(group_ids, array.shape[0])
    shape = (group.max(initial=-1) + 1, place.max(initial=-1) + 1, *array.shape[1:])
    return jnp.full(shape, fill, array.dtype).at[group, place].set(array)


def ungroup_rows(
    array: Array | np.ndarray, group_ids: Sequence[Hashable] | np.ndarray
) -> Array:
    """The inverse of `group_rows`: [P, G, ...] back to [B, ...]; the padding goes."""
    group, place = _places(group_ids, len(group_ids))
    largest = (int(group.max(initial=-1)) + 1, int(place.max(initial=-1)) + 1)
    if tuple(array.shape[:2]) != largest:
        raise ValueError(
            f"verl.ungroup_rows: shape {tuple(array.shape)}; group_ids say {largest}"
        )
    return jnp.asarray(array)[group, place]


def _places(group_ids, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The group of each row and its place in it, [B] each."""
    if len(group_ids) != rows:
        raise ValueError(f"verl.group_ids: {len(group_ids)} ids for {rows} rows")
    groups: dict[Hashable, int] = {}
    sizes: list[int] = []
    group, place = np.zeros(rows, int), np.zeros(rows, int)
    for row, name in enumerate(np.asarray(group_ids).tolist()):
        number = groups.setdefault(name, len(groups))
        if number == len(sizes):
            sizes.append(0)
        group[row], place[row] = number, sizes[number]
        sizes[number] += 1
    return group, place
