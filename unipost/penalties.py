"""The penalty weight * D_f(policy || reference), by a named estimator.

Token-level, d = log(policy/reference), rho = policy/old. The estimator decides the
gradient, which is not always that of D_f (exact expectations on the policy's own
samples):

    estimator      added to the loss        its gradient on the policy's samples
    in_reward      r -= w f'(u), u of the   grad D_f, sequence level, through the
                   whole sequence, detached advantage
    k1             f'(u)                    0 in expectation for KL: regularises nothing
    k2             K_f(d)                   grad D_f, states held fixed
    k3             f(u)/u                   grad D_h, h' = f' - f/u; for reverse_kl this
                                            is KL(reference || policy)
    importance_k3  rho f(u)/u               grad D_f, states held fixed, off-policy too
    exact          sum_a ref f(pi/ref)      grad D_f, states held fixed, no variance

k1, k2, k3 are Schulman's for reverse_kl. GRPO is k3 and DeepSeek-V3.2 importance_k3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.classical import ReverseKL
from unipost.divergence import Divergence
from unipost.parts import Scalar, concrete, part, require

Array = jax.Array
Estimator = Literal["in_reward", "k1", "k2", "k3", "importance_k3", "exact"]

STREAMS: dict[str, frozenset[str]] = {
    "in_reward": frozenset({"old", "reference"}),
    "k1": frozenset({"reference"}),
    "k2": frozenset({"reference"}),
    "k3": frozenset({"reference"}),
    "importance_k3": frozenset({"old", "reference"}),
    "exact": frozenset({"vocab", "reference_vocab"}),
}


@part
class Penalty:
    """weight * D_f(policy || reference) with a named estimator (see the module)."""

    weight: Scalar
    divergence: Divergence = ReverseKL()
    estimator: Estimator = "k3"

    def __post_init__(self):
        known = concrete(self.weight)
        ok = known is None or known > 0
        require(
            "penalty.weight", self.weight, ok, "is not positive; write penalty: null"
        )
        if not self.divergence.centred:
            raise ValueError(
                f"penalty.divergence: {self.divergence!r} is uncentred, f'(1) != 0, a "
                "score and not a distance; write reverse_kl"
            )
        if self.estimator in ("k1", "in_reward") and self.divergence.curvature is None:
            raise ValueError(
                f"penalty.estimator: {self.estimator} of {self.divergence!r} has f' "
                "constant on each side of u = 1; write k2, k3 or exact"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The streams that the estimator reads."""
        return STREAMS[self.estimator]

    def per_token(self, log_u: Callable[[], Array], log_rho: Callable[[], Array]):
        """The estimator per token, unweighted, for those that are a loss on samples."""
        match self.estimator:
            case "k1":
                return self.divergence.f_prime(log_u())
            case "k2":
                return self.divergence.k2(log_u())
            case "k3":
                return self.divergence.k3(log_u())
            case "importance_k3":
                return jnp.exp(log_rho()) * self.divergence.k3(log_u())
        raise ValueError(f"penalty.estimator: {self.estimator} is not a sampled loss")


def exact_divergence(divergence: Divergence, policy: Array, reference: Array) -> Array:
    """sum_a ref_a f(pi_a/ref_a) [...] from log-probs [..., V].

    Summed as pi k3 where pi > ref and as ref f elsewhere: the factor that may overflow
    is then never multiplied by the one that vanishes.
    """
    # a token that both forbid (-inf) adds nothing; one that only pi forbids adds f(0)
    both = jnp.isneginf(policy) & jnp.isneginf(reference)
    d = jnp.where(
        both, 0.0, jnp.where(both, 0.0, policy) - jnp.where(both, 0.0, reference)
    )
    above = d > 0
    high = jnp.exp(policy) * divergence.k3(jnp.where(above, d, 0.0))
    low = jnp.exp(reference) * divergence.f(
        jnp.maximum(jnp.where(above, 0.0, d), -80.0)
    )
    return jnp.where(above, high, low).sum(-1)
