"""The parameters of one layer as it reads them on a mesh: gathered over fsdp.

Stored, a matrix is spread over fsdp and tensor (`unipost.mesh.RULES`). A layer gathers
its own when it is computed, in the dtype of products, and no other layer's; in the
backward pass again. Without a mesh nothing is done.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from unipost.mesh import BATCH, constrain, free_axes

Array = jax.Array
Axes = str | tuple[str, ...] | None
GATHERED = "gathered"
"""What no rule of rematerialisation keeps: as large as the layer on every device."""

# Axes of the inputs and outputs of a projection, as stored; without fsdp, as read.
_IN, _OUT = ("fsdp", "tensor"), ("tensor", "fsdp")
_PROJECTIONS = dict.fromkeys(("query", "key", "value", "gate", "up"), _IN)
_PROJECTIONS |= {"output": _OUT, "down": _OUT}


class Flow(NamedTuple):
    """Where activations lie between the products of a layer, axes per [N S ...].

    into: what a projection from the stream reads; inside: what the projection back to
    it reads; gather: whether the layer's matrices come to the activations.
    """

    into: tuple[Axes, Axes, Axes]
    inside: tuple[Axes, Axes, Axes]
    gather: bool


# Rows stay where they are, and matrices come.
TEXTS = Flow((BATCH, "sequence", None), (BATCH, "sequence", "tensor"), True)
# One token per row is less than a matrix: the rows of fsdp come to its parts.
_ROWS = ("data", "expert")
TOKEN = Flow((_ROWS, None, "fsdp"), (_ROWS, None, "tensor"), False)


def gathered(block: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """`block` with its projections cast and whole but for the axis tensor.

    Experts stay as they are: `unipost.model.experts` gathers them.
    """
    if not free_axes():
        return block

    def part(name: str, leaves: dict[str, Array]) -> dict[str, Array]:
        axes = _PROJECTIONS.get(name)
        if axes is None or leaves["kernel"].ndim != 2:
            return leaves
        return {leaf: _whole(leaf, x, axes, dtype) for leaf, x in leaves.items()}

    return {name: part(name, leaves) for name, leaves in block.items()}


def _whole(leaf: str, x: Array, axes: tuple[str, str], dtype: Any) -> Array:
    stored = {"kernel": axes, "bias": axes[1:], "a": (axes[0], None), "b": axes[1:]}
    spec = (None,) * (x.ndim - len(stored[leaf])) + stored[leaf]
    return gathered_from(x.astype(dtype), *spec)


def gathered_from(x: Array, *axes: str | None) -> Array:
    """`x`, stored over `axes`, whole over fsdp. Its gradient is stored as it is.

    The gradient is never whole on a device: what is summed over devices is cut at once.
    """
    if not free_axes():
        return x

    def gather(_, x: Array) -> Array:
        return constrain(x, *(None if axis == "fsdp" else axis for axis in axes))

    def cut(_, change: Array) -> Array:
        return constrain(change, *axes)

    x = jax.custom_derivatives.linear_call(gather, cut, (), constrain(x, *axes))
    return checkpoint_name(x, GATHERED)


def whole_table(name: str, part: dict[str, Array], dtype: Any) -> dict[str, Array]:
    """`part` of the parameters with its table `name` gathered, on a mesh.

    kernel [D V], any other [V D]. In half precision beside the table: what is gathered
    then is `half`, and the table stands for its gradient alone.
    """
    if not free_axes():
        return part
    axes, table = ("fsdp", "tensor") if name == "kernel" else _OUT, part[name]
    rest = {leaf: x for leaf, x in part.items() if leaf != name}
    if dtype == jnp.promote_types(dtype, jnp.float32):
        return rest | {name: gathered_from(table.astype(dtype), *axes)}
    half = gathered_from(jax.lax.stop_gradient(table).astype(dtype), *axes)
    return rest | {name: gathered_from(table, *axes), "half": half}
