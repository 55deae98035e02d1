"""Per-token numbers of softmax(logits), in chunks of columns that bound the memory.

Letters: N rows, T columns, D hidden size, V vocabulary. With z the logits of one
position, y its token and p = softmax(z):

    lse = log sum_v exp z_v     logps = z_y - lse     entropy H = -sum_v p_v log p_v
    collision C = log sum_v p_v^2

    d lse = sum_v p_v dz_v                   d logps = dz_y - d lse
    d H = -sum_v p_v (log p_v + H) dz_v      d C = 2 sum_v (p_v^2 / e^C - p_v) dz_v
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from unipost.mesh import (
    BATCH,
    bare,
    free_axes,
    over,
    shards,
    specs_by_hand,
    whole,
    whole_by_hand,
)
from unipost.policy import Array, widen

Head = Callable[[Array], Array]
EXTRAS = ("entropy", "lse", "vocab", "collision")
LOGITS_BYTES = 2**29
"""Most logits of one chunk on one device, 512 MiB: 882 tokens of a 152k vocabulary.

Twice that is not cut: a loop computes them again, at up to a sixth of the time."""
CHUNK_TOKENS, CHUNK_BYTES = 2048, 2**27
"""A chunk of so many tokens, or bytes if that is more, is efficient: 2048 at 16k."""

# Kept for the backward pass, [N T] each; all that is [N T V] is computed again.
SAVED = "moments"
checkpoint = partial(
    jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(SAVED)
)


class Scores(NamedTuple):
    """What scoring returns; every field is 0 at masked response positions.

    logps [N T]: log pi(y_t | x, y_<t).
    entropy [N T]: -sum_v pi(v) log pi(v), in nats, at the same positions.
    lse [N T]: log sum_v exp(logit_v), the normaliser.
    vocab [N T V]: log pi(v) for the whole vocabulary.
    collision [N T]: log sum_v pi(v)^2, <= 0.
    """

    logps: Array
    entropy: Array | None = None
    lse: Array | None = None
    vocab: Array | None = None
    collision: Array | None = None


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def moments(
    names: tuple[str, ...], logits: Array, targets: Array, mask: Array
) -> dict[str, Array]:
    """`names` out of logps, lse, entropy, collision: logits [... V], targets [...].

    A logit of -inf has probability 0 and slope 0. Where `mask` is False, slopes are 0
    whatever the logits. Derivatives of any mode and order read the logits and numbers
    of shape [...], nothing else of the size of the logits.
    """
    top = jnp.max(logits, -1)
    below = logits - top[..., None]
    total = jnp.sum(jnp.exp(below), -1)
    found = {"lse": top + jnp.log(total)}
    if "logps" in names:
        found["logps"] = _chosen(logits, targets) - found["lse"]
    # Sums of e^(z - max): no large logit is subtracted from another, which costs digits
    if "entropy" in names:
        depth = jnp.where(below > -jnp.inf, -below, 0.0)
        mean_depth = jnp.sum(jnp.exp(below) * depth, -1) / total
        found["entropy"] = jnp.log(total) + mean_depth
    if "collision" in names:
        squares = jnp.sum(jnp.exp(2.0 * below), -1)
        found["collision"] = jnp.log(squares) - 2.0 * jnp.log(total)
    return {name: found[name] for name in names}


def _chosen(logits: Array, targets: Array) -> Array:
    """The logits [...] of targets [...], out of [... V]."""
    if shards("tensor") == 1:
        return jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    # a vocabulary that is spread over devices would be gathered to be indexed
    tokens = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return jnp.sum(jnp.where(tokens == targets[..., None], logits, 0.0), -1)


@moments.defjvp
def _moments_jvp(names: tuple[str, ...], primals, tangents):
    logits, targets, mask = primals
    found = moments((*names, "lse"), logits, targets, mask)
    found = {k: checkpoint_name(x, SAVED) for k, x in found.items()}
    log_p = logits - found["lse"][..., None]
    p = jnp.exp(log_p)

    def slope(name: str) -> Array:
        if name == "lse":
            return p
        if name == "logps":
            tokens = jax.lax.broadcasted_iota(targets.dtype, p.shape, p.ndim - 1)
            return (tokens == targets[..., None]) - p
        value = found[name][..., None]
        if name == "entropy":
            return -p * (jnp.where(log_p > -jnp.inf, log_p, 0.0) + value)
        return 2.0 * p * (p * jnp.exp(-value) - 1.0)

    def change(name: str) -> Array:
        kept = jnp.where(mask[..., None], slope(name), 0.0)
        return jnp.sum(kept * tangents[0], -1)

    return {name: found[name] for name in names}, {name: change(name) for name in names}


def read(logits: Array, targets: Array, mask: Array, extras: Collection[str]) -> Scores:
    """Scores of `targets` [N T] under logits [N T V], 0 where `mask` is False.

    Logits below float32 are widened. Masked positions pass no gradient, whatever their
    logits and targets hold.
    """
    logits, targets = widen(logits), jnp.where(mask, targets, 0)
    # in one order, whatever that of `extras`: the same program
    names = ("logps", *(x for x in EXTRAS if x in extras and x != "vocab"))
    needed = (*names, "lse") if "vocab" in extras else names
    found = moments(needed, logits, targets, mask)
    fields = {name: jnp.where(mask, found[name], 0.0) for name in names}
    if "vocab" in extras:
        log_p = logits - found["lse"][..., None]
        fields["vocab"] = jnp.where(mask[..., None], log_p, 0.0)
    return Scores(**fields)


def chunk_columns(
    rows: int, columns: int, hidden: int, vocab: int, itemsize: int, devices: int = 1
) -> int:
    """How many of `columns` to form logits for at once, on `devices` together.

    All of them where the logits are at most 2 LOGITS_BYTES per device. Else a chunk
    holds CHUNK_TOKENS per device or CHUNK_BYTES of logits, whichever is more, within
    LOGITS_BYTES, and at least one column. Chunks save the logits and their gradient,
    2 (tokens - chunk) V numbers per device; the loop holds the head's gradient, D V
    numbers, and a gathered head in half precision. Where that is more, no loop either.
    """
    token, own = vocab * itemsize, rows / devices
    tokens = min(LOGITS_BYTES / token, max(CHUNK_BYTES / token, CHUNK_TOKENS))
    chunk = max(1, int(tokens / own))
    small = own * columns * token <= 2 * LOGITS_BYTES
    if small or 2 * (columns - chunk) * own <= 1.5 * hidden:
        return columns
    # equal pieces: a short last one would be filled up
    pieces = -(-columns // chunk)
    return -(-columns // pieces)


def default_chunk(head: Head, hidden: Array, extras: Collection[str]) -> int:
    """`chunk_columns` of hidden states [N T D] on the devices of the mesh that is set.

    Where columns are spread, those of one device. With "vocab" the logits are a result:
    chunks could save nothing.
    """
    rows, columns, size = hidden.shape
    if "vocab" in extras:
        return columns
    logits = jax.eval_shape(bare(head), hidden)
    vocab, apart = logits.shape[-1], shards(BATCH)
    vocab //= shards("tensor") if vocab % shards("tensor") == 0 else 1
    apart = apart if rows % apart == 0 else 1
    columns = -(-columns // shards("sequence"))
    return chunk_columns(rows, columns, size, vocab, logits.dtype.itemsize, apart)


def scores_of(
    head: Head,
    hidden: Array,
    targets: Array,
    mask: Array,
    extras: Collection[str],
    chunk: int | None = None,
) -> Scores:
    """Scores [N T] of `targets` [N T] from hidden states [N T D] and their head.

    `head` maps hidden states [... D] to logits [... V], and may close over parameters:
    the loop carries the gradients of those that it uses, where they are asked for. A
    `jax.tree_util.Partial` holds them itself (`Policy.reader`): on a mesh every device
    then reads its own rows by itself.
    `chunk` columns of a device go through the head at once, and again in the backward
    pass; None chooses (`default_chunk`). The chunks are of columns, so that rows on
    several devices stay where they are, and of all rows: a batch of so many rows that
    one column is too large has to be cut into microbatches.
    """
    chunk = default_chunk(head, hidden, extras) if chunk is None else chunk
    parts = shards("sequence")
    cut = parts > 1 or (chunk < targets.shape[1] and free_axes())
    if isinstance(head, jax.tree_util.Partial) and cut:
        return _by_device(head, hidden, targets, mask, extras, chunk)
    return _scores(whole(head), hidden, targets, mask, extras, chunk)


def _by_device(
    head: Head,
    hidden: Array,
    targets: Array,
    mask: Array,
    extras: Collection[str],
    chunk: int,
) -> Scores:
    """`scores_of` on a mesh, every device by itself with its own rows and columns.

    So the gradient of the head is summed over them once, and not for each chunk.
    """
    fill = -targets.shape[1] % shards("sequence")
    arrays = [_widened(x, fill) for x in (hidden, targets, mask)]
    rows, columns = over(len(targets), BATCH), over(arrays[1].shape[1], "sequence")
    if not rows + columns:
        return _scores(whole(head), hidden, targets, mask, extras, chunk)
    own = PartitionSpec(rows or None, columns or None)
    held = specs_by_hand(head, rows + columns)

    def one(head: Head, hidden: Array, targets: Array, mask: Array) -> Scores:
        head = whole_by_hand(held, head)
        return _scores(head, hidden, targets, mask, extras, chunk)

    found = jax.shard_map(
        one,
        in_specs=(held, own, own, own),
        out_specs=own,
        axis_names={*rows, *columns},
        check_vma=False,
    )(head, *arrays)
    return jax.tree.map(lambda x: x[:, : targets.shape[1]], found)


def _scores(
    head: Head,
    hidden: Array,
    targets: Array,
    mask: Array,
    extras: Collection[str],
    chunk: int,
) -> Scores:
    """`scores_of` of the rows and columns of one device, or of all."""
    if chunk >= targets.shape[1]:
        logits = head(hidden)
        return checkpoint(partial(read, extras=tuple(extras)))(logits, targets, mask)

    # no barrier against merging with the forward pass: that is another loop
    @partial(checkpoint, prevent_cse=False)
    def piece(hidden: Array, targets: Array, mask: Array) -> Scores:
        return read(head(hidden), targets, mask, extras)

    return by_columns(piece, chunk, hidden, targets, mask)


def _widened(x: Array, fill: int) -> Array:
    """`x` [N T ...] with `fill` columns of zeros behind."""
    return jnp.pad(x, ((0, 0), (0, fill)) + ((0, 0),) * (x.ndim - 2)) if fill else x


def by_columns(function: Callable[..., Any], chunk: int, *arrays: Array) -> Any:
    """`function` of `chunk` columns (axis 1) of the arrays after the other, joined."""
    rows, columns = arrays[0].shape[:2]
    fill = -columns % chunk

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, fill)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(rows, -1, *x.shape[3:])[:, :columns]

    pieces = tuple(map(cut, arrays))
    whole = jax.lax.scan(lambda _, piece: (None, function(*piece)), None, pieces)[1]
    return jax.tree.map(join, whole)


def check_reading(where: str, extras: Collection[str], chunk: int | None) -> None:
    """Raises ValueError, in one line, for unknown extras and a chunk below 1."""
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown or isinstance(extras, str):
        raise ValueError(
            f"{where}: extras {unknown or extras!r} not understood; give a tuple out "
            f"of {', '.join(EXTRAS)}"
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"{where}: chunk is {chunk}; give a column count >= 1 or None")
