"""What every part of the library asks of a language model: four pure functions.

Letters in shapes: N rows, S tokens, D hidden, V vocabulary, C cache slots. A mask is
True at real tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = Any
Pool = Callable[[Array], Array]


@partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["axis"])
@dataclass(frozen=True)
class Columns:
    """An array [layers N ...] of a cache, and which of its axes is the columns C."""

    array: Array
    axis: int


class Cache(NamedTuple):
    """Decoding state with C columns, one of them written per step.

    `stacked` holds arrays [layers N ...] as `Columns`, `rows` has leaves [N] or [N C];
    both are pytrees that belong to the policy. `slot` counts the columns written, a
    scalar: the next is slot % C, the same for all rows, so a row's text may go round
    the end. A column is overwritten after C steps: C is at least prompt plus response.

    With `prompt`, of which each row serves N / P rows in a row (`share_cache`), the
    columns of `stacked` are those after the prompt's; `rows` know of both, prompt
    first.
    """

    stacked: Any
    rows: Any
    slot: Array
    prompt: Any = None


def repeat_cache(cache: Cache, group: int) -> Cache:
    """Each of N rows `group` times in a row: the cache of N * group responses."""
    return Cache(
        jax.tree.map(lambda x: jnp.repeat(x, group, axis=1), cache.stacked),
        jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), cache.rows),
        cache.slot,
    )


def share_cache(cache: Cache, group: int, columns: int) -> Cache:
    """A cache of `group` rows for each of P that were read, and `columns` to write.

    Every column of `cache` holds a prompt's, as after a prefill without room. They are
    kept once for the group; only what `rows` holds is repeated, 0 where nothing is
    written yet.
    """

    def empty(held: Columns) -> Columns:
        shape = list(held.array.shape)
        shape[1], shape[held.axis] = shape[1] * group, columns
        return Columns(jnp.zeros(shape, held.array.dtype), held.axis)

    def wider(x: Array) -> Array:
        x = jnp.repeat(x, group, axis=0)
        return jnp.pad(x, ((0, 0), (0, columns))) if x.ndim > 1 else x

    rows = jax.tree.map(wider, cache.rows)
    if not jax.tree.leaves(cache.stacked):
        return Cache(cache.stacked, rows, cache.slot)
    stacked = jax.tree.map(empty, cache.stacked, is_leaf=_is_columns)
    return Cache(stacked, rows, jnp.zeros_like(cache.slot), cache.stacked)


def _is_columns(x: Any) -> bool:
    return isinstance(x, Columns)


def insert_cache(cache: Cache, fresh: Cache, rows: Array) -> Cache:
    """`cache` with rows [n] replaced by the n rows of `fresh`, of as many columns.

    The columns of `fresh` are turned so that its last one written stands before the
    next of `cache`. A row index outside [0, N) is left out.
    """

    def turned(x: Array, axis: int) -> Array:
        return jnp.roll(x, cache.slot - fresh.slot, axis) if axis < x.ndim else x

    def layers(held: Columns, new: Columns) -> Columns:
        array = held.array.at[:, rows].set(turned(new.array, new.axis), mode="drop")
        return Columns(array, held.axis)

    def each(held: Array, new: Array) -> Array:
        return held.at[rows].set(turned(new, 1), mode="drop")

    return Cache(
        jax.tree.map(layers, cache.stacked, fresh.stacked, is_leaf=_is_columns),
        jax.tree.map(each, cache.rows, fresh.rows),
        cache.slot,
    )


@dataclass(frozen=True)
class Policy:
    """A language model as pure functions of its parameters.

    hidden(params, tokens [N S], segments [N S]) -> [N S D], causal, blind to masked
        tokens. segments: a mask of one text per row, or the id of each token's text,
        0 for padding; texts are contiguous and do not see each other.
    head(params, hidden [... D]) -> logits [... V], float32 or wider.
    prefill(params, tokens [N S], mask [N S], cache_length) -> (logits [N V], Cache):
        next-token logits after the last column, so prompts are left-padded.
    decode(params, cache, token [N]) -> (logits [N V], Cache): appends one real token.
        Rows may have been put in by `insert_cache`.
    reads(params) -> what `head` needs of the parameters, and takes in their place: on a
        mesh it is gathered, once for all that is read. None: all of them.
    states(params, tokens [N S], mask [N S], pool) -> [layers + 1 ...]: pool(x) of the
        stream x [N S D] at every layer, as transformers numbers them: the embeddings,
        the stream after each block, the last one after the final norm. None: the model
        has no layers to look at.
    """

    hidden: Callable[[Params, Array, Array], Array]
    head: Callable[[Params, Array], Array]
    prefill: Callable[[Params, Array, Array, int], tuple[Array, Cache]]
    decode: Callable[[Params, Cache, Array], tuple[Array, Cache]]
    reads: Callable[[Params], Params] | None = None
    states: Callable[[Params, Array, Array, Pool], Array] | None = None

    def reader(self, params: Params) -> Callable[[Array], Array]:
        """`head` as a function of hidden states; a pytree where `reads` is known."""
        if self.reads is None:
            return partial(self.head, params)
        return jax.tree_util.Partial(self.head, self.reads(params))

    def logits(self, params: Params, tokens: Array, mask: Array) -> Array:
        """Next-token logits [N S V] at every position of `tokens` [N S]."""
        return self.head(params, self.hidden(params, tokens, mask))


def function_policy(fn: Callable[[Params, Array, Array], Array]) -> Policy:
    """Any model as a Policy: fn(params, tokens [N S], mask [N S]) -> logits [N S V].

    `fn` must be pure, causal, and blind to tokens whose mask is False (the mask is
    boolean). Sampling calls it once per token on the whole fixed-length row: right for
    small models and for tests; write the four functions of `Policy` to decode with a
    cache. Build the policy once: jit compiles again for every policy it is given.
    """

    def hidden(params: Params, tokens: Array, mask: Array) -> Array:
        if mask.dtype != jnp.bool_:
            raise ValueError(
                "function_policy: packed rows need a model that knows texts apart; "
                "write the four functions of Policy, or do not pack"
            )
        return widen(fn(params, jnp.where(mask, tokens, 0), mask))

    def head(params: Params, hidden: Array) -> Array:
        return hidden

    def prefill(params: Params, tokens: Array, mask: Array, cache_length: int):
        width = (0, 0), (0, room(tokens, cache_length))
        logits = hidden(params, tokens, mask.astype(bool))[:, -1]
        rows = {
            "tokens": jnp.pad(tokens, width),
            "mask": jnp.pad(mask.astype(bool), width),
        }
        return logits, Cache((), rows, jnp.asarray(tokens.shape[1]))

    def decode(params: Params, cache: Cache, token: Array) -> tuple[Array, Cache]:
        column = cache.slot % cache.rows["mask"].shape[1]
        tokens = cache.rows["tokens"].at[:, column].set(token)
        mask = cache.rows["mask"].at[:, column].set(True)
        # the oldest column first, so that the function reads texts in their order
        order = tokens, mask
        turned = (jnp.roll(x, -(column + 1), axis=1) for x in order)
        logits = hidden(params, *turned)[:, -1]
        return logits, Cache((), {"tokens": tokens, "mask": mask}, cache.slot + 1)

    return Policy(hidden, head, prefill, decode, lambda params: None)


def widen(x: Array) -> Array:
    """x in its own dtype, or float32 if that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def room(tokens: Array, cache_length: int) -> int:
    """Slots left after the prompt; raises ValueError if the prompt does not fit."""
    extra = cache_length - tokens.shape[1]
    if extra < 0:
        raise ValueError(
            f"prefill: cache_length {cache_length} is shorter than the prompt "
            f"({tokens.shape[1]} tokens); give prompt plus response length"
        )
    return extra
