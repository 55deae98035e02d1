"""Pair links: a loss per preference from the two implicit rewards.

Those that see the difference only are links of the margin m = z_chosen - z_rejected:
the normaliser lambda(x) of an f-divergence cancels there, and any f will do. The others
see each reward by itself and are meaningful for reverse_kl alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unipost.parts import Scalar, concrete, in_range, part, require

Array = jax.Array


class PairLink(ABC):
    """A loss per pair from the implicit rewards of chosen and rejected."""

    @abstractmethod
    def loss(self, chosen: Array, rejected: Array) -> Array:
        """Loss per pair [P]."""


class MarginLink(PairLink):
    """A link of the margin z_chosen - z_rejected: the normaliser cancels."""

    def loss(self, chosen: Array, rejected: Array) -> Array:
        """Loss per pair [P], from the margin."""
        return self.of_margin(chosen - rejected)

    @abstractmethod
    def of_margin(self, margin: Array) -> Array:
        """Loss per margin."""


def _nll(margin: Array) -> Array:
    """-log sigmoid(m), without overflow."""
    return jnp.logaddexp(0.0, -margin)


def _check_share(where: str, value: Scalar, least: str) -> None:
    """Refuse a known share of flipped labels outside [0, 1/2) or (0, 1/2)."""
    known = concrete(value)
    inside = known is None or 0.0 <= known < 0.5 and (least == "[0" or known > 0.0)
    require(where, value, inside, f"is outside {least}, 1/2)")


@part
class Logistic(MarginLink):
    """-(1-e) log sigmoid(m - gamma) - e log sigmoid(-(m - gamma)): Bradley-Terry.

    e `smoothing`: the share of flipped labels assumed (cDPO). gamma `margin`: the
    lead that chosen must have (SimPO). m is clipped to +-`bound` (chi-PO: 2 R_max).
    log 2 at m = 0 with the defaults: DPO, f-DPO.
    """

    smoothing: Scalar = 0.0
    margin: Scalar = 0.0
    bound: Scalar | None = None

    def __post_init__(self):
        _check_share("logistic.smoothing", self.smoothing, "[0")
        in_range("logistic.margin", self.margin, what="is not finite")
        if self.bound is not None:
            in_range("logistic.bound", self.bound, 0.0, what="is not positive")

    def of_margin(self, margin):
        if self.bound is not None:
            margin = jnp.clip(margin, -self.bound, self.bound)
        lead, e = margin - self.margin, self.smoothing
        if concrete(e) == 0.0:  # 0 * an infinite loss would be NaN
            return _nll(lead)
        return (1.0 - e) * _nll(lead) + e * _nll(-lead)


@part
class RobustLogistic(MarginLink):
    """[-(1-e) log sigmoid(m) + e log sigmoid(-m)] / (1 - 2e): robust DPO. 2403.00409.

    Unbiased for the loss on clean labels when a share e of them is flipped; may be
    negative.
    """

    noise: Scalar

    def __post_init__(self):
        _check_share("robust_logistic.noise", self.noise, "(0")

    def of_margin(self, margin):
        e = self.noise
        return ((1.0 - e) * _nll(margin) - e * _nll(-margin)) / (1.0 - 2.0 * e)


@part
class Hinge(MarginLink):
    """max(0, 1 - m): SLiC, 2305.10425. The gradient is 0 beyond m = 1."""

    def of_margin(self, margin):
        return jax.nn.relu(1.0 - margin)


@part
class Squared(MarginLink):
    """(m - 1/(2 tau))^2: IPO, with m the difference of log-ratios."""

    tau: Scalar = 0.1

    def __post_init__(self):
        in_range("squared.tau", self.tau, 0.0, what="is not positive")

    def of_margin(self, margin):
        return (margin - 1.0 / (2.0 * self.tau)) ** 2


@part
class Exo(MarginLink):
    """KL(q || p), q = (sigmoid(m), sigmoid(-m)), p = (1 - e, e): EXO. 2402.00856.

    The reverse KL where cDPO has the forward one: cross-entropy against q.
    """

    smoothing: Scalar = 1e-3

    def __post_init__(self):
        _check_share("exo.smoothing", self.smoothing, "(0")

    def of_margin(self, margin):
        q, e = jax.nn.sigmoid(margin), self.smoothing
        chosen = q * (-_nll(margin) - jnp.log1p(-e))
        return chosen + (1.0 - q) * (-_nll(-margin) - jnp.log(e))


@part
class DiscoPOP(MarginLink):
    """(1 - g) (-log sigmoid(m)) + g e^-m, g = sigmoid(m/tau): DiscoPOP, 2406.08414."""

    tau: Scalar = 0.05

    def __post_init__(self):
        in_range("discopop.tau", self.tau, 0.0, what="is not positive")

    def of_margin(self, margin):
        gate = jax.nn.sigmoid(margin / self.tau)
        return (1.0 - gate) * _nll(margin) + gate * jnp.exp(-margin)


@part
class NoiseContrastive(PairLink):
    """-log sig(z_w) - [log sig(-z_w) + log sig(-z_l)] / 2: NCA on a pair. 2402.05369.

    Unlike DPO it keeps the likelihood of the chosen response from falling.
    """

    def loss(self, chosen, rejected):
        return _nll(chosen) + 0.5 * (_nll(-chosen) + _nll(-rejected))


@part
class BinaryClassifier(PairLink):
    """-log sig(z_w - d) - log sig(-(z_l - d)): BCO on a pair, d the `shift`.

    d is the mean reward of the method's running average; 0 as TRL 1.x. 2404.04656.
    """

    shift: Scalar = 0.0

    def __post_init__(self):
        in_range("binary_classifier.shift", self.shift, what="is not finite")

    def loss(self, chosen, rejected):
        return _nll(chosen - self.shift) + _nll(self.shift - rejected)


@part
class SelfPlay(PairLink):
    """(z_w - target)^2 + (z_l + target)^2: SPPO with a hard win probability.

    z = log u, so that target is 1/(2 beta) of the paper. Source: 2405.00675.
    """

    target: Scalar

    def __post_init__(self):
        in_range("self_play.target", self.target, 0.0, what="is not positive")

    def loss(self, chosen, rejected):
        return (chosen - self.target) ** 2 + (rejected + self.target) ** 2


@part
class AnchoredUp(PairLink):
    """1 - sig(z_w) + sig(z_l): APO-zero, chosen up and rejected down. 2408.06266."""

    def loss(self, chosen, rejected):
        return jax.nn.sigmoid(-chosen) + jax.nn.sigmoid(rejected)


@part
class AnchoredDown(PairLink):
    """sig(z_w) + 1 - sig(z_w - z_l): APO-down, both down, rejected more. 2408.06266."""

    def loss(self, chosen, rejected):
        return jax.nn.sigmoid(chosen) + jax.nn.sigmoid(rejected - chosen)


PAIR_LINKS: dict[str, Callable[..., PairLink]] = {
    "logistic": Logistic,
    "robust_logistic": RobustLogistic,
    "hinge": Hinge,
    "squared": Squared,
    "exo": Exo,
    "discopop": DiscoPOP,
    "noise_contrastive": NoiseContrastive,
    "binary_classifier": BinaryClassifier,
    "self_play": SelfPlay,
    "anchored_up": AnchoredUp,
    "anchored_down": AnchoredDown,
}
