"""Weights: detached functions of a log-ratio that multiply a loss.

A weight decides how much a unit counts, not in which direction it pushes: CISPO's
min(u, cap), DFT's p, the truncated or masked ratio of sampler and trainer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import jax
import jax.numpy as jnp

from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array


class Weight(ABC):
    """A rule (log u, A) -> weight >= 0, elementwise; the caller detaches it."""

    @abstractmethod
    def __call__(self, log_u: Array, signal: Array) -> Array:
        """The weight of units with log-ratio `log_u` and signal `signal`."""

    def outside(self, log_u: Array, signal: Array) -> tuple[Array, Array] | None:
        """Units whose ratio is (below, above) what counts in full; None: no bounds."""
        return None


@part
class Truncate(Weight):
    """clip(u^power, floor, cap).

    CISPO and truncated importance sampling: power 1. iw-SFT: power 2 of the geometric
    mean ratio to the reference, cap 16. DFT: u = p, cap 1.
    """

    cap: Scalar
    floor: Scalar = 0.0
    power: Scalar = 1.0

    def __post_init__(self):
        what = "is not positive"
        in_range("truncate.cap", self.cap, 0.0, what=what, infinite=True)
        in_range("truncate.power", self.power, 0.0, what=what)
        _check_floor("truncate", self.floor, self.cap)

    def __call__(self, log_u, signal):
        return jnp.clip(jnp.exp(self.power * log_u), self.floor, self.cap)

    def outside(self, log_u, signal):
        return _beyond(self.power * log_u, self.floor, self.cap)


@part
class Mask(Weight):
    """u where floor <= u <= cap, else 0: masked importance sampling (IcePop)."""

    cap: Scalar
    floor: Scalar = 0.0

    def __post_init__(self):
        in_range("mask.cap", self.cap, 0.0, what="is not positive", infinite=True)
        _check_floor("mask", self.floor, self.cap)

    def __call__(self, log_u, signal):
        u = jnp.exp(log_u)
        return jnp.where((u >= self.floor) & (u <= self.cap), u, 0.0)

    def outside(self, log_u, signal):
        return _beyond(log_u, self.floor, self.cap)


@part
class Keep(Weight):
    """1 where floor <= u <= cap, else 0: rejection without a weight."""

    cap: Scalar
    floor: Scalar = 0.0

    def __post_init__(self):
        in_range("keep.cap", self.cap, 0.0, what="is not positive", infinite=True)
        _check_floor("keep", self.floor, self.cap)

    def __call__(self, log_u, signal):
        u = jnp.exp(log_u)
        return jnp.where((u >= self.floor) & (u <= self.cap), 1.0, 0.0)

    def outside(self, log_u, signal):
        return _beyond(log_u, self.floor, self.cap)


@part
class NegativeTruncate(Weight):
    """1 where A > 0, min(u, cap) where A < 0: tapered off-policy REINFORCE (TOPR).

    What was good is learned in full however old it is; what was bad is pushed down
    only as far as the policy would still say it. Source: 2503.14286.
    """

    cap: Scalar = 1.0

    def __post_init__(self):
        in_range("negative_truncate.cap", self.cap, 0.0, what="is not positive")

    def __call__(self, log_u, signal):
        return jnp.where(signal > 0, 1.0, jnp.minimum(jnp.exp(log_u), self.cap))

    def outside(self, log_u, signal):
        below, above = _beyond(log_u, 0.0, self.cap)
        return below, above & (signal < 0)


@part
class Bernoulli(Weight):
    """u (1 - u), 0 beyond u = 1: with u = p the variance of taking this token or not.

    Largest at p = 1/2: what the policy knows and what it would never say teach it
    little. CHORD-phi, 2508.11408.
    """

    def __call__(self, log_u, signal):
        return jnp.exp(log_u) * jnp.maximum(-jnp.expm1(log_u), 0.0)


@part
class GammaWeight(Weight):
    """u^k e^(rate (1 - u)), its constants by the sign of A: VESPO. 2602.10693.

    k and rate for A >= 0 are `k_pos`, `rate_pos`; otherwise `k_neg`, `rate_neg`. The
    weight is 1 at u = 1 and vanishes at both ends.
    """

    k_pos: Scalar = 2.0
    rate_pos: Scalar = 3.0
    k_neg: Scalar = 3.0
    rate_neg: Scalar = 2.0

    def __post_init__(self):
        for name in ("k_pos", "rate_pos", "k_neg", "rate_neg"):
            what = "is not positive"
            in_range(f"gamma_weight.{name}", getattr(self, name), 0.0, what=what)

    def __call__(self, log_u, signal):
        up = signal >= 0
        k = jnp.where(up, self.k_pos, self.k_neg)
        rate = jnp.where(up, self.rate_pos, self.rate_neg)
        return jnp.exp(rate + k * log_u - rate * jnp.exp(log_u))


def _beyond(log_u: Array, floor: Scalar, cap: Scalar) -> tuple[Array, Array]:
    u = jnp.exp(log_u)
    return u < floor, u > cap


def _check_floor(where: str, floor: Scalar, cap: Scalar) -> None:
    low, high = concrete(floor), concrete(cap)
    ok = low is None or (low >= 0.0 and (high is None or low < high))
    require(f"{where}.floor", floor, ok, "is negative or not below cap")


WEIGHTS = {
    "truncate": Truncate,
    "mask": Mask,
    "keep": Keep,
    "negative_truncate": NegativeTruncate,
    "bernoulli": Bernoulli,
    "gamma_weight": GammaWeight,
}
