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
    attend = _kernel(rule, length, query.shape[2] // key.shape[2], parts)
    heads = grouped(query * rule.scale, key, value)
    run = _on_mesh(attend, heads[0].shape) if free_axes() else _rows
    ids = segments.astype(jnp.int32)
    mixed = jnp.moveaxis(run(attend, *heads, ids, ids), 3, 1)
    return mixed.reshape(*segments.shape, -1)


def grouped(query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
    """Heads first: queries [N K G S E] in G per key-value head, the others [N K C E].

    In this layout the products of attention are plain batches of matrices.
    """
    rows, length, heads, size = query.shape
    query = query.reshape(rows, length, key.shape[2], -1, size)
    return jnp.moveaxis(query, 1, 3), jnp.moveaxis(key, 1, 2), jnp.moveaxis(value, 1, 2)


def _kernel(rule: Rule, length: int, group: int, parts: int) -> Any:
    """The kernel of a row of `length` tokens, whose queries are cut into `parts`.

    For one key-value head and the `group` of query heads that read it.
    """
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
    return kernel.make_splash_mqa(
        masks.MultiHeadMask([one] * group),
        head_shards=1,
        q_seq_shards=parts,
        attn_logits_soft_cap=rule.softcap,
        block_sizes=kernel.BlockSizes(**dict.fromkeys(names, size), block_kv_dq=size),
        interpret=platform() != "tpu",
    )


def _rows(
    attend: Any, query: Array, key: Array, value: Array, segments: Array, all_of: Array
) -> Array:
    """The kernel on every row and head of [N K G S E] and [N K C E].

    `segments` [N S] are those of the queries, `all_of` [N C] those of the keys.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    def head(query, key, value, segments, all_of):
        ids = SegmentIds(segments, all_of)
        return jnp.asarray(attend(query, key, value, segment_ids=ids))

    row = jax.vmap(head, (0, 0, 0, None, None))
    return jax.vmap(row)(query, key, value, segments, all_of)


def _on_mesh(attend: Any, shape: tuple[int, ...]) -> Any:
    """`_rows` by hand on every device; `shape` is that of queries [N K G S E]."""
    count, held, _, length, _ = shape
    rows, sequence = over(count, BATCH) or None, over(length, "sequence") or None
    heads = over(held, "tensor") or None
    own = PartitionSpec(rows, heads, None, sequence, None)
    keys = PartitionSpec(rows, heads, sequence, None)
    mesh = jax.sharding.get_abstract_mesh()
    masks = attend.manual_sharding_spec(
        NamedSharding(mesh, PartitionSpec(None, sequence))
    )
    ids = PartitionSpec(rows, sequence), PartitionSpec(rows, None)

    def one(attend, query, key, value, segments, all_of):
        if sequence:
            whole = partial(
                jax.lax.all_gather, axis_name="sequence", axis=2, tiled=True
            )
            key, value = whole(key), whole(value)
        return _rows(attend, query, key, value, segments, all_of)

    # the kernel does not say what of it varies over the mesh
    return jax.shard_map(
        one, in_specs=(masks, own, keys, keys, *ids), out_specs=own, check_vma=False
    )
