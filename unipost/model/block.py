"""One block of a transformer: attention and MLP on the stream.

Letters in shapes: N rows, S tokens, D hidden, H query heads, K key-value heads, E head
size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unipost.mesh import BATCH, constrain
from unipost.model.config import ModelConfig
from unipost.model.experts import mixture
from unipost.model.gather import TEXTS, Flow, gathered_block
from unipost.model.layers import mlp, project, rms_norm, rotate
from unipost.policy import Array, Params


def project_heads(
    config: ModelConfig, block: Params, x: Array, turn: Array
) -> tuple[Array, Array, Array]:
    """Rotated queries [N S H E], rotated keys and values [N S K E]."""

    def heads(name: str) -> Array:
        y = project(block[name], x)
        if config.qk_norm == "width" and name != "value":
            y = rms_norm(block[f"{name}_norm"], y, config)
        y = y.reshape(*x.shape[:2], -1, config.head_dim)
        if config.qk_norm == "head" and name != "value":
            y = rms_norm(block[f"{name}_norm"], y, config)
        return constrain(y, BATCH, "sequence", "tensor", None)

    size = config.rotary_dim
    turned = rotate(heads("query"), turn, size), rotate(heads("key"), turn, size)
    return *turned, heads("value")


def layer(
    config: ModelConfig,
    block: Params,
    x: Array,
    turn: Array,
    attend: Callable[[Array, Array, Array], tuple[Array, Any]],
    flow: Flow = TEXTS,
) -> tuple[Array, Any]:
    """One block on the stream x [N S D]; attend(q, k, v) -> (mixed, extra)."""

    def normed(name: str, y: Array) -> Array:
        return rms_norm(block[name], y, config) if name in block else y

    def added(name: str, y: Array) -> Array:
        y = constrain(constrain(y, *flow.into), *TEXTS.into)
        return constrain(x + normed(name, y), *TEXTS.into)

    block = gathered_block(block, x.dtype) if flow.gather else block
    y = constrain(normed("attention_norm", x), *flow.into)
    mixed, extra = attend(*project_heads(config, block, y, turn))
    mixed = constrain(mixed, *flow.inside)
    x = added("attention_post_norm", project(block["output"], mixed))
    y = normed("mlp_norm", x)
    if config.experts is not None:
        return added("mlp_post_norm", mixture(config, block, y, flow)), extra
    y = mlp(config, block, constrain(y, *flow.into), flow.inside)
    return added("mlp_post_norm", y), extra
