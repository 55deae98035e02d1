"""The mixture of experts of a block, on one device and on many.

Letters in shapes: N rows, S tokens, D hidden, X experts, n tokens of one device.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from unipost.mesh import BATCH, free_axes, over, spec_over
from unipost.model.config import ModelConfig
from unipost.model.gather import gathered_from
from unipost.model.layers import activate, multiply
from unipost.policy import widen

Array = jax.Array
NAMES = ("gate", "up", "down")


def mixture(config: ModelConfig, block: dict[str, Any], x: Array) -> Array:
    """Each token [N S D] through its `per_token` experts, their outputs added by weight.

    Copies of the tokens are sorted by expert, so that every expert multiplies its own
    rows only; none is dropped. On a mesh every device sorts its own tokens, and those
    of the axis `expert`, whose devices hold different experts, come together for it.
    """
    kernels = {name: block[name]["kernel"] for name in (*NAMES, "router")}
    if free_axes():
        return _spread(config, kernels, x)
    return routed(config, kernels, x.reshape(-1, x.shape[-1])).reshape(x.shape)


def routed(
    config: ModelConfig, kernels: dict[str, Array], flat: Array, first: Array | int = 0
) -> Array:
    """`mixture` of tokens [n D] by the experts from `first` on that `kernels` hold.

    What the other experts add is left out.
    """
    experts = config.experts
    if experts is None:
        raise ValueError("mixture: the config has no experts")
    logits = widen(multiply(flat, kernels["router"]))
    weights, chosen = jax.lax.top_k(jax.nn.softmax(logits, -1), experts.per_token)
    if experts.normalize:
        weights = weights / weights.sum(-1, keepdims=True)
    held, chosen = kernels["gate"].shape[0], chosen.reshape(-1)
    mine = None
    if held < experts.count:
        # those of other devices are sorted behind, and no expert reads them
        mine = (chosen >= first) & (chosen < first + held)
        chosen = jnp.where(mine, chosen - first, held)
    order = jnp.argsort(chosen, stable=True)
    counts = jnp.bincount(chosen, length=held).astype(jnp.int32)
    place = order // experts.per_token

    def kept(x: Array) -> Array:
        # a product of groups says nothing of rows behind the last
        return x if mine is None else jnp.where(mine[order, None], x, 0)

    def each(name: str, rows: Array) -> Array:
        return jax.lax.ragged_dot(rows, kernels[name].astype(rows.dtype), counts)

    rows = kept(flat[place])
    inner = activate(config, each("gate", rows)) * each("up", rows)
    out = kept(each("down", inner)) * weights.reshape(-1)[order, None].astype(flat.dtype)
    return jnp.zeros_like(flat).at[place].add(out)


def _spread(config: ModelConfig, kernels: dict[str, Array], x: Array) -> Array:
    """`mixture` on the mesh that is set.

    Every device gathers the tokens of the axis expert and adds what its own experts and
    its part of their inner width give; the sums go back to where the tokens came from.
    """
    wide = {"gate": ("expert", "fsdp", "tensor"), "down": ("expert", "tensor", "fsdp")}
    wide |= {"up": wide["gate"], "router": (None, None)}
    whole = {n: gathered_from(k.astype(x.dtype), *wide[n]) for n, k in kernels.items()}
    specs = {
        name: spec_over(k.shape, *(None if a == "fsdp" else a for a in wide[name]))
        for name, k in whole.items()
    }
    rows = spec_over(x.shape, BATCH, "sequence", None)
    held, _, inner = whole["gate"].shape
    apart, tensor = over(held, "expert"), over(inner, "tensor")
    together = bool(apart) and set(apart) <= set(over(len(x), BATCH))
    # sums over these are left to the end, where their gradient needs no sum again
    parts = tensor if together else tensor + apart
    run = jax.shard_map(
        partial(_one_device, config, "expert" if apart else None, together),
        in_specs=(specs, rows),
        out_specs=PartitionSpec(parts or None, *rows),
        check_vma=False,
    )
    return run(whole, x).sum(0)


def _one_device(
    config: ModelConfig,
    apart: str | None,
    together: bool,
    kernels: dict[str, Array],
    x: Array,
) -> Array:
    """What a device adds to its tokens, [1 N S D], inside `jax.shard_map`.

    apart: the axis whose devices hold different experts; together: and different rows.
    """
    flat, first = x.reshape(-1, x.shape[-1]), 0
    if apart:
        first = jax.lax.axis_index(apart) * kernels["gate"].shape[0]
    if apart and together:
        flat = jax.lax.all_gather(flat, apart, axis=0, tiled=True)
    out = routed(config, kernels, flat, first)
    if apart and together:
        out = jax.lax.psum_scatter(out, apart, scatter_dimension=0, tiled=True)
    return out.reshape(1, *x.shape)
