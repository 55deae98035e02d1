"""The fit term: the link's loss of the implicit rewards, and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from unipost.batch import Prepared, Streams
from unipost.levels import log_ratio, of_tokens
from unipost.links import Units
from unipost.pair_links import PairLink
from unipost.special import at_least_float32

if TYPE_CHECKING:
    from unipost.score import Score

Array = jax.Array


def implicit_reward(
    score: Score,
    policy: Array,
    prepared: Prepared,
    rows: Array,
    value: Array | float = 0.0,
) -> tuple[Array, Array | None]:
    """(z on the units of the score's level, 0/1 hits of its clamp or None).

    z = beta f'(u) from the reference point, plus `value` = V - V' of a gauge.
    """
    batch = prepared.batch
    token = score.level == "token"
    log_u, hit = score.log_u(policy, batch, prepared.signal, rows)
    if not score.divergence.centred:
        # f' may have no limit at u = 1, where what is left out stands (log odds)
        counts = batch.mask > 0 if token else batch.mask.sum(-1) > 0
        log_u = jnp.where(counts, log_u, -1.0)
    z = score.divergence.f_prime(log_u)
    z = score.beta * (z - prepared.offset) if not token else score.beta * z
    z = z + value
    if score.per == "length":
        z = z / jnp.maximum(batch.mask.sum(-1), 1.0)
    return z, hit


def fit(
    score: Score,
    policy: Array,
    prepared: Prepared,
    rows: Array,
    value: Array | float = 0.0,
):
    """Loss and metrics of the rows that `score` treats; `value` is V - V'.

    `rows` are flags [P, G], or [P, G, T] of single tokens at level token.
    """
    batch = prepared.batch
    token = score.level == "token"
    z, hit = implicit_reward(score, policy, prepared, rows, value)
    chosen = of_tokens(rows) if token else rows
    mean = jnp.where(chosen, prepared.mean if token else prepared.row_mean, 0.0)
    metrics = {"implicit_reward": (mean * z).sum()}
    if hit is not None:
        metrics["clamp_share"] = (mean * hit).sum()
    if isinstance(score.link, PairLink):
        # per-token rewards of a preference add up (refused where they do not)
        z = jnp.where(batch.mask > 0, z, 0.0).sum(-1) if token else z
        loss, numbers = _fit_pairs(score.link, z, prepared)
        return loss, metrics | numbers
    signal = prepared.signal if token else prepared.signal[..., 0]
    weight = prepared.weight * prepared.correction if token else _row_weight(prepared)

    def own_ratio(anchor, level):
        ratio = log_ratio(policy, batch, anchor, level or score.level, rows)
        return ratio[..., None] if token and ratio.ndim == 2 else ratio

    filled = batch.mask if token else (batch.mask.sum(-1) > 0).astype(z.dtype)
    units = Units(own_ratio, jnp.where(chosen, filled, 0.0))
    losses = score.link.loss(z, signal, units)
    # -phi(r) + V - V' per token: the sum carries the + V(s_1) of the dual
    loss = (jnp.where(chosen, weight, 0.0) * (losses + signal * value)).sum()
    metrics["signal"] = (mean * signal).sum()
    for name, number in score.link.metrics(z, signal).items():
        metrics[name] = (mean * number).sum()
    cut = score.link.clipped(z, signal, units)
    for name, side in zip(("clip_low", "clip_high"), cut or (), strict=False):
        metrics[name] = (mean * (side & (signal != 0))).sum()
    return loss, metrics


def _row_weight(prepared: Prepared) -> Array:
    """Weights [P, G] of per-row losses; a row's correction is its tokens' mean."""
    length = prepared.batch.mask.sum(-1)
    tokens = (prepared.batch.mask * prepared.correction).sum(-1)
    correction = jnp.where(length > 0, tokens / jnp.maximum(length, 1.0), 1.0)
    return prepared.row_weight * correction


def _fit_pairs(link: PairLink, z: Array, prepared: Prepared):
    sign = prepared.signal[..., 0]
    chosen = jnp.where(sign > 0, z, 0.0).sum(-1)
    rejected = jnp.where(sign < 0, z, 0.0).sum(-1)
    # a row's weight is its share of the rows, so a pair's is the sum of its two; the
    # correction of a pair is the product of its rows'
    weight = prepared.row_weight.sum(-1)
    weight = weight * prepared.correction[..., 0].prod(-1)
    mean = prepared.row_mean.sum(-1)
    metrics = {
        "margin": (mean * (chosen - rejected)).sum(),
        "accuracy": (mean * (chosen > rejected)).sum(),
        "chosen": (mean * chosen).sum(),
        "rejected": (mean * rejected).sum(),
    }
    return (weight * link.loss(chosen, rejected)).sum(), metrics


def cleaned_streams(logps: Array | Streams, prepared: Prepared) -> Streams:
    """Streams in float32 or more, zero outside the mask (no NaN can leak through)."""
    streams = logps if isinstance(logps, Streams) else Streams(policy=logps)
    kept = prepared.batch.mask > 0
    shape = prepared.batch.mask.shape
    if tuple(streams.policy.shape) != shape:
        raise ValueError(
            f"logps: shape {tuple(streams.policy.shape)}; the batch's mask is {shape}"
        )

    def keep(x):
        if tuple(x.shape[:3]) != shape:
            raise ValueError(f"streams: shape {tuple(x.shape)}; the mask is {shape}")
        mask = kept[..., None] if x.ndim == 4 else kept
        return jnp.where(mask, at_least_float32(x), 0.0)

    return jax.tree.map(keep, streams)
