"""Links: how the implicit reward z must follow the signal A.

A pointwise link gives a loss per token or sequence from (z, A); a pair link gives a
loss per preference from the margin z_chosen - z_rejected. The signal is a constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.divergence import Divergence
from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array
Anchor = Literal["none", "reference", "old", "behavior", "self"]
LogRatio = Callable[[Anchor], Array]


class Link(ABC):
    """A pointwise link; `needs` names the anchors it reads besides the score's own."""

    @property
    def over(self) -> Anchor:
        """The anchor of the link's own log-ratio; "none" for most links."""
        return "none"

    @abstractmethod
    def loss(self, z: Array, signal: Array, log_ratio: LogRatio) -> Array:
        """Loss per unit. `log_ratio(anchor)` is the policy's log-ratio on the unit."""

    def metrics(self, z: Array, signal: Array) -> dict[str, Array]:
        """Per-unit numbers to report, averaged over the units."""
        return {}


class PairLink(ABC):
    """A link on the difference of two implicit rewards: the normaliser cancels."""

    @abstractmethod
    def loss(self, margin: Array) -> Array:
        """Loss per pair."""


@part
class Linear(Link):
    """-A z: policy gradient for z = log pi, SFT for A = 1, LUFFY for shaping."""

    def loss(self, z, signal, log_ratio):
        return -signal * z


@part
class Importance(Link):
    """-A (1 + z): with z = u - 1 the unclipped importance-sampled objective -A u."""

    def loss(self, z, signal, log_ratio):
        return -signal * (1.0 + z)


@part
class Clipped(Link):
    """-min(A (1 + z), A clip(1 + z, 1 - low, 1 + high)): PPO, GRPO, DAPO, GSPO.

    Equal to -A (1 + z) + |A| times a one-sided hockey stick, weight exactly 1. With
    z = u - 1 the band is on the importance ratio. Source: 1707.06347 Eq 7.
    """

    low: Scalar = 0.2
    high: Scalar = 0.2

    def __post_init__(self):
        for name in ("low", "high"):  # inf: no bound on that side
            value = getattr(self, name)
            what = "is not positive"
            in_range(f"clipped.{name}", value, 0.0, what=what, infinite=True)

    def _outside(self, z, signal):
        above = (signal > 0) & (z > self.high)
        return above | ((signal < 0) & (z < -self.low))

    def loss(self, z, signal, log_ratio):
        edge = jnp.where(signal > 0, self.high, -self.low)
        return -signal * (1.0 + jnp.where(self._outside(z, signal), edge, z))

    def metrics(self, z, signal):
        return {"clip_share": self._outside(z, signal).astype(z.dtype)}


@part
class Truncated(Link):
    """-sg(min(u, cap)) A z, u the ratio to the anchor `over`: a detached weight.

    CISPO: over "old", z = log pi. DFT: over "none" (u = p), so that the loss is
    -sg(p) log p; its gradient is that of the total-variation loss 1 - p.
    """

    cap: Scalar
    over: Anchor = "old"

    def __post_init__(self):
        what = "is not positive"
        in_range("truncated.cap", self.cap, 0.0, what=what, infinite=True)

    def loss(self, z, signal, log_ratio):
        u = jnp.exp(jax.lax.stop_gradient(log_ratio(self.over)))
        return -jnp.minimum(u, self.cap) * signal * z


@part
class Matching(Link):
    """-phi_f(z): fit demonstrations in the divergence f (f-SFT, IQ-Learn's phi).

    phi_f(x) = -f*(-x). Below the point where phi' reaches `cap` it continues along its
    tangent, so that no token outside the dual domain loses its gradient and none
    weighs more than `cap` times a token of SFT. With total variation phi is the
    identity up to 1/2 (plain SFT) and flat beyond.
    """

    divergence: Divergence
    cap: Scalar = 100.0

    def __post_init__(self):
        known = concrete(self.cap)
        require("matching.cap", self.cap, known is None or known > 1, "is not above 1")

    def _knee(self, z):
        # phi'(x) = (f')^-1(-x) = cap at x = -f'(cap)
        log_cap = jnp.log(jnp.asarray(self.cap, z.dtype))
        return -self.divergence.f_prime(log_cap)

    def loss(self, z, signal, log_ratio):
        knee = self._knee(z)
        value, slope = jax.value_and_grad(lambda x: self.divergence.phi(x).sum())(knee)
        kink = self.divergence.curvature is None  # phi' jumps to 1 at the knee
        slope = jnp.ones_like(slope) if kink else slope
        inside = z > knee
        phi = self.divergence.phi(jnp.where(inside, z, knee + 1.0))
        return -signal * jnp.where(inside, phi, value + slope * (z - knee))

    def metrics(self, z, signal):
        return {"dual_capped_share": (z <= self._knee(z)).astype(z.dtype)}


@part
class Logistic(PairLink):
    """-log sigmoid(margin): Bradley-Terry (DPO, f-DPO). log 2 at margin 0."""

    def loss(self, margin):
        return jnp.logaddexp(0.0, -margin)


@part
class Squared(PairLink):
    """(margin - 1/(2 tau))^2: IPO, with margin the difference of log-ratios."""

    tau: Scalar = 0.1

    def __post_init__(self):
        in_range("squared.tau", self.tau, 0.0, what="is not positive")

    def loss(self, margin):
        return (margin - 1.0 / (2.0 * self.tau)) ** 2


LINKS = {
    "linear": Linear,
    "importance": Importance,
    "clipped": Clipped,
    "truncated": Truncated,
    "matching": Matching,
    "logistic": Logistic,
    "squared": Squared,
}
