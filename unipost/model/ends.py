"""The two ends of a transformer: embeddings of tokens, logits of hidden states.

Letters in shapes: N rows, S tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from unipost.mesh import BATCH, constrain
from unipost.model.config import ModelConfig
from unipost.model.gather import TOKEN, table
from unipost.model.layers import multiply, read_out
from unipost.policy import Array, Params, widen


def embed(config: ModelConfig, params: Params, tokens: Array, dtype: Any) -> Array:
    """Embeddings [N S D], NaN for ids outside [0, V)."""
    x = jnp.take(params["embedding"], tokens, axis=0).astype(dtype)
    # Every device reads its part of D for all rows of fsdp: the table stays in place.
    x = constrain(x, ("data", "expert"), "sequence", "fsdp")
    x = constrain(x, BATCH, "sequence", None)
    if config.embedding_scale == 1.0:
        return x
    # rounded to the dtype, as the models that have it were trained
    return x * jnp.asarray(config.embedding_scale, dtype)


def logits(config: ModelConfig, params: Params, hidden: Array) -> Array:
    """Logits [... V] of final hidden states [... D], float32 or wider."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    if hidden.ndim == 2:  # one token per row: the table stays
        flat = constrain(flat, *TOKEN.into[::2])
    if config.tie_word_embeddings:
        out = read_out(flat, params["embedding"], 1, params.get("half"))
    else:
        part = params["head"]
        out = read_out(flat, part["kernel"], 0, part.get("half"))
        if "a" in part:
            out = out + widen(multiply(multiply(flat, part["a"]), part["b"]))
    if config.logit_softcap is not None:
        out = config.logit_softcap * jnp.tanh(out / config.logit_softcap)
    out = constrain(out, BATCH, "tensor")
    return out.reshape(*hidden.shape[:-1], -1)


def table_of(config: ModelConfig, params: Params, dtype: Any) -> Params:
    """What `logits` reads of the parameters, on a mesh to be gathered over fsdp."""
    if config.tie_word_embeddings:
        return table({"embedding": params["embedding"]}, "embedding", dtype)
    return {"head": table(params["head"], "kernel", dtype)}
