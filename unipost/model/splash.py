"""The TPU kernel of `jax.experimental.pallas` on one device and on many.

Letters in shapes: N rows, S tokens, H query heads, K key-value heads, E head size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from unipost.mesh import BATCH, free_axes, over, platform, shards

if TYPE_CHECKING:
    from unipost.model.attention import Rule

Array = jax.Array
LANES = 128
"""The kernel reads tokens in blocks of a multiple of this."""
BLOCK = 512
"""Tokens of a block where they divide: larger ones do not fit beside each other."""


def splash(
    query: Array, key: Array, value: Array, segments: Array, rule: Rule
) -> Array:
    """query [N S H E], key and value [N S K E], segments [N S] -> [N S H*E].

    On a mesh each device runs the kernel on its own rows, heads and queries; keys and
    values are gathered over `sequence`. Raises ValueError for rows whose part of one
    device is no multiple of LANES.
    """
    length, parts = query.shape[1], shards("sequence")
    if length % (LANES * parts):
        cut = f" on each of {parts} devices" if parts > 1 else ""
        raise ValueError(
            f"compute.attention: splash reads rows in blocks of {LANES} tokens{cut}, "
            f"these have {length}; write packed_length, a multiple of {LANES * parts}, "
            "or auto"
        )
    heads = query.shape[2]
    split = shards("tensor") if over(heads, "tensor") else 1
    attend = _kernel(rule, length, heads // split, parts)
    turned = (jnp.swapaxes(x, 1, 2) for x in (query * rule.scale, key, value))
    given = *turned, segments.astype(jnp.int32)
    run = _on_mesh(attend, query.shape) if free_axes() else _rows
    mixed = run(attend, *given, given[-1])
    return jnp.swapaxes(mixed, 1, 2).reshape(*segments.shape, -1)


def _kernel(rule: Rule, length: int, heads: int, parts: int) -> Any:
    """The kernel for rows of `length` tokens whose queries are cut into `parts`."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    shape = length, length
    one = masks.CausalMask(shape)
    if rule.window is not None:
        # window_size is (before, after) the query, itself not counted
        one = masks.LocalMask(shape, (rule.window - 1, 0), 0)
    own = length // parts
    size = next(n for n in (BLOCK, BLOCK // 2, LANES) if own % n == 0)
    names = "block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq"
    return kernel.make_splash_mha(
        masks.MultiHeadMask([one] * heads),
        head_shards=1,
        q_seq_shards=parts,
        attn_logits_soft_cap=rule.softcap,
        block_sizes=kernel.BlockSizes(**dict.fromkeys(names, size), block_kv_dq=size),
        interpret=platform() != "tpu",
    )


def _rows(
    attend: Any, query: Array, key: Array, value: Array, segments: Array, all_of: Array
) -> Array:
    """The kernel on row after row: heads [N H|K S E], segments of queries and keys."""
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    def row(query, key, value, segments, all_of):
        ids = SegmentIds(segments, all_of)
        return jnp.asarray(attend(query, key, value, segment_ids=ids))

    return jax.vmap(row)(query, key, value, segments, all_of)


def _on_mesh(attend: Any, shape: tuple[int, ...]) -> Any:
    """`_rows` by hand on every device; `shape` is that of queries [N S H E]."""
    count, length, heads, _ = shape
    rows, sequence = over(count, BATCH) or None, over(length, "sequence") or None
    own = PartitionSpec(rows, over(heads, "tensor") or None, sequence, None)
    mesh = jax.sharding.get_abstract_mesh()
    masks = attend.manual_sharding_spec(
        NamedSharding(mesh, PartitionSpec(None, sequence))
    )
    ids = PartitionSpec(rows, sequence), PartitionSpec(rows, None)

    def one(attend, query, key, value, segments, all_of):
        if sequence:
            whole = partial(jax.lax.all_gather, axis_name="sequence", axis=2, tiled=True)
            key, value = whole(key), whole(value)
        return _rows(attend, query, key, value, segments, all_of)

    # the kernel does not say what of it varies over the mesh
    return jax.shard_map(
        one, in_specs=(masks, own, own, own, *ids), out_specs=own, check_vma=False
    )
