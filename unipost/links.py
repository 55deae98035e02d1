"""Pointwise links: how the implicit reward z must follow the signal A.

A pointwise link gives a loss per token or sequence from (z, A); the links on pairs are
in `unipost.pair_links`. The signal is a constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from unipost.divergence import Divergence
from unipost.levels import Anchor, Level
from unipost.parts import Scalar, concrete, in_range, part, require
from unipost.weights import Weight

Array = jax.Array


class Units(NamedTuple):
    """The units that z stands for: [P, G, T] of tokens or [P, G] of sequences.

    log_ratio  (anchor, level or None for the score's own) -> log(policy/anchor) on the
               units; a level above the token is repeated for each of a row's tokens
    valid      1 where a unit counts
    """

    log_ratio: Callable[[Anchor, Level | None], Array]
    valid: Array


Sides = tuple[Array, Array]


class Link(ABC):
    """A pointwise link.

    `regresses` says that A = 0 is a target too; unscored rows are then left out.
    """

    regresses: ClassVar[bool] = False

    @property
    def over(self) -> Anchor:
        """The anchor of the link's own log-ratio; "none" for most links."""
        return "none"

    @abstractmethod
    def loss(self, z: Array, signal: Array, units: Units) -> Array:
        """Loss per unit."""

    def metrics(self, z: Array, signal: Array) -> dict[str, Array]:
        """Per-unit numbers to report, averaged over the units."""
        return {}

    def clipped(self, z: Array, signal: Array, units: Units) -> Sides | None:
        """Units that a band of the ratio cuts (below it, above it); None: no band."""
        return None


@part
class Linear(Link):
    """-A z: policy gradient for z = log pi, SFT for A = 1, LUFFY for shaping."""

    def loss(self, z, signal, units):
        return -signal * z


@part
class Importance(Link):
    """-A (1 + z): with z = u - 1 the unclipped importance-sampled objective -A u."""

    def loss(self, z, signal, units):
        return -signal * (1.0 + z)


@part
class Clipped(Link):
    """-min(A (1 + z), A clip(1 + z, 1 - low, 1 + high)): PPO, GRPO, DAPO, GSPO.

    Equal to -A (1 + z) + |A| times a one-sided hockey stick, weight exactly 1. With
    z = u - 1 the band is on the importance ratio. Source: 1707.06347 Eq 7.

    dual  where A < 0 the loss is at most -A dual (dual-clip PPO, 1912.09729; verl: 3)
    cap   the unclipped u is min(u, cap) for either sign (TRL's `delta`, INTELLECT-2)
    """

    low: Scalar = 0.2
    high: Scalar = 0.2
    dual: Scalar | None = None
    cap: Scalar | None = None

    def __post_init__(self):
        for name in ("low", "high"):  # inf: no bound on that side
            value = getattr(self, name)
            what = "is not positive"
            in_range(f"clipped.{name}", value, 0.0, what=what, infinite=True)
        for name in ("dual", "cap"):
            value = getattr(self, name)
            if value is not None:
                in_range(f"clipped.{name}", value, 1.0, what="is not above 1")

    def clipped(self, z, signal, units):
        return (signal < 0) & (z < -self.low), (signal > 0) & (z > self.high)

    def _outside(self, z, signal):
        return (signal > 0) & (z > self.high) | (signal < 0) & (z < -self.low)

    def loss(self, z, signal, units):
        # where, not min: outside the band an infinite z must not reach the gradient
        edge = jnp.where(signal > 0, self.high, -self.low)
        kept = jnp.where(self._outside(z, signal), edge, z)
        if self.cap is not None:
            far = jnp.maximum(self.high, self.cap - 1.0)
            kept = jnp.minimum(kept, jnp.where(signal > 0, self.cap - 1.0, far))
        loss = -signal * (1.0 + kept)
        if self.dual is None:
            return loss
        return jnp.where(signal < 0, jnp.minimum(loss, -signal * self.dual), loss)

    def metrics(self, z, signal):
        shares = {"clip_share": self._outside(z, signal).astype(z.dtype)}
        if self.dual is not None:
            worse = (signal < 0) & (1.0 + z > self.dual)
            shares["dual_clip_share"] = worse.astype(z.dtype)
        return shares


@part
class Weighted(Link):
    """-sg(w(u)) A z, u the ratio to the anchor `over` at `level`: a detached weight.

    CISPO: Truncate over old, z = log pi. DFT: Truncate(1) over "none" (u = p), so that
    the loss is -sg(p) log p, whose gradient is that of the total variation 1 - p.
    `level` "own" is the score's.
    """

    weight: Weight
    over: Anchor = "old"
    level: Level | Literal["own"] = "own"

    def loss(self, z, signal, units):
        weight = jax.lax.stop_gradient(self.weight(self._log_ratio(units), signal))
        return -weight * signal * z

    def clipped(self, z, signal, units):
        if self.over == "none":  # a probability, no ratio
            return None
        return self.weight.outside(self._log_ratio(units), signal)

    def _log_ratio(self, units):
        return units.log_ratio(self.over, None if self.level == "own" else self.level)


@part
class SoftGate(Link):
    """-A (4/tau) sigmoid(tau z), tau by the sign of A: SAPO. Source: 2511.20347.

    With z = u - 1 the weight 4 sigma (1 - sigma) is 1 on policy and fades out of a
    band of width 1/tau instead of ending at its edge. tau is `tau_neg` for A <= 0.
    """

    tau_pos: Scalar = 1.0
    tau_neg: Scalar = 1.05

    def __post_init__(self):
        for name in ("tau_pos", "tau_neg"):
            what = "is not positive and finite"
            in_range(f"soft_gate.{name}", getattr(self, name), 0.0, what=what)

    def loss(self, z, signal, units):
        tau = jnp.where(signal > 0, self.tau_pos, self.tau_neg)
        return -signal * 4.0 / tau * jax.nn.sigmoid(tau * z)


@part
class Residual(Link):
    """(A - z)^2 / 2: the implicit reward is regressed on the signal.

    OPMD / Kimi k1.5: z = tau log(pi/old), A = r - mean. DRO, A*-PO: A = r - V.
    `centre` "group" subtracts the group's mean residual: half the variance of r - z
    over the group, in which any constant (log Z) cancels (AGRO; VarGrad).
    """

    centre: Literal["none", "group"] = "none"
    regresses: ClassVar[bool] = True

    def loss(self, z, signal, units):
        residual = signal - z
        if self.centre == "group":
            residual = residual - _group_mean(residual, units.valid)
        return 0.5 * residual**2


@part
class Balance(Link):
    """K_f(z - A/tau + log Z), log Z = sg of the group's mean of A/tau - z: f-TB.

    K_f(d) = int_0^d f'(e^s) ds. With z = log(pi/ref) the argument is log(pi/pi*),
    pi* = ref e^(A/tau)/Z, and on-policy the gradient is that of D_f(pi || pi*).
    reverse_kl: d^2/2, trajectory balance. Source: 2605.15417.
    """

    divergence: Divergence
    tau: Scalar = 1.0
    regresses: ClassVar[bool] = True

    def __post_init__(self):
        in_range("balance.tau", self.tau, 0.0, what="is not positive and finite")
        if not self.divergence.centred:
            raise ValueError(
                f"balance.divergence: {self.divergence!r} is uncentred, K is not least "
                "at 0; write reverse_kl"
            )

    def loss(self, z, signal, units):
        gap = z - signal / self.tau
        centre = jax.lax.stop_gradient(_group_mean(gap, units.valid))
        return self.divergence.k2(gap - centre)


@part
class Contrast(Link):
    """Over pairs of a group: -(A_i - A_j) d + tau/2 d^2, d = z_i - z_j (CoPG).

    Row i gets its share 2n/(n-1) [-(A_i - mean A)(z_i - mean z) + tau/2 (z_i - mean
    z)^2], n the size of the group, so that the mean over rows is the mean over pairs;
    a group of one compares nothing and gets 0. Source: 2406.19185.
    """

    tau: Scalar
    regresses: ClassVar[bool] = True

    def __post_init__(self):
        in_range("contrast.tau", self.tau, 0.0, what="is not positive and finite")

    def loss(self, z, signal, units):
        z = z - _group_mean(z, units.valid)
        signal = signal - _group_mean(signal, units.valid)
        n = units.valid.sum(1, keepdims=True)
        share = jnp.where(n > 1, 2.0 * n / jnp.maximum(n - 1.0, 1.0), 0.0)
        return share * (-signal * z + 0.5 * self.tau * z**2)


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

    def loss(self, z, signal, units):
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
class Gain(Link):
    """|A| (1 - sigmoid(sign(A) z)): Kahneman-Tversky's value of a gain or a loss (KTO).

    A > 0 marks a desirable response, A < 0 an undesirable one, |A| its weight. With z
    measured from a reference point it saturates on both sides. Source: 2402.01306.
    """

    def loss(self, z, signal, units):
        return jnp.abs(signal) * jax.nn.sigmoid(-jnp.sign(signal) * z)


@part
class RowLogistic(Link):
    """-log sigmoid(A z) of each row against its reference point, gradient doubled.

    With the reference point `order_statistics` of rows, z of a chosen row is measured
    from its partner's and the other way round, each partner a constant; the mean over
    rows is then the mean over pairs, in value and in gradient (unpaired AOT).
    `smoothing` as in `Logistic`.
    """

    smoothing: Scalar = 0.0

    def __post_init__(self):
        known = concrete(self.smoothing)
        ok = known is None or 0.0 <= known < 0.5
        require("row_logistic.smoothing", self.smoothing, ok, "is outside [0, 1/2)")

    def loss(self, z, signal, units):
        e, margin = self.smoothing, signal * z
        value = (1.0 - e) * jnp.logaddexp(0.0, -margin) + e * jnp.logaddexp(0.0, margin)
        return 2.0 * value - jax.lax.stop_gradient(value)


def _group_mean(values: Array, valid: Array) -> Array:
    """Mean over the group [P, 1, ...] of the valid units."""
    count = jnp.maximum(valid.sum(1, keepdims=True), 1.0)
    return jnp.where(valid > 0, values, 0.0).sum(1, keepdims=True) / count


LINKS: dict[str, Callable[..., Link]] = {
    "linear": Linear,
    "importance": Importance,
    "clipped": Clipped,
    "weighted": Weighted,
    "soft_gate": SoftGate,
    "residual": Residual,
    "balance": Balance,
    "contrast": Contrast,
    "matching": Matching,
    "gain": Gain,
    "row_logistic": RowLogistic,
}
