"""The penalty weight * D_f(policy || reference): its value and its gradient, by name.

d = log(policy/reference) per token, rho = policy/old. The estimator decides the
gradient, which is not always that of D_f (exact expectations on the policy's own
samples):

    estimator      added to the loss        its gradient on the policy's samples
    in_reward      r -= w f'(u), u of the   grad D_f, sequence level, through the
                   whole sequence, detached advantage
    k1             f'(u)                    grad E_ref[u f' - f]: 0 for KL, which
                                            regularises nothing; D_f for Pearson
    abs            |f'(u)|                  grad E_ref|u f' - f|: for KL (verl's
                                            abs) twice total variation
    k2             K_f(d)                   grad D_f, states held fixed
    k3             f(u)/u                   grad D_h, h' = f' - f/u; for reverse_kl this
                                            is KL(reference || policy)
    importance_k2  sg(rho) K_f(d)           grad D_f, states held fixed, off-policy too
    importance_k3  rho f(u)/u               the same, per sample, rho at the level of u
    exact          sum_a ref f(pi/ref)      grad D_f, states held fixed, no variance

`gradient` may be another estimator than the value: straight-through (verl's k3+ is k3
with gradient k2). "to_go" is a gradient only: token t gets f'(u_t) plus the value f/u
of the tokens after it, the gradient of the sum over the sequence of D_f(pi || ref) with
the states not held fixed (with a sequence_sum aggregation; sampled on policy).

k1, k2, k3 are Schulman's for reverse_kl. GRPO is k3 and DeepSeek-V3.2 importance_k3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.classical import ReverseKL
from unipost.divergence import Divergence
from unipost.levels import Level
from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array
Sampled = Literal["k1", "abs", "k2", "k3", "importance_k2", "importance_k3"]
Estimator = Literal[
    "in_reward", "k1", "abs", "k2", "k3", "importance_k2", "importance_k3", "exact"
]
Gradient = Literal[
    "own", "k1", "abs", "k2", "k3", "importance_k2", "importance_k3", "to_go"
]
SAMPLED = ("k1", "abs", "k2", "k3", "importance_k2", "importance_k3")
# the streams beside the reference's that an estimator reads
OLD = {"in_reward", "importance_k2", "importance_k3"}


@part
class Penalty:
    """weight * D_f(policy || reference) with a named estimator (see the module).

    gradient    "own" is the estimator's; another name keeps the value and takes that
                one's gradient
    level       token: u per token; sequence: u of the whole sequence, its value spread
                evenly over the sequence's tokens (k2 at level sequence has the gradient
                of the sequence's D_f)
    importance  level of rho for importance_k2 and importance_k3. token: states as old
                visits them; sequence: as the policy does, and in importance_k3 of
                tokens the states move too (as to_go); sequence_mean is biased
    bound       the value is clipped to [-bound, bound] (verl: 10); None: not
    clamp       bound on |log u| per token of the value (inf: none), instead of the
                objective's (None); another estimator's gradient sees log u itself
    over        rho = policy/over: old, or self where every batch is used once, rho = 1
                with the gradient of log pi
    """

    weight: Scalar
    divergence: Divergence = ReverseKL()
    estimator: Estimator = "k3"
    gradient: Gradient = "own"
    level: Literal["token", "sequence"] = "token"
    importance: Level = "token"
    bound: Scalar | None = None
    over: Literal["old", "self"] = "old"
    clamp: Scalar | None = None
    vanishing: ClassVar = ("weight",)

    def __post_init__(self):
        known = concrete(self.weight)
        ok = known is None or known > 0
        require(
            "penalty.weight", self.weight, ok, "is not positive; write penalty: null"
        )
        if self.bound is not None:
            in_range("penalty.bound", self.bound, 0.0, what="is not positive")
        if self.clamp is not None:
            what = "is not positive"
            in_range("penalty.clamp", self.clamp, 0.0, what=what, infinite=True)
        if reason := _refusal(self):
            raise ValueError(f"penalty.{reason}")

    @property
    def needs(self) -> frozenset[str]:
        """The streams that value and gradient read."""
        if self.estimator == "exact":
            return frozenset({"vocab", "reference_vocab"})
        names = OLD & {self.estimator, self.gradient}
        old = {"old"} if names and self.over == "old" else set()
        return frozenset({"reference"} | old)

    def per_token(
        self, log_u: Array, log_rho: Callable[[], Array], policy: Array, mask: Array
    ) -> Array:
        """Value [P, G, T] of a sampled estimator, unweighted, with its gradient.

        `log_u` [P, G, T] is log(policy/reference), 0 outside the mask; `log_rho()` is
        log(policy/old) on units that broadcast to tokens; `policy` [P, G, T] log pi.
        """
        length = jnp.maximum(mask.sum(-1, keepdims=True), 1.0)
        near = log_u
        if self.clamp is not None:
            near = jnp.clip(log_u, -self.clamp, self.clamp)
        if self.level == "sequence":
            near, log_u = (x.sum(-1, keepdims=True) for x in (near, log_u))
        value = estimate(self.divergence, self.estimator, near, log_rho)
        if self.bound is not None:
            value = jnp.clip(value, -self.bound, self.bound)
        if self.gradient != "own":
            slope = self._surrogate(log_u, log_rho, policy, mask)
            stop = jax.lax.stop_gradient
            value = stop(value) + slope - stop(slope)
        if self.level == "sequence":
            value = jnp.broadcast_to(value / length, mask.shape)
        return jnp.where(mask > 0, value, 0.0)

    def _surrogate(self, log_u, log_rho, policy, mask):
        if self.gradient != "to_go":
            return estimate(self.divergence, self.gradient, log_u, log_rho)
        value = jnp.where(mask > 0, self.divergence.k3(log_u), 0.0)
        later = jnp.flip(jnp.cumsum(jnp.flip(value, -1), -1), -1) - value
        cost = jax.lax.stop_gradient(self.divergence.f_prime(log_u) + later)
        return cost * policy


def estimate(
    divergence: Divergence, name: str, log_u: Array, log_rho: Callable[[], Array]
) -> Array:
    """The sampled estimator `name` of D_f at `log_u`, elementwise."""
    match name:
        case "k1":
            return divergence.f_prime(log_u)
        case "abs":
            return jnp.abs(divergence.f_prime(log_u))
        case "k2":
            return divergence.k2(log_u)
        case "k3":
            return divergence.k3(log_u)
        case "importance_k2":
            return jax.lax.stop_gradient(jnp.exp(log_rho())) * divergence.k2(log_u)
        case "importance_k3":
            return jnp.exp(log_rho()) * divergence.k3(log_u)
    raise ValueError(f"penalty.estimator: {name} is not a sampled loss")


def _refusal(penalty: Penalty) -> str | None:
    """Why this penalty has no meaning, or None."""
    names = {penalty.estimator, penalty.gradient}
    if not penalty.divergence.centred:
        return (
            f"divergence: {penalty.divergence!r} is uncentred, f'(1) != 0, a score and "
            "not a distance; write reverse_kl"
        )
    flat = penalty.divergence.curvature is None
    if flat and names & {"k1", "abs", "in_reward", "to_go"}:
        return (
            f"estimator: {penalty.estimator} of {penalty.divergence!r} has f' "
            "constant on each side of u = 1; write k2, k3 or exact"
        )
    if penalty.gradient == penalty.estimator:
        return f"gradient: {penalty.gradient} is the estimator's; write gradient: own"
    if penalty.estimator in ("in_reward", "exact"):
        name = penalty.estimator
        if penalty.gradient != "own":
            return f"gradient: {penalty.gradient} with {name}; write gradient: own"
        if penalty.level != "token":
            return f"level: {penalty.level} with {name} is fixed; write level: token"
        if penalty.bound is not None:
            return f"bound: with {name} bounds nothing; write bound: null"
        if penalty.clamp is not None:
            return f"clamp: with {name} clamps nothing; write clamp: null"
    if penalty.importance != "token" and not names & {"importance_k2", "importance_k3"}:
        return (
            f"importance: {penalty.importance} without importance_k2 or importance_k3; "
            "write importance: token"
        )
    if penalty.over == "self" and not names & {"importance_k2", "importance_k3"}:
        return "over: self without importance_k2 or importance_k3; write over: old"
    if penalty.gradient == "to_go" and penalty.level == "sequence":
        return "gradient: to_go at level sequence, which has it; write level: token"
    if penalty.gradient == "to_go" and penalty.bound is not None:
        return "bound: with the gradient to_go, which has none; write bound: null"
    if penalty.level == "sequence" and penalty.importance == "token":
        if names & {"importance_k2", "importance_k3"}:
            return "importance: token at level sequence; write importance: sequence"
    return None


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
