"""The decoder-only transformer of a `ModelConfig`, and its Policy.

Layers are stacked on the first axis of every block parameter and scanned. Letters in
shapes: N rows, S tokens, D hidden, V vocabulary, C cache columns, K key-value heads,
E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from unipost.adapters import attach
from unipost.mesh import free_axes
from unipost.model.attention import (
    ATTENTION,
    Rule,
    beside_queries,
    choose,
    padding,
    recall,
)
from unipost.model.block import layer
from unipost.model.cache import (
    cache_columns,
    columns_of,
    spread_columns,
    widened,
    write_column,
)
from unipost.model.config import ModelConfig
from unipost.model.ends import embed, logits, table_of
from unipost.model.gather import GATHERED, TOKEN, cast_products
from unipost.model.layers import rms_norm, rotary
from unipost.policy import Array, Cache, Params, Policy, Pool, room

KEEP = jax.checkpoint_policies
# What the backward pass finds stored of each layer, beside its input.
REMAT: dict[str, Any] = {
    "full": KEEP.nothing_saveable,
    "dots": KEEP.dots_with_no_batch_dims_saveable,
    "all_dots": KEEP.dots_saveable,
    "none": None,
}


@dataclass(frozen=True)
class Compute:
    """How a model is computed; none of it changes what is computed.

    dtype      of products: float32 (wider where the parameters are), or bfloat16 with
               float32 norms, softmax, logits and parameters
    remat      what a layer recomputes in the backward pass: full (all but its input),
               dots (all but products with weights), all_dots, none (nothing)
    attention  auto, einsum, blocks, xla, cudnn, splash (`unipost.model.attention`)
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["full", "dots", "all_dots", "none"] = "full"
    attention: Literal["auto", "einsum", "blocks", "xla", "cudnn", "splash"] = "auto"

    def __post_init__(self):
        for name, choices in (
            ("dtype", ("float32", "bfloat16")),
            ("remat", tuple(REMAT)),
            ("attention", ("auto", *ATTENTION)),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"compute.{name}: {value!r}; write one of {', '.join(choices)}"
                )


class Kinds:
    """The distinct windows and rotations of a model's layers, and each layer's own.

    Layers of several kinds go through one scan: a layer picks its rule by index.
    """

    def __init__(self, config: ModelConfig):
        self.windows = sorted(set(config.windows), key=lambda w: (w is None, w or 0))
        self.rotations = sorted(set(config.rotations))
        self.index = {
            "window": jnp.array([self.windows.index(w) for w in config.windows]),
            "rotation": jnp.array([self.rotations.index(r) for r in config.rotations]),
        }


def _pick(options: list[Any], index: Array, *operands: Array) -> Any:
    """options[index](*operands), without a branch where there is one option."""
    if len(options) == 1:
        return options[0](*operands)
    return jax.lax.switch(index, options, *operands)


def positions_of(segments: Array) -> Array:
    """Positions [N S] counted inside each text: of a mask, along its True tokens."""
    if segments.dtype == jnp.bool_:
        return jnp.maximum(jnp.cumsum(segments, 1) - 1, 0)
    column = jnp.arange(segments.shape[1])
    new = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return column - jax.lax.cummax(jnp.where(new, column, 0), axis=1)


@dataclass(frozen=True)
class Transformer:
    """A config and how it is computed: the functions of a Policy, as methods."""

    config: ModelConfig
    compute: Compute

    def dtype(self, params: Params) -> Any:
        """The dtype of products."""
        if self.compute.dtype == "bfloat16":
            return jnp.dtype(jnp.bfloat16)
        return jnp.promote_types(params["embedding"].dtype, jnp.float32)

    def check_length(self, length: int) -> None:
        """Raises ValueError for texts longer than the model's positions."""
        limit = self.config.max_position_embeddings
        if length > limit:
            raise ValueError(
                f"model: {length} positions exceed max_position_embeddings ({limit}); "
                "write a smaller prompt_length or response length"
            )

    def rule(self, window: int | None, aligned: bool = False) -> Rule:
        """The attention of a layer with this window."""
        config = self.config
        scale = config.attention_scale or config.head_dim**-0.5
        return Rule(scale, window, config.attention_softcap, aligned)

    def turns(self, kinds: Kinds, positions: Array, dtype: Any) -> Array:
        """Angles [rotations 2 N S 1 E/2] of every kind of rotation."""
        config = self.config
        return jnp.stack(
            [rotary(config, kind, positions, dtype) for kind in kinds.rotations]
        )

    def run(
        self,
        params: Params,
        tokens: Array,
        segments: Array,
        aligned: bool = False,
        watch: Pool | None = None,
    ) -> tuple[Array, Any]:
        """Final hidden states [N S D], and keys and values [layers N S K E].

        aligned: every row holds one text, which starts at column 0.
        watch: in place of keys and values, watch(x) of the stream after every block.
        """
        config, kinds = self.config, Kinds(self.config)
        params, dtype = attach(params), self.dtype(attach(params))
        if segments.dtype == jnp.bool_:  # a packed row may be longer than its texts
            self.check_length(tokens.shape[1])
        length = tokens.shape[1]
        fill = padding(self.compute.attention, length, config.head_dim)
        if fill:
            tokens, segments = (
                jnp.pad(x, ((0, 0), (0, fill))) for x in (tokens, segments)
            )
        positions, ids = positions_of(segments), segments.astype(jnp.int32)
        x = embed(config, params, jnp.where(ids > 0, tokens, 0), dtype)
        turns = self.turns(kinds, positions, dtype)

        def mixed(window: int | None, query: Array, key: Array, value: Array) -> Array:
            rule = self.rule(window, aligned)
            attend = choose(self.compute.attention, query, rule)
            return attend(query, *beside_queries(query, key, value), ids, rule)

        def body(x: Array, inputs: tuple[Params, dict[str, Array]]):
            block, kind = inputs

            def attend(query: Array, key: Array, value: Array):
                options = [partial(mixed, window) for window in kinds.windows]
                out = _pick(options, kind["window"], query, key, value)
                return out, (key, value)

            x, held = layer(config, block, x, turns[kind["rotation"]], attend)
            return x, held if watch is None else watch(x[:, :length])

        kept = REMAT[self.compute.remat]
        if kept is None and free_axes():
            kept = KEEP.save_anything_except_these_names(GATHERED)
        if kept is not None:
            body = jax.checkpoint(body, prevent_cse=False, policy=kept)
        x, stacked = jax.lax.scan(body, x, (params["blocks"], kinds.index))
        x = rms_norm(params["norm"], x, config)
        if fill and watch is None:
            stacked = tuple(part[:, :, :length] for part in stacked)
        return x[:, :length] if fill else x, stacked

    def states(self, params: Params, tokens: Array, mask: Array, pool: Pool) -> Array:
        """`Policy.states`."""
        held = attach(params)
        first = embed(self.config, held, jnp.where(mask, tokens, 0), self.dtype(held))
        last, after = self.run(params, tokens, mask, watch=pool)
        return jnp.concatenate([pool(first)[None], after[:-1], pool(last)[None]])

    def step(self, params: Params, cache: Cache, token: Array) -> tuple[Array, Cache]:
        """Final hidden states [N D] after one more token per row, and the new cache."""
        config, kinds = self.config, Kinds(self.config)
        params, dtype = attach(params), self.dtype(attach(params))
        seen, now = cache.rows["place"], cache.rows["length"]
        self.check_length(seen.shape[1])
        shared = cache.prompt or ()
        first = columns_of(shared)
        column = cache.slot % (seen.shape[1] - first)
        mine = jnp.arange(seen.shape[1]) == first + column
        seen = jnp.where(mine, now[:, None] + 1, seen)
        turns = self.turns(kinds, now[:, None], dtype)
        x = embed(config, params, token[:, None], dtype)

        def mixed(window: int | None, query: Array, *held: Array) -> Array:
            allowed = seen > 0
            if window is not None:
                allowed &= now[:, None] + 1 - seen < window
            parts = list(zip(held[::2], held[1::2], strict=True))
            return recall(query, parts, allowed, self.rule(window))

        # The cache is carried, not scanned over, so that XLA updates it in place.
        def body(carry, inputs):
            x, keys, values = carry
            block, kind, index = inputs

            def attend(query: Array, key: Array, value: Array):
                new = cache_columns(key[None], value[None])
                whole = (
                    write_column(keys, new[0], index, column),
                    write_column(values, new[1], index, column),
                )
                options = [partial(mixed, window) for window in kinds.windows]
                held = (x.array[index] for x in (*shared, *whole))
                return _pick(options, kind["window"], query, *held), whole

            turn = turns[kind["rotation"]]
            x, whole = layer(config, block, x, turn, attend, TOKEN)
            return (x, *spread_columns(*whole)), None

        indices = jnp.arange(config.num_hidden_layers)
        # All layers at once, so that a loop over tokens does it once before it starts.
        inputs = cast_products(params["blocks"], dtype), kinds.index, indices
        (x, *stacked), _ = jax.lax.scan(body, (x, *cache.stacked), inputs)
        x = rms_norm(params["norm"], x, config)[:, 0]
        rows = {"place": seen, "length": now + 1}
        return x, Cache(tuple(stacked), rows, cache.slot + 1, cache.prompt)

    def hidden(self, params: Params, tokens: Array, segments: Array) -> Array:
        """`Policy.hidden`."""
        heads = *tokens.shape, self.config.num_attention_heads, self.config.head_dim
        query = jax.ShapeDtypeStruct(heads, self.dtype(attach(params)))
        flash = choose(self.compute.attention, query, self.rule(None))
        if flash is ATTENTION["cudnn"] and segments.dtype == jnp.bool_:
            return self.aligned_hidden(params, tokens, segments)
        return self.run(params, tokens, segments)[0]

    def aligned_hidden(self, params: Params, tokens: Array, mask: Array) -> Array:
        """`hidden` of rows turned so that each text starts at column 0, turned back.

        A flash kernel then needs lengths only, not a mask of S x S.
        """
        column, first = jnp.arange(mask.shape[1]), jnp.argmax(mask, 1)[:, None]
        there, back = (column + first) % len(column), (column - first) % len(column)
        turned = (jnp.take_along_axis(x, there, 1) for x in (tokens, mask))
        x = self.run(params, *turned, aligned=True)[0]
        return jnp.take_along_axis(x, back[..., None], 1)

    def head(self, params: Params, hidden: Array) -> Array:
        """`Policy.head`."""
        return logits(self.config, attach(params), hidden)

    def reads(self, params: Params) -> Params:
        """`Policy.reads`."""
        params = attach(params)
        return table_of(self.config, params, self.dtype(params))

    def prefill(
        self, params: Params, tokens: Array, mask: Array, columns: int
    ) -> tuple[Array, Cache]:
        """`Policy.prefill`."""
        extra, mask = room(tokens, columns), mask.astype(bool)
        x, stacked = self.run(params, tokens, mask)
        stacked = tuple(widened(part, extra) for part in cache_columns(*stacked))
        # 1 + position of what a column holds, 0 where it holds nothing
        place = jnp.where(mask, positions_of(mask) + 1, 0).astype(jnp.int32)
        rows = {
            "place": jnp.pad(place, ((0, 0), (0, extra))),
            "length": mask.sum(1).astype(jnp.int32),
        }
        slot = jnp.asarray(tokens.shape[1], jnp.int32)
        return self.head(params, x[:, -1]), Cache(spread_columns(*stacked), rows, slot)

    def decode(self, params: Params, cache: Cache, token: Array) -> tuple[Array, Cache]:
        """`Policy.decode`."""
        x, cache = self.step(params, cache, token)
        return self.head(params, x), cache


# Programs are compiled once per Policy object: one that was dropped compiles again.
@cache
def transformer_policy(config: ModelConfig, compute: Compute | None = None) -> Policy:
    """The transformer of `config` as a Policy over `init_params(config, seed)`.

    Parameters may also be `unipost.adapters.Adapted`. Log-probs are float32 or wider
    whatever the parameters and `compute.dtype`; float64 parameters give float64.
    """
    model = Transformer(config, Compute() if compute is None else compute)
    parts = model.hidden, model.head, model.prefill, model.decode, model.reads
    return Policy(*parts, model.states)
