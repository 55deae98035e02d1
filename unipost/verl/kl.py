"""verl's `kl_loss_type` as penalties, and their values per token."""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from unipost.parts import Scalar
from unipost.penalties import Penalty

Array = jax.Array
KL = Literal[
    "k1",
    "kl",
    "abs",
    "k2",
    "mse",
    "k3",
    "low_var_kl",
    "k1+",
    "kl+",
    "abs+",
    "k2+",
    "mse+",
    "k3+",
    "low_var_kl+",
]
PLAIN: dict[str, Literal["k1", "abs", "k2", "k3"]] = {
    "kl": "k1",
    "mse": "k2",
    "low_var_kl": "k3",
    "k1": "k1",
    "abs": "abs",
    "k2": "k2",
    "k3": "k3",
}


def kl_penalty(estimator: KL = "low_var_kl", weight: Scalar = 1e-3) -> Penalty:
    """verl's KL loss: weight * value(d) per token, d = log pi - log ref.

    k1, kl          d                            gradient 1: regularises nothing
    abs             |d|                          sign(d)
    k2, mse         d^2 / 2                      d
    k3, low_var_kl  e^-d - 1 + d, d clipped to +-20, the value to +-10; the gradient
                    1 - e^-d is 0 where either is clipped
    with a "+"      the same value, with the gradient d of k2, not clipped

    The defaults are kl_loss_type and kl_loss_coef. Raises ValueError for another name;
    "full", which verl does not implement either, is `Penalty(estimator="exact")`.
    """
    if estimator not in get_args(KL):
        raise ValueError(
            f"verl.kl_penalty.estimator: {estimator!r}; write one of "
            f"{', '.join(get_args(KL))}"
        )
    name = PLAIN[estimator.removesuffix("+")]
    return Penalty(
        weight,
        estimator=name,
        gradient="k2" if estimator.endswith("+") and name != "k2" else "own",
        bound=10.0 if name == "k3" else None,
        clamp=20.0 if name == "k3" else math.inf,
    )


def kl_values(
    policy: Array, reference: Array, mask: Array, estimator: KL = "low_var_kl"
) -> Array:
    """The KL estimate per token [..., T], 0 outside the mask; differentiable.

    `policy` and `reference` are log-probs. verl's kl_penalty function.
    """
    log_u = jnp.where(mask > 0, policy - reference, 0.0)
    penalty = kl_penalty(estimator, 1.0)
    return penalty.per_token(log_u, lambda: jnp.zeros_like(log_u), policy, mask)
