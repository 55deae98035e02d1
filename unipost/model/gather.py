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

from unipost.mesh import BATCH, Stored, free_axes, gathered

Array = jax.Array
Axes = str | tuple[str, ...] | None
GATHERED = "gathered"
"""What no rule of rematerialisation keeps: as large as the layer on every device."""

# Axes of the inputs and outputs of a projection, as stored; without fsdp, as read.
_IN, _OUT = ("fsdp", "tensor"), ("tensor", "fsdp")
_PROJECTIONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("query", "key", "value", "gate", "up"), _IN),
    **dict.fromkeys(("output", "down"), _OUT),
}


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


def gathered_block(block: dict[str, Any], dtype: Any) -> dict[str, Any]:
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
    """`x`, stored over `axes`, whole over fsdp; named, so that it is not kept."""
    return checkpoint_name(gathered(x, axes), GATHERED) if free_axes() else x


def cast_products(blocks: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Blocks with their matrices and biases in the dtype of products; norms stay."""
    return {
        name: part
        if "scale" in part
        else {leaf: x.astype(dtype) for leaf, x in part.items()}
        for name, part in blocks.items()
    }


def table(part: dict[str, Array], name: str, dtype: Any) -> dict[str, Any]:
    """`part` of the parameters with its table `name` to be gathered, on a mesh.

    kernel [D V], any other [V D]. In half precision what is read is `half`, and the
    table beside it stands for its gradient alone.
    """
    if not free_axes():
        return part
    axes, whole = _IN if name == "kernel" else _OUT, part[name]
    if dtype == jnp.promote_types(dtype, jnp.float32):
        return part | {name: Stored(whole.astype(dtype), axes)}
    half = jax.lax.stop_gradient(whole).astype(dtype)
    return part | {name: Stored(whole, axes), "half": Stored(half, axes)}
