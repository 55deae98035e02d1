"""The loss of a reward model on preference pairs (Bradley-Terry).

A reward model scores with a head of its own, not with a ratio of policies, so it is no
instance of the objective. Training one: `unipost.scalar.reward_models`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unipost.parts import Scalar, concrete, require
from unipost.special import at_least_float32

Array = jax.Array


def bradley_terry(
    chosen: Array,
    rejected: Array,
    margin: Array | float | None = None,
    centering: Scalar | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Negative log-likelihood of N preferences under scores [N]: (loss, metrics).

    loss = mean -log sigmoid(r_c - r_r - margin) + centering * mean (r_c + r_r)^2

    `margin` [N] (or one number) says by how much a pair should differ (Llama 2,
    2307.09288); None is no margin. `centering` fixes the constant that the likelihood
    leaves free (2312.09244); None is no such term. Metrics, of the raw scores:
    accuracy (share r_c > r_r), margin (mean r_c - r_r), min_reward, mean_reward,
    max_reward. Raises ValueError for shapes that do not fit, no pairs, and a negative
    centering.
    """
    chosen, rejected = at_least_float32(chosen), at_least_float32(rejected)
    _check(chosen, rejected, margin, centering)
    loss = pair_losses(chosen, rejected, margin, centering).mean()
    scores = jax.lax.stop_gradient(jnp.stack([chosen, rejected]))
    return loss, {
        "accuracy": (scores[0] > scores[1]).mean(dtype=scores.dtype),
        "margin": (scores[0] - scores[1]).mean(),
        "min_reward": scores.min(),
        "mean_reward": scores.mean(),
        "max_reward": scores.max(),
    }


def pair_losses(
    chosen: Array,
    rejected: Array,
    margin: Array | float | None = None,
    centering: Scalar | None = None,
) -> Array:
    """The losses [N] of the pairs, of which `bradley_terry` is the mean."""
    gap = chosen - rejected
    logit = gap if margin is None else gap - jnp.asarray(margin)
    loss = -jax.nn.log_sigmoid(logit)
    if centering is None:
        return loss
    return loss + centering * (chosen + rejected) ** 2


def _check(chosen, rejected, margin, centering) -> None:
    if chosen.ndim != 1 or chosen.shape[0] == 0:
        raise ValueError(
            f"bradley_terry.chosen: shape {chosen.shape}; write one score per pair [N]"
        )
    shapes = {"rejected": rejected.shape}
    if margin is not None and jnp.ndim(margin) > 0:
        shapes["margin"] = jnp.shape(margin)
    for name, shape in shapes.items():
        if shape != chosen.shape:
            raise ValueError(
                f"bradley_terry.{name}: shape {shape}; chosen says {chosen.shape}"
            )
    if centering is not None:
        known = concrete(centering)
        ok = known is None or known >= 0
        require("bradley_terry.centering", centering, ok, "is negative")
