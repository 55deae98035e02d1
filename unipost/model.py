"""A decoder-only transformer of the Llama family in Flax NNX, and its Policy.

Layers are stacked on the first axis of every block parameter and scanned. Letters in
shapes: N rows, S tokens, D hidden, V vocabulary, C cache slots, K key-value heads,
E head dimension. A mask is True at real tokens.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unipost.policy import Array, Cache, Params, Policy, room, widen
from unipost.policy import function_policy as function_policy
from unipost.policy import repeat_cache as repeat_cache

# Attention projections that have a bias, by ModelConfig.attention_bias.
BIASED: dict[str, tuple[str, ...]] = {
    "none": (),
    "qkv": ("query", "key", "value"),
    "qkvo": ("query", "key", "value", "output"),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a Llama-style transformer; the defaults are a 0.2 M parameter model.

    Names are those of a Hugging Face `LlamaConfig`. attention_bias says which attention
    projections have a bias: "none" (Llama), "qkv" (Qwen2), "qkvo" (Llama with
    `attention_bias: true`). Raises ValueError, in one line, for what does not fit.
    """

    vocab_size: int
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 512
    attention_bias: Literal["none", "qkv", "qkvo"] = "none"

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "head_dim",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"ModelConfig.{name} is {value!r}; give a positive integer"
                )
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            raise ValueError(
                f"ModelConfig.num_key_value_heads is {groups}; give a divisor of "
                f"num_attention_heads ({heads})"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"ModelConfig.head_dim is {self.head_dim}; rotary positions rotate "
                "pairs, give an even number"
            )
        for name in ("rope_theta", "rms_norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"ModelConfig.{name} is {getattr(self, name)!r}; give a number > 0"
                )
        if self.attention_bias not in BIASED:
            raise ValueError(
                f"ModelConfig.attention_bias is {self.attention_bias!r}; give one of "
                f"{', '.join(BIASED)}"
            )


def multiply(x: Array, kernel: Array) -> Array:
    """x [... in] @ kernel [in out], over flat rows.

    XLA on CPU is several times slower at the gradient of a product of more axes.
    """
    flat = x.reshape(-1, kernel.shape[0]) @ kernel
    return flat.reshape(*x.shape[:-1], -1)


class Projection(nnx.Module):
    """A matrix [in, out] without bias."""

    def __init__(self, kernel: Array):
        self.kernel = nnx.Param(kernel)

    def __call__(self, x: Array) -> Array:
        return multiply(x, self.kernel[...])


class BiasedProjection(Projection):
    """A matrix [in, out] and a bias [out], which starts at zero."""

    def __init__(self, kernel: Array):
        super().__init__(kernel)
        self.bias = nnx.Param(jnp.zeros(kernel.shape[1], kernel.dtype))

    def __call__(self, x: Array) -> Array:
        return super().__call__(x) + self.bias[...]


def draw_kernels(key: Array, *shapes: tuple[int, int]) -> list[Array]:
    """Matrices [in, out] with normal entries of variance 1/in, in float32.

    They are cut from one draw, because each draw takes XLA long to compile.
    """
    ends = np.cumsum([inputs * outputs for inputs, outputs in shapes])
    pieces = jnp.split(jax.random.normal(key, (ends[-1],), jnp.float32), ends[:-1])
    return [
        piece.reshape(shape) * shape[0] ** -0.5
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * scale, over the last axis."""

    def __init__(self, size: int, eps: float):
        self.scale = nnx.Param(jnp.ones(size, jnp.float32))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        inverse = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)
        return x * inverse * self.scale[...]


def rotary(positions: Array, size: int, theta: float, dtype: Any) -> Array:
    """Angles [N S 1 size/2] of positions [N S], as one array of [cos, sin]."""
    frequency = theta ** (-jnp.arange(size // 2, dtype=dtype) / (size // 2))
    angle = positions[..., None, None].astype(dtype) * frequency
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def rotate(x: Array, turn: Array) -> Array:
    """x [N S H E] turned by `rotary` angles; the two halves of E rotate as pairs."""
    cos, sin = turn
    left, right = jnp.split(x, 2, -1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], -1)


def attend(query: Array, key: Array, value: Array, allowed: Array) -> Array:
    """Grouped-query attention: query [N S H E], key and value [N C K E] -> [N S H*E].

    allowed [N S C] says which slots a query may read; one that may read none gets 0.
    """
    rows, length, heads, size = query.shape
    query = query.reshape(rows, length, key.shape[2], -1, size) * size**-0.5
    scores = jnp.einsum("nskge,ncke->nkgsc", query, key)
    allowed = allowed[:, None, None]
    # The lowest finite number, not -inf: softmax of a row of -inf is NaN.
    scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    weights = jnp.where(allowed, jax.nn.softmax(scores, -1), 0.0)
    mixed = jnp.einsum("nkgsc,ncke->nskge", weights, value)
    return mixed.reshape(rows, length, heads * size)


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + SwiGLU(norm(x))."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        hidden, inner = config.hidden_size, config.intermediate_size
        size = config.head_dim
        wide, narrow = (
            size * config.num_attention_heads,
            size * config.num_key_value_heads,
        )
        query, key, value, output, gate, up, down = draw_kernels(
            rngs.params(),
            (hidden, wide),
            (hidden, narrow),
            (hidden, narrow),
            (wide, hidden),
            (hidden, inner),
            (hidden, inner),
            (inner, hidden),
        )
        # 2L branches add up in the residual stream; this keeps their sum of order 1.
        branch = (2 * config.num_hidden_layers) ** -0.5
        self.attention_norm = RMSNorm(hidden, config.rms_norm_eps)
        biased = BIASED[config.attention_bias]

        def projection(name: str, kernel: Array) -> Projection:
            return (BiasedProjection if name in biased else Projection)(kernel)

        self.query, self.key = projection("query", query), projection("key", key)
        self.value = projection("value", value)
        self.output = projection("output", branch * output)
        self.mlp_norm = RMSNorm(hidden, config.rms_norm_eps)
        self.gate, self.up = Projection(gate), Projection(up)
        self.down = Projection(branch * down)
        self.head_dim = size

    def project(self, x: Array, turn: Array) -> tuple[Array, Array, Array]:
        """Rotated queries [N S H E], rotated keys and values [N S K E]."""
        x = self.attention_norm(x)
        query, key, value = (
            part(x).reshape(*x.shape[:2], -1, self.head_dim)
            for part in (self.query, self.key, self.value)
        )
        return rotate(query, turn), rotate(key, turn), value

    def finish(self, x: Array, mixed: Array) -> Array:
        """Adds the attention output and then the SwiGLU branch to the stream x."""
        x = x + self.output(mixed)
        normed = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(normed)) * self.up(normed))


class Transformer(nnx.Module):
    """Embedding, `num_hidden_layers` blocks stacked on axis 0, norm, and head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        shape = config.vocab_size, config.hidden_size
        count = 1 if config.tie_word_embeddings else 2
        # Small, so that a new policy is close to uniform over the vocabulary.
        tables = 0.02 * jax.random.normal(rngs.params(), (count, *shape), jnp.float32)
        self.embedding = nnx.Param(tables[0])
        self.blocks = stack(rngs)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.head = Projection(tables[1].T)
        self.config = config

    def embed(
        self, tokens: Array, positions: Array, length: int
    ) -> tuple[Array, Array]:
        """Embeddings [N S D], NaN for ids outside [0, V), and rotary angles."""
        limit = self.config.max_position_embeddings
        if length > limit:
            raise ValueError(
                f"model: {length} positions exceed max_position_embeddings ({limit}); "
                "shorten prompt or response, or raise it in ModelConfig"
            )
        x = jnp.take(self.embedding[...], tokens, axis=0)
        config = self.config
        return x, rotary(positions, config.head_dim, config.rope_theta, x.dtype)

    def logits(self, hidden: Array) -> Array:
        """Logits [... V] of final hidden states [... D]."""
        if self.config.tie_word_embeddings:
            return multiply(hidden, self.embedding[...].T)
        return self.head(hidden)

    def run(self, tokens: Array, mask: Array) -> tuple[Array, tuple[Array, Array]]:
        """Final hidden states [N S D], and keys and values [layers N S K E]."""
        mask = mask.astype(bool)
        positions = jnp.maximum(jnp.cumsum(mask, 1) - 1, 0)
        x, turn = self.embed(jnp.where(mask, tokens, 0), positions, tokens.shape[1])
        causal = jnp.tri(tokens.shape[1], dtype=bool)
        allowed = causal & mask[:, None, :]
        block_def, blocks = nnx.split(self.blocks)

        # Recomputed in the backward pass: a quarter of the memory, and faster too.
        @partial(jax.checkpoint, prevent_cse=False)
        def layer(x: Array, state: nnx.State) -> tuple[Array, tuple[Array, Array]]:
            block = nnx.merge(block_def, state)
            query, key, value = block.project(x, turn)
            return block.finish(x, attend(query, key, value, allowed)), (key, value)

        x, stacked = jax.lax.scan(layer, x, blocks)
        return self.norm(x), stacked

    def step(self, cache: Cache, token: Array) -> tuple[Array, Cache]:
        """Final hidden states [N D] after one more token per row, and the new cache."""
        rows, slot = cache.rows, cache.slot
        allowed = rows["mask"] | (jnp.arange(rows["mask"].shape[1]) == slot)
        block_def, blocks = nnx.split(self.blocks)

        # The cache is carried, not scanned over, so that XLA updates it in place.
        def layer(carry, inputs):
            x, keys, values = carry
            state, index = inputs
            block = nnx.merge(block_def, state)
            query, key, value = block.project(x, turn)
            start = index, 0, slot, 0, 0
            keys = jax.lax.dynamic_update_slice(keys, key[None], start)
            values = jax.lax.dynamic_update_slice(values, value[None], start)
            mixed = attend(query, keys[index], values[index], allowed[:, None])
            return (block.finish(x, mixed), keys, values), None

        positions = rows["length"][:, None]
        x, turn = self.embed(token[:, None], positions, allowed.shape[1])
        indices = jnp.arange(self.config.num_hidden_layers)
        (x, *stacked), _ = jax.lax.scan(layer, (x, *cache.stacked), (blocks, indices))
        rows = {"mask": allowed, "length": rows["length"] + 1}
        return self.norm(x)[:, 0], Cache(tuple(stacked), rows, slot + 1)


def init_params(config: ModelConfig, seed: int) -> dict[str, Any]:
    """Random parameters: nested dict of float32 arrays, those of blocks [layers, ...].

    Entries are normal: variance 1/inputs in blocks, and 1/(2 layers) of that where a
    matrix writes to the residual stream; standard deviation 0.02 in embedding and head.
    Biases are 0, scales of norms 1.
    """
    return draw_params(config, jax.random.key(seed))


@partial(jax.jit, static_argnums=0)
def draw_params(config: ModelConfig, key: Array) -> dict[str, Any]:
    """`init_params`, compiled: op by op it takes seconds."""
    model = Transformer(config, nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])


@lru_cache(maxsize=32)
def transformer_policy(config: ModelConfig) -> Policy:
    """The transformer of `config` as a Policy over `init_params(config, seed)`.

    Numbers follow the parameters' dtype, but never below float32: bfloat16 parameters
    are computed with in float32, float64 parameters give float64 logits.
    """
    shape = nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0)))
    graph, _ = nnx.split(shape, nnx.Param)

    def model(params: Params) -> Transformer:
        return nnx.merge(graph, jax.tree.map(widen, params))

    def hidden(params: Params, tokens: Array, mask: Array) -> Array:
        return model(params).run(tokens, mask)[0]

    def head(params: Params, hidden: Array) -> Array:
        return model(params).logits(hidden)

    def prefill(params: Params, tokens: Array, mask: Array, cache_length: int):
        extra = room(tokens, cache_length)
        transformer, mask = model(params), mask.astype(bool)
        x, stacked = transformer.run(tokens, mask)
        slots = (0, 0), (0, 0), (0, extra), (0, 0), (0, 0)
        rows = {"mask": jnp.pad(mask, ((0, 0), (0, extra))), "length": mask.sum(1)}
        stacked = tuple(jnp.pad(part, slots) for part in stacked)
        return transformer.logits(x[:, -1]), Cache(
            stacked, rows, jnp.asarray(tokens.shape[1])
        )

    def decode(params: Params, cache: Cache, token: Array) -> tuple[Array, Cache]:
        transformer = model(params)
        x, cache = transformer.step(cache, token)
        return transformer.logits(x), cache

    return Policy(hidden, head, prefill, decode)
