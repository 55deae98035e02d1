"""The critic of PPO: advantages from a value function, and the value loss.

A value regression has no policy in it, so it is no instance of the objective. The
definitions are verl's (0.9.1); arrays are [..., T], values outside the mask are never
read, and float64 stays float64.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from unipost.parts import Scalar, concrete, in_range, require
from unipost.special import at_least_float32

Array = jax.Array


def gae(
    rewards: Array, values: Array, mask: Array, gamma: Scalar = 1.0, lam: Scalar = 1.0
) -> tuple[Array, Array]:
    """Generalised advantage estimation (1506.02438): (advantages, returns), [..., T].

    delta_t = r_t + gamma V_next(t) - V_t
    A_t     = delta_t + gamma lam A_next(t)
    R_t     = A_t + V_t

    next(t) is the next token with mask 1: observations inside a response are skipped,
    at no cost in discount. After the last one V and A are 0. Both results are 0
    outside the mask and constants to autodiff. PPO whitens the advantages (`whiten`).
    Raises ValueError for shapes that differ and for gamma or lam outside [0, 1].
    """
    _check_shapes("gae", rewards=rewards, values=values, mask=mask)
    _check_discount("gae.gamma", gamma)
    _check_discount("gae.lam", lam)
    kept = mask > 0
    dtype = jnp.promote_types(jnp.result_type(rewards, values), jnp.float32)
    rewards, values = (jnp.where(kept, x, 0).astype(dtype) for x in (rewards, values))
    gamma, lam = jnp.asarray(gamma, dtype), jnp.asarray(lam, dtype)

    def step(following, now):
        value_after, advantage_after = following
        reward, value, here = now
        delta = reward + gamma * value_after - value
        advantage = delta + gamma * lam * advantage_after
        value = jnp.where(here, value, value_after)
        advantage = jnp.where(here, advantage, advantage_after)
        return (value, advantage), advantage

    last = jnp.zeros(values.shape[:-1], dtype)
    time_first = [jnp.moveaxis(x, -1, 0) for x in (rewards, values, kept)]
    _, scanned = lax.scan(step, (last, last), time_first, reverse=True)
    advantages = jnp.where(kept, jnp.moveaxis(scanned, 0, -1), 0.0)
    return lax.stop_gradient(advantages), lax.stop_gradient(advantages + values)


def whiten(
    x: Array,
    mask: Array,
    ddof: int = 1,
    eps: Scalar = 1e-8,
    count_eps: Scalar = 1e-8,
) -> Array:
    """(x - mean) / sqrt(variance + eps) over the mask of the whole logical batch.

    n tokens: mean = sum x / (n + count_eps), variance = sum (x - mean)^2 /
    (n + count_eps) * n / (n - ddof). `count_eps` is verl's; 0 gives the plain moments.
    The result is 0 outside the mask, and everywhere if all entries are equal or there
    are fewer than two. Raises ValueError for a ddof other than 0 or 1, a negative eps.
    """
    _check_shapes("whiten", x=x, mask=mask)
    require("whiten.ddof", ddof, ddof in (0, 1), "is not 0 or 1")
    for name, value in (("eps", eps), ("count_eps", count_eps)):
        known = concrete(value)
        require(f"whiten.{name}", value, known is None or known >= 0, "is negative")
    kept = mask > 0
    x = at_least_float32(x)
    varied = jnp.where(kept, x, -jnp.inf).max() > jnp.where(kept, x, jnp.inf).min()
    n = kept.sum().astype(x.dtype)
    count = jnp.maximum(n + count_eps, 1.0)
    centred = jnp.where(kept & varied, x - jnp.where(kept, x, 0.0).sum() / count, 0.0)
    variance = (centred**2).sum() / count * n / jnp.maximum(n - ddof, 1.0)
    # nothing varied and eps 0: the deviation is 0 and so is every numerator
    return centred / jnp.sqrt(jnp.where(varied, variance + eps, 1.0))


def value_loss(
    values: Array,
    old_values: Array,
    returns: Array,
    weights: Array,
    clip: Scalar = math.inf,
) -> tuple[Array, dict[str, Array]]:
    """Clipped value regression of PPO: (loss, metrics).

    loss = sum w 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)

    All arrays have one shape; gradients flow through `values` alone. `weights` are an
    aggregation's, such as `TokenMean().weights(mask)`; a token of weight 0 is not read.
    `clip` inf is plain regression. The metric `clip_fraction` is the share of tokens
    whose clipped error is the larger one: they pass no gradient. Raises ValueError for
    shapes that differ and a clip that is not positive.
    """
    _check_shapes(
        "value_loss",
        values=values,
        old_values=old_values,
        returns=returns,
        weights=weights,
    )
    in_range("value_loss.clip", clip, 0.0, what="is not positive", infinite=True)
    kept = weights != 0
    values, old, target = (
        jnp.where(kept, at_least_float32(x), 0.0) for x in (values, old_values, returns)
    )
    old, target = lax.stop_gradient(old), lax.stop_gradient(target)
    plain = (values - target) ** 2
    clipped = (jnp.clip(values, old - clip, old + clip) - target) ** 2
    loss = 0.5 * (weights * jnp.maximum(plain, clipped)).sum()
    share = (kept & (clipped > plain)).sum() / jnp.maximum(kept.sum(), 1)
    return loss, {"clip_fraction": share}


def _check_discount(where: str, value: Scalar) -> None:
    known = concrete(value)
    inside = known is None or 0.0 <= known <= 1.0
    require(where, value, inside, "is outside [0, 1]")


def _check_shapes(where: str, **arrays: Array) -> None:
    (first, like), *others = ((n, tuple(a.shape)) for n, a in arrays.items())
    for name, shape in others:
        if shape != like:
            raise ValueError(f"{where}.{name}: shape {shape}; {first} says {like}")
