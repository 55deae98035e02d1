"""The mixture of experts of a block, on one device and on many.

Letters in shapes: N rows, S tokens, D hidden, X experts, n tokens of one device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from unipost.mesh import constrain, free_axes, over, spec_over
from unipost.model.config import ModelConfig
from unipost.model.gather import TEXTS, Flow, gathered_from
from unipost.model.layers import activate, multiply
from unipost.policy import widen

Array = jax.Array
_IN, _OUT = ("expert", "fsdp", "tensor"), ("expert", "tensor", "fsdp")
STORED = {"gate": _IN, "up": _IN, "down": _OUT, "router": ("fsdp", None)}
"""The mesh axes of the dimensions of every kernel, [X D F], [X F D] and [D X]."""


def mixture(
    config: ModelConfig, block: dict[str, Any], x: Array, flow: Flow = TEXTS
) -> Array:
    """Each token [N S D] through its `per_token` experts, whose outputs are weighed.

    Copies of the tokens are sorted by expert, so that every expert multiplies its own
    rows only; none is dropped. On a mesh every device sorts its own tokens, and those
    of the axis `expert`, whose devices hold different experts, come together for it.
    """
    kernels = {name: block[name]["kernel"] for name in STORED}
    if free_axes():
        return _spread(config, kernels, constrain(x, *flow.into), flow)
    return routed(config, kernels, x.reshape(-1, x.shape[-1])).reshape(x.shape)


def routed(
    config: ModelConfig,
    kernels: dict[str, Array],
    flat: Array,
    first: Array | int = 0,
    total: Callable[[Array], Array] = lambda x: x,
) -> Array:
    """`mixture` of tokens [n D] by the experts from `first` on that `kernels` hold.

    What the other experts add is left out. Where the tokens have a part of D only,
    `total` adds up what the parts give.
    """
    experts = config.experts
    if experts is None:
        raise ValueError("mixture: the config has no experts")
    logits = total(widen(multiply(flat, kernels["router"])))
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
    inner = activate(config, total(each("gate", rows))) * total(each("up", rows))
    out = kept(each("down", inner)) * weights.reshape(-1)[order, None].astype(
        flat.dtype
    )
    return jnp.zeros_like(flat).at[place].add(out)


def _spread(
    config: ModelConfig, kernels: dict[str, Array], x: Array, flow: Flow
) -> Array:
    """`mixture` on the mesh that is set.

    Every device gathers the tokens of the axis expert and adds what its own experts and
    its part of their widths give; the sums go back to where the tokens came from.
    """
    kernels = {name: k.astype(x.dtype) for name, k in kernels.items()}
    if flow.gather:
        kernels = {n: gathered_from(k, *STORED[n]) for n, k in kernels.items()}
    split = flow.into[2]  # the axis of D that tokens and kernels have a part of
    specs = {
        name: spec_over(k.shape, *(a if a != "fsdp" else split for a in STORED[name]))
        for name, k in kernels.items()
    }
    rows = spec_over(x.shape, *flow.into)
    held, _, inner = kernels["gate"].shape
    apart, tensor = over(held, "expert"), over(inner, "tensor")
    together = bool(apart) and set(apart) <= set(over(len(x), flow.into[0]))
    # sums over these are left to the end, where their gradient needs no sum again
    parts = tensor if together else tensor + apart
    run = jax.shard_map(
        partial(_one_device, config, apart, together, over(x.shape[-1], split)),
        in_specs=(specs, rows),
        out_specs=PartitionSpec(parts or None, *rows),
        check_vma=False,
    )
    return run(kernels, x).sum(0)


def _one_device(
    config: ModelConfig,
    apart: tuple[str, ...],
    together: bool,
    split: tuple[str, ...],
    kernels: dict[str, Array],
    x: Array,
) -> Array:
    """What a device adds to its tokens, [1 N S D], inside `jax.shard_map`.

    apart: the axis whose devices hold different experts; together: and different rows.
    split: the axis whose devices hold different parts of D.
    """
    flat, first = x.reshape(-1, x.shape[-1]), 0
    if apart:
        first = jax.lax.axis_index(apart) * kernels["gate"].shape[0]
    if together:
        flat = jax.lax.all_gather(flat, apart, axis=0, tiled=True)
    total = partial(jax.lax.psum, axis_name=split) if split else lambda x: x
    out = routed(config, kernels, flat, first, total)
    if together:
        out = jax.lax.psum_scatter(out, apart, scatter_dimension=0, tiled=True)
    return out.reshape(1, *x.shape)
