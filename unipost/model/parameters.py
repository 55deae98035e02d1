"""The parameters of a transformer: which arrays, of which shapes, drawn how.

A nested dict; D hidden, H query heads, K key-value heads, E head size, F inner size,
X experts, V vocabulary. Leaves under `blocks` have a first axis [layers]. Matrices
are [inputs, outputs].

    embedding [V D]                         norm.scale [D]
    head.kernel [D V]                       without tied embeddings
    blocks.attention_norm.scale [D]         and mlp_norm, with norms before or both;
    blocks.attention_post_norm.scale [D]    and mlp_post_norm, with after or both
    blocks.query.kernel [D H*E]             key, value [D K*E], output [H*E D];
    blocks.query.bias [H*E]                 where attention_bias says so
    blocks.query_norm.scale [E] or [H*E]    and key_norm, with qk_norm
    blocks.gate.kernel [D F]                up [D F], down [F D], biases with mlp_bias;
                                            [X D F] and [X F D] with experts
    blocks.router.kernel [D X]              with experts
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from unipost.model.config import BIASED, NORMS, ModelConfig

Array = jax.Array
Path = tuple[str, ...]


def block_shapes(config: ModelConfig) -> dict[Path, tuple[int, ...]]:
    """Shapes of the leaves of one block, by path, without the layer axis."""
    hidden, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
    wide, narrow = (
        size * config.num_attention_heads,
        size * config.num_key_value_heads,
    )
    kernels = {
        "query": (hidden, wide),
        "key": (hidden, narrow),
        "value": (hidden, narrow),
        "output": (wide, hidden),
        "gate": (hidden, inner),
        "up": (hidden, inner),
        "down": (inner, hidden),
    }
    biased = BIASED[config.attention_bias]
    if config.mlp_bias:
        biased = *biased, "gate", "up", "down"
    shapes: dict[Path, tuple[int, ...]] = {}
    for name, shape in kernels.items():
        several = config.experts is not None and name in ("gate", "up", "down")
        count = (config.experts.count,) if config.experts and several else ()
        shapes[name, "kernel"] = count + shape
        if name in biased:
            shapes[name, "bias"] = shape[1:]
    if config.experts is not None:
        shapes["router", "kernel"] = hidden, config.experts.count
    for name in NORMS[config.norms]:
        shapes[name, "scale"] = (hidden,)
    if config.qk_norm != "none":
        whole = config.qk_norm == "width"
        shapes["query_norm", "scale"] = (wide if whole else size,)
        shapes["key_norm", "scale"] = (narrow if whole else size,)
    return shapes


def shapes(config: ModelConfig) -> dict[Path, tuple[int, ...]]:
    """Shapes of all parameters by path: ("blocks", "query", "kernel") and so on."""
    layers = (config.num_hidden_layers,)
    found: dict[Path, tuple[int, ...]] = {
        ("embedding",): (config.vocab_size, config.hidden_size),
        ("norm", "scale"): (config.hidden_size,),
    }
    if not config.tie_word_embeddings:
        found["head", "kernel"] = config.hidden_size, config.vocab_size
    blocks = block_shapes(config).items()
    return found | {("blocks", *path): layers + shape for path, shape in blocks}


def init_params(config: ModelConfig, seed: int) -> dict[str, Any]:
    """Random parameters: nested dict of float32 arrays, those of blocks [layers, ...].

    Entries are normal: variance 1/inputs in blocks, and 1/(2 layers) of that where a
    matrix writes to the residual stream; standard deviation 0.02 in embedding and head.
    Biases are 0, scales of norms 1 (with the offset of the norms).
    """
    return draw_params(config, jax.random.key(seed))


@partial(jax.jit, static_argnums=0)
def draw_params(config: ModelConfig, key: Array) -> dict[str, Any]:
    """`init_params`, compiled: op by op it takes seconds."""
    table_key, block_key = (jax.random.fold_in(key, i) for i in range(2))
    shape = config.vocab_size, config.hidden_size
    count = 1 if config.tie_word_embeddings else 2
    # Small, so that a new policy is close to uniform over the vocabulary.
    tables = 0.02 * jax.random.normal(table_key, (count, *shape), jnp.float32)
    keys = jax.random.split(block_key, config.num_hidden_layers)
    leaves = {
        ("blocks", *path): leaf
        for path, leaf in jax.vmap(partial(draw_block, config))(keys).items()
    }
    one = 1.0 - config.norm_offset
    leaves["embedding",] = tables[0] / config.embedding_scale
    leaves["norm", "scale"] = jnp.full(config.hidden_size, one, jnp.float32)
    if not config.tie_word_embeddings:
        leaves["head", "kernel"] = tables[1].T
    return unflatten_dict(leaves)


def draw_block(config: ModelConfig, key: Array) -> dict[Path, Array]:
    """The leaves of one block, by path.

    The matrices are cut from one draw, because each draw takes XLA long to compile.
    """
    shapes = block_shapes(config)
    kernels = [path for path in shapes if path[-1] == "kernel"]
    ends = np.cumsum([prod(shapes[path]) for path in kernels])
    key = jax.random.fold_in(key, 0)
    pieces = jnp.split(jax.random.normal(key, (ends[-1],), jnp.float32), ends[:-1])
    # 2L branches add up in the residual stream; this keeps their sum of order 1.
    branch = {"output": (2 * config.num_hidden_layers) ** -0.5}
    branch["down"] = branch["output"]
    drawn = dict(zip(kernels, pieces, strict=True))

    def leaf(path: Path) -> Array:
        shape = shapes[path]
        if path in drawn:
            kernel = drawn[path].reshape(shape) * shape[-2] ** -0.5
            return branch.get(path[0], 1.0) * kernel
        value = 0.0 if path[-1] == "bias" else 1.0 - config.norm_offset
        return jnp.full(shape, value, jnp.float32)

    return {path: leaf(path) for path in shapes}
