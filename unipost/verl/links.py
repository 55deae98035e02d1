"""Links that only verl has."""

from __future__ import annotations

import jax.numpy as jnp

from unipost.links import Link
from unipost.parts import Scalar, in_range, part


@part
class QuadraticRatio(Link):
    """-A z + beta/2 log(pi/old)^2, z = log pi (dro).

    Up to a constant 1/beta times `Residual` of z = beta log(pi/old).
    """

    beta: Scalar

    def __post_init__(self):
        what = "is not positive and finite"
        in_range("quadratic_ratio.beta", self.beta, 0.0, what=what)

    @property
    def over(self):
        return "old"

    def loss(self, z, signal, units):
        return -signal * z + 0.5 * self.beta * units.log_ratio("old", None) ** 2


@part
class Distance(Link):
    """|z|, whatever the signal: with z = log(pi/old) the penalty of kl_cov."""

    def loss(self, z, signal, units):
        return jnp.abs(z)
