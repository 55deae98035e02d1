"""Causal grouped-query attention, in several implementations by name.

Letters in shapes: N rows, S tokens, H query heads, K key-value heads, E head size, C
cache columns. Every implementation computes, for query i of a text,

    sum_j softmax_j(cap(scale q_i . k_j)) v_j,  j <= i of the same text, i - j < window

with cap(x) = c tanh(x / c) where there is a softcap. `segments` [N S] names the text
that a token belongs to, 0 for padding; texts are contiguous. What padding reads is
unspecified, and finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.mesh import BATCH, constrain, platform, shards
from unipost.model.splash import LANES, grouped, splash
from unipost.policy import widen

Array = jax.Array
# Queries of one block on CPU: the triangle above the diagonal is skipped by blocks.
BLOCK = 64
# At most so many blocks, which are unrolled: a longer text has larger ones.
BLOCKS = 16


@dataclass(frozen=True)
class Rule:
    """What is static about one layer's attention: scale, window, softcap.

    aligned: every row is known to hold one text, which starts at column 0.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    aligned: bool = False


Attend = Callable[[Array, Array, Array, Array, Rule], Array]


def mix(query: Array, key: Array, value: Array, allowed: Array, rule: Rule) -> Array:
    """query [N K G S E], key and value [N K C E], allowed [N|1 S C] -> [N K G S E].

    Scores are float32 or wider. A query that may read nothing gets the mean of all.
    """
    if shards("sequence") > 1:
        return _mix_apart(query, key, value, allowed, rule)
    rows, heads, group, length, size = query.shape
    # the queries of a group are rows of one product: they read the same keys
    scores = query.reshape(rows, heads, -1, size) @ jnp.swapaxes(key, -1, -2)
    scores = scores.reshape(rows, heads, group, length, -1)
    weights = weigh(scores, allowed[:, None, None], rule).astype(value.dtype)
    mixed = weights.reshape(rows, heads, group * length, -1) @ value
    return mixed.reshape(query.shape)


def _mix_apart(query, key, value, allowed: Array, rule: Rule) -> Array:
    """`mix` of queries that are spread over devices: no axis is merged with S."""
    scores = jnp.einsum("nkgse,nkce->nkgsc", query, key)
    weights = weigh(scores, allowed[:, None, None], rule).astype(value.dtype)
    return jnp.einsum("nkgsc,nkce->nkgse", weights, value)


def flat(mixed: Array) -> Array:
    """[N K G S E] as [N S H*E]."""
    mixed = jnp.moveaxis(mixed, 3, 1)
    return mixed.reshape(*mixed.shape[:2], -1)


def weigh(scores: Array, allowed: Array, rule: Rule) -> Array:
    """Softmax over the columns [... C] of scaled and capped products q.k, float32."""
    scores = widen(scores) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * jnp.tanh(scores / rule.softcap)
    # The lowest finite number, not -inf: softmax of a row of -inf is NaN.
    return jax.nn.softmax(jnp.where(allowed, scores, jnp.finfo(scores.dtype).min), -1)


def recall(
    query: Array, held: Sequence[tuple[Array, Array]], allowed: Array, rule: Rule
) -> Array:
    """One query per row [N 1 H E] over cached columns; allowed [N C] -> [N 1 H*E].

    held: keys [P K E C] and values [P K C E] of one part of the columns after the
    other, as `unipost.model.cache` has them. A row of them serves N / P queries: the
    columns of a prompt are read once for its whole group.
    """
    rows, _, heads, size = query.shape
    query = query.reshape(rows, held[0][0].shape[1], -1, size)
    scores = [_for_groups(query, keys) for keys, _ in held]
    weights = weigh(jnp.concatenate(scores, -1), allowed[:, None, None], rule)
    ends = np.cumsum([x.shape[-1] for x in scores])[:-1]
    parts = jnp.split(weights.astype(query.dtype), ends, -1)
    mixed = [_for_groups(w, values) for w, (_, values) in zip(parts, held, strict=True)]
    return sum(mixed[1:], mixed[0]).reshape(rows, 1, heads * size)


def _for_groups(x: Array, held: Array) -> Array:
    """x [N K g A] @ held [P K A B] -> [N K g B]; rows n of x go with row n P / N."""
    rows, heads, count, inner = x.shape
    prompts = held.shape[0]
    if rows == prompts:
        return x @ held
    x = x.reshape(prompts, -1, heads, count, inner).swapaxes(1, 2)
    out = x.reshape(prompts, heads, -1, inner) @ held
    out = out.reshape(prompts, heads, -1, count, held.shape[-1]).swapaxes(1, 2)
    return out.reshape(rows, heads, count, -1)


def visible(
    segments: Array, window: int | None, start: int = 0, stop: int | None = None
) -> Array:
    """Which tokens [N Q C] the queries [start, stop) of a row may read, C < stop.

    With a window, from the first column that the first query may read.
    """
    stop = segments.shape[1] if stop is None else stop
    first = first_column(start, window)
    queries, columns = jnp.arange(start, stop)[:, None], jnp.arange(first, stop)
    near = columns <= queries
    if window is not None:
        near &= queries - columns < window
    same = segments[:, start:stop, None] == segments[:, None, first:stop]
    return near & same


def first_column(start: int, window: int | None) -> int:
    """The first column that query `start` may read."""
    return 0 if window is None else max(0, start - window + 1)


def einsum(
    query: Array, key: Array, value: Array, segments: Array, rule: Rule
) -> Array:
    """All scores at once, [N H S S]."""
    heads = grouped(query, key, value)
    return flat(mix(*heads, visible(segments, rule.window), rule))


def blocks(
    query: Array, key: Array, value: Array, segments: Array, rule: Rule
) -> Array:
    """A block of queries after the other, each over the columns that it may read.

    Half the work of `einsum` at many blocks, less with a window.
    """
    length = query.shape[1]
    size = max(BLOCK, -(-length // BLOCKS))
    query, key, value = grouped(query, key, value)
    parts = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = first_column(start, rule.window)
        allowed = visible(segments, rule.window, start, stop)
        seen = key[:, :, first:stop], value[:, :, first:stop]
        parts.append(mix(query[:, :, :, start:stop], *seen, allowed, rule))
    return flat(jnp.concatenate(parts, 3))


def xla(query: Array, key: Array, value: Array, segments: Array, rule: Rule) -> Array:
    """`jax.nn.dot_product_attention` as XLA compiles it; its softmax is float32."""
    _no_softcap("xla", rule)
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=visible(segments, rule.window)[:, None],
        scale=rule.scale,
        implementation="xla",
    )
    return mixed.reshape(*query.shape[:2], -1)


def cudnn(query: Array, key: Array, value: Array, segments: Array, rule: Rule) -> Array:
    """cuDNN's flash kernel through `jax.nn.dot_product_attention`, in 16 bits.

    Aligned rows are described by their lengths, others by a mask [N 1 S S].
    """
    _no_softcap("cudnn", rule)
    half = jnp.bfloat16, jnp.float16
    if platform() != "gpu" or query.dtype not in half:
        raise ValueError(
            f"compute.attention: cudnn computes bfloat16 on a GPU, not {query.dtype} "
            f"on {platform()}; write auto, or compute.dtype: bfloat16"
        )
    given: dict[str, Any] = {"mask": visible(segments, rule.window)[:, None]}
    if rule.aligned:
        # a text of length 0 has no softmax: let it read column 0
        lengths = jnp.maximum((segments > 0).sum(1), 1).astype(jnp.int32)
        given = dict.fromkeys(("query_seq_lengths", "key_value_seq_lengths"), lengths)
        given["is_causal"] = True
        if rule.window is not None:
            given["local_window_size"] = (rule.window - 1, 0)
    mixed = jax.nn.dot_product_attention(
        query, key, value, scale=rule.scale, implementation="cudnn", **given
    )
    return mixed.reshape(*query.shape[:2], -1)


def _no_softcap(implementation: str, rule: Rule) -> None:
    if rule.softcap is not None:
        raise ValueError(
            f"attention: {implementation} has no softcap, which this model uses; write "
            "auto, einsum, blocks or splash"
        )


ATTENTION: dict[str, Attend] = {
    "einsum": einsum,
    "blocks": blocks,
    "xla": xla,
    "cudnn": cudnn,
    "splash": splash,
}


def choose(name: str, query: Any, rule: Rule) -> Attend:
    """The implementation called `name`; "auto": what suits the platform and shapes.

    GPU: cudnn for 16-bit heads of a multiple of 8 up to 128 without softcap, else
    einsum. TPU: splash for texts and heads in multiples of 128, else einsum. CPU:
    blocks. Where tokens are spread over devices: splash on TPU, einsum elsewhere. The
    platform is the one compiled for; of `query` [N S H E] shape and dtype count.
    Raises ValueError for a name that cannot have its tokens spread.
    """
    apart = shards("sequence") > 1
    if name != "auto":
        check_sequence(name, shards("sequence"))
        return ATTENTION[name]
    size = query.shape[-1]
    if platform() == "gpu" and not apart:
        half = query.dtype in (jnp.bfloat16, jnp.float16)
        fits = half and size % 8 == 0 and size <= 128 and rule.softcap is None
        return ATTENTION["cudnn" if fits else "einsum"]
    if platform() == "tpu":
        whole = query.shape[1] % (LANES * shards("sequence")) == 0
        return ATTENTION["splash" if whole and size % LANES == 0 else "einsum"]
    return ATTENTION["einsum" if apart else "blocks"]


def padding(name: str, length: int, size: int) -> int:
    """Columns of padding that the attention called `name` wants behind texts.

    So that devices have equally many tokens each, and the TPU kernel whole blocks; with
    "auto" up to an eighth of the length. `size` is that of a head.
    """
    parts = shards("sequence")
    tiles, even = -length % (LANES * parts), -length % parts
    if name == "splash":
        return tiles
    wanted = name == "auto" and platform() == "tpu" and size % LANES == 0
    return tiles if wanted and 8 * tiles <= length else even


def check_sequence(name: str, devices: int) -> None:
    """Refuse an implementation that cannot have tokens spread. Raises ValueError."""
    if devices > 1 and name in ("blocks", "cudnn"):
        raise ValueError(
            f"compute.attention: {name} reads whole rows, and mesh.sequence {devices} "
            "spreads their tokens; write auto, einsum, xla or splash"
        )


def beside_queries(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
    """Keys and values [N S K E] on the devices of the queries that read them.

    All tokens of a row, and the heads over the axis tensor: where their number K does
    not divide, each stands several times. Without a mesh as they are.
    """
    devices, heads, held = shards("tensor"), query.shape[2], key.shape[2]
    if held % devices and heads % devices == 0:
        copies = math.lcm(held, devices) // held
        key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))
    spec = BATCH, None, "tensor", None
    return constrain(key, *spec), constrain(value, *spec)
