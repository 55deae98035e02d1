"""What the data of a step say: the advantages, and the groups that they come from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from unipost.batch import Batch, Prepared, clean
from unipost.diagnostics.streams import each_term
from unipost.diagnostics.tallies import Tally
from unipost.objective import Objective
from unipost.objectives import Trainable
from unipost.signals import Desirability, Ones, Preference, Signal, Zeros

Array = jax.Array


def signal_metrics(objective: Trainable, batch: Batch, prepared: Any) -> Tally:
    """Statistics of the first term's signal that is an advantage; {} without one.

    advantage_mean, _std, _min, _max  over the tokens that the loss is about
    zero_variance  share of the groups with two or more scored responses whose rewards
                   are all equal; a group of step rewards is that of their sums

    `batch` is the whole batch that `prepared` was made of. Without such tokens or
    groups the numbers are 0.
    """
    for term, piece in each_term(objective, prepared):
        if isinstance(term, Objective) and is_advantage(term.signal):
            return _advantage(piece) | _groups(term.signal, batch)
    return {}


def is_advantage(signal: Signal) -> bool:
    """Whether a signal is an advantage: no label, and not the same for every token."""
    return not isinstance(signal, Ones | Zeros | Preference | Desirability)


def _advantage(piece: Prepared) -> Tally:
    kept = piece.batch.mask > 0
    count = jnp.maximum(kept.sum(), 1)
    values = piece.signal

    def mean(x: Array) -> Array:
        return jnp.where(kept, x, 0.0).sum() / count

    centre = mean(values)
    some = kept.any()
    return {
        "advantage_mean": centre,
        "advantage_std": jnp.sqrt(mean((values - centre) ** 2)),
        "advantage_min": jnp.where(some, jnp.where(kept, values, jnp.inf).min(), 0.0),
        "advantage_max": jnp.where(some, jnp.where(kept, values, -jnp.inf).max(), 0.0),
    }


def _groups(signal: Signal, batch: Batch) -> Tally:
    """The share of groups whose rewards, as the signal reads them, are all equal."""
    if batch.rewards is None and batch.components is None:
        return {}
    batch = clean(batch)
    rewards = signal.rewarded(batch).rewards
    if rewards is None or rewards.shape[1] < 2:
        return {}
    if rewards.ndim == 3:
        rewards = rewards.sum(-1)
    valid = (batch.mask.sum(-1) > 0) & jnp.isfinite(rewards)
    scored = valid.sum(-1) > 1
    top = jnp.where(valid, rewards, -jnp.inf).max(-1)
    bottom = jnp.where(valid, rewards, jnp.inf).min(-1)
    equal = scored & (top == bottom)
    share = equal.sum() / jnp.maximum(scored.sum(), 1)
    return {"zero_variance": share.astype(rewards.dtype)}
