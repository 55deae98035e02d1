"""The parts of a block as functions of their own parameters.

Letters in shapes: N rows, S tokens, D hidden, H query heads, K key-value heads, E head
size. Products run in the dtype of x, norms and rotations in float32 or
wider.
"""

from __future__ import annotations

from functools import partial
from math import pi
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.mesh import constrain, shards
from unipost.model.config import LinearRope, Llama3Rope, ModelConfig
from unipost.policy import widen

Array = jax.Array


def multiply(x: Array, kernel: Array) -> Array:
    """x [... in] @ kernel [in out], over flat rows.

    XLA on CPU is several times slower at the gradient of a product of more axes. Rows
    whose tokens are spread over a mesh cannot be flat without moving them.
    """
    if shards("sequence") > 1:
        return x @ kernel.astype(x.dtype)
    flat = x.reshape(-1, kernel.shape[0]) @ kernel.astype(x.dtype)
    return flat.reshape(*x.shape[:-1], -1)


def read_out(x: Array, table: Array, axis: int, half: Array | None = None) -> Array:
    """x [n D] times a table whose axis `axis` is D, in the dtype of x: [n V] float32.

    Wider where x is. In half precision the gradient of the result is rounded to the
    dtype of x, so that its two products run in it too, and that of the table is summed
    in the table's own dtype; reverse mode only. `half` is the table in the dtype of x
    where that is at hand: the table itself is not read then.
    """
    if x.dtype == jnp.promote_types(x.dtype, jnp.float32):
        return _dot(x, table.astype(x.dtype), 1, axis, x.dtype)
    return _half_read_out(x, table, half, axis)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _half_read_out(x: Array, table: Array, half: Array | None, axis: int) -> Array:
    read = table.astype(x.dtype) if half is None else half
    return _dot(x, read, 1, axis, jnp.float32)


def _half_read_out_forward(x: Array, table: Array, half: Array | None, axis: int):
    return _half_read_out(x, table, half, axis), (x, table, half)


def _half_read_out_backward(axis: int, kept: tuple[Array, ...], change: Array):
    x, table, half = kept
    change = change.astype(x.dtype)
    pair = (change, x) if axis == 1 else (x, change)
    slope = _dot(*pair, 0, 0, jnp.float32).astype(table.dtype)
    read = table.astype(x.dtype) if half is None else half
    return _dot(change, read, 1, 1 - axis, x.dtype), slope, None


_half_read_out.defvjp(_half_read_out_forward, _half_read_out_backward)


def _dot(left: Array, right: Array, i: int, j: int, dtype: Any) -> Array:
    """Product of two matrices over axis i of the left and j of the right."""
    return jax.lax.dot_general(
        left, right, (((i,), (j,)), ((), ())), preferred_element_type=dtype
    )


def project(part: dict[str, Array], x: Array) -> Array:
    """x W + b + (x A) B, the bias and the low-rank term where `part` has them.

    `a` [in r] carries the adapter's scale (`unipost.adapters.attach`).
    """
    y = multiply(x, part["kernel"])
    if "bias" in part:
        y = y + part["bias"].astype(x.dtype)
    if "a" in part:
        y = y + multiply(multiply(x, part["a"]), part["b"])
    return y


def rms_norm(part: dict[str, Array], x: Array, config: ModelConfig) -> Array:
    """x / sqrt(mean(x^2) + eps) * (scale + norm_offset), over the last axis."""
    wide = widen(x)
    mean = jnp.mean(wide * wide, -1, keepdims=True)
    inverse = jax.lax.rsqrt(mean + config.rms_norm_eps)
    scale = widen(part["scale"])
    if config.norm_offset:
        scale = scale + config.norm_offset
    return (wide * inverse * scale).astype(x.dtype)


def frequencies(config: ModelConfig, kind: str) -> np.ndarray:
    """Angle per position of each rotated pair, float64 [pairs]; kind: global, local.

    theta^(-2i / rotary_dim), then scaled by `rope_scaling` where the layer is global.
    """
    size = config.rotary_dim or config.head_dim
    local = kind == "local" and config.local_rope_theta is not None
    theta = config.local_rope_theta if local else config.rope_theta
    plain = float(theta or 0.0) ** (-np.arange(0, size, 2) / size)
    scaling = None if kind == "local" else config.rope_scaling
    if isinstance(scaling, LinearRope):
        return plain / scaling.factor
    if isinstance(scaling, Llama3Rope):
        turns = scaling.original_max_position_embeddings * plain / (2 * pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        mix = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return plain * (mix + (1.0 - mix) / scaling.factor)
    return plain


def rotary(config: ModelConfig, kind: str, positions: Array, dtype: Any) -> Array:
    """Angles of positions [N S] as one array [2, N S 1 E/2] of cosines and sines.

    kind: global, local, none. Pairs that do not rotate have angle 0.
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    pairs = config.head_dim // 2
    turning = np.zeros(0) if kind == "none" else frequencies(config, kind)
    frequency = np.concatenate([turning, np.zeros(pairs - len(turning))])
    angle = positions[..., None, None].astype(wide) * jnp.asarray(frequency, wide)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def rotate(x: Array, turn: Array, rotary_dim: int | None = None) -> Array:
    """x [N S H E] turned by `rotary` angles; the two halves of E rotate as pairs.

    Of the leading `rotary_dim` entries if it is given; the others stay.
    """
    size = x.shape[-1] if rotary_dim is None else rotary_dim
    cos, sin = turn[..., : size // 2]
    left, right = jnp.split(widen(x[..., :size]), 2, -1)
    turned = [left * cos - right * sin, right * cos + left * sin]
    whole = [part.astype(x.dtype) for part in turned]
    if size < x.shape[-1]:
        whole.append(x[..., size:])
    return jnp.concatenate(whole, -1)


def activate(config: ModelConfig, x: Array) -> Array:
    """The gate's non-linearity."""
    if config.activation == "silu":
        return jax.nn.silu(x)
    return jax.nn.gelu(x, approximate=config.activation == "gelu_tanh")


def mlp(
    config: ModelConfig, block: dict[str, Any], x: Array, inside: tuple[Any, ...]
) -> Array:
    """(act(x W_gate) * x W_up) W_down; `inside`: the mesh axes of what W_down reads."""
    inner = activate(config, project(block["gate"], x)) * project(block["up"], x)
    return project(block["down"], constrain(inner, *inside))
