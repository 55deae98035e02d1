"""Log-ratios on the units of a level: tokens, sequences, or their geometric mean."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from unipost.batch import Batch, Streams

Array = jax.Array
Anchor = Literal["none", "reference", "old", "behavior", "self"]
Level = Literal["token", "sequence", "sequence_mean"]


def given(batch: Batch, name: str) -> Array:
    """The array `name` of the batch. Raises ValueError where it is missing."""
    value = getattr(batch, name)
    if value is None:
        raise ValueError(f"batch.{name}: missing; the objective needs it")
    return value


def outcomes(batch: Batch, where: str) -> Array:
    """Outcome rewards [P, G]. Raises ValueError naming `where` for those of steps."""
    rewards = given(batch, "rewards")
    if rewards.ndim != 2:
        shape = tuple(rewards.shape)
        raise ValueError(f"{where}: rewards of shape {shape}; write [prompts, group]")
    return rewards


def stream(streams: Streams | None, name: str) -> Array:
    """The stream `name` of the policy. Raises ValueError where it is missing."""
    value = None if streams is None else getattr(streams, name)
    if value is None:
        raise ValueError(f"streams.{name}: missing; the objective needs it")
    return value


def token_log_ratio(policy: Array, batch: Batch, anchor: Anchor, rows: Array) -> Array:
    """log(policy/anchor) per token [P, G, T].

    Zero outside the mask and outside `rows` [P, G] or [P, G, T]: what is not selected
    must not reach an exp, or its infinite derivative would poison the gradient (0 *
    inf). A token whose sampler reported nothing (behavior NaN) has ratio 1, as self.
    """
    match anchor:
        case "none":
            delta = policy
        case "self":
            delta = policy - jax.lax.stop_gradient(policy)
        case "behavior":
            sampler = given(batch, anchor)
            held = jax.lax.stop_gradient(policy)
            delta = policy - jnp.where(jnp.isnan(sampler), held, sampler)
        case _:
            delta = policy - given(batch, anchor)
    return jnp.where((batch.mask > 0) & of_tokens(rows), delta, 0.0)


def of_tokens(flags: Array) -> Array:
    """Flags [P, G] or [P, G, T] in a shape that broadcasts to tokens."""
    return flags if flags.ndim == 3 else flags[..., None]


def at_level(values: Array, mask: Array, level: Level) -> Array:
    """Per-token `values` [P, G, T] as they are, summed or averaged to [P, G]."""
    if level == "token":
        return values
    total = values.sum(-1)
    if level == "sequence":
        return total
    return total / jnp.maximum(mask.sum(-1), 1.0)


def log_ratio(policy: Array, batch: Batch, anchor: Anchor, level: Level, rows: Array):
    """log(policy/anchor) on the units of `level`: [P, G, T], or [P, G] of sequences."""
    delta = token_log_ratio(policy, batch, anchor, rows)
    return at_level(delta, batch.mask, level)
