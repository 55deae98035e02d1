"""What a divergence is: a convex generator f, always evaluated at log u.

D_f(policy || other) = E_other[f(u)], u = policy/other. Generators are centred,
f(1) = f'(1) = 0, with the textbook constants. A divergence of one's own needs `f` and
`f_prime`; the rest follows automatically or numerically, or is refused by name:

    @unipost.part
    class LeCam(unipost.Divergence):
        '''sum (p - q)^2 / (p + q); f(u) = (u - 1)^2 / (u + 1).'''
        def f(self, log_u):
            return jnp.expm1(log_u) * jnp.tanh(log_u / 2)
        def f_prime(self, log_u):
            return jnp.tanh(log_u / 2) * (1 + 2 * jax.nn.sigmoid(-log_u))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from unipost.parts import Scalar
from unipost.special import (
    at_least_float32,
    bisect_increasing,
    integrate_from_zero,
)

Array = jax.Array

_LOG_RANGE = 88.0  # exp stays finite in float32


class Constants(NamedTuple):
    """f''(1) (None: no curvature), f(0+), f'(0+), f'(inf), and whether f'(1) = 0."""

    curvature: Scalar | None
    f_at_zero: Scalar
    slope_at_zero: Scalar
    slope_at_infinity: Scalar
    centred: bool = True


class Divergence(ABC):
    """A generator f with everything that losses and estimators derive from it.

    Every method is elementwise in log u (or in the dual variable), in float32 or
    float64: finite wherever the value is representable, a signed infinity beyond,
    never NaN for |log u| <= 80.
    """

    @abstractmethod
    def f(self, log_u: Array) -> Array:
        """The generator f(u)."""

    @abstractmethod
    def f_prime(self, log_u: Array) -> Array:
        """f'(u): beta * f'(policy/anchor) is the implicit reward. Also k1."""

    def f_prime_inverse(self, t: Array) -> Array:
        """u = (f')^-1(t); 0 below f'(0+), inf above f'(inf). Default: bisection."""
        if self.curvature is None:
            raise ValueError(
                f"{self!r}: f' has no inverse (f has no curvature); give the methods "
                "conjugate and f_prime_inverse"
            )
        return _numeric_inverse(self, at_least_float32(t))

    def conjugate(self, t: Array) -> Array:
        """f*(t) = sup_{u >= 0} t u - f(u); -f(0) below f'(0+), inf above f'(inf)."""
        t = at_least_float32(t)
        inside = (t > self.slope_at_zero) & (t < self.slope_at_infinity)
        safe = jnp.where(inside, t, jnp.asarray(self.f_prime(jnp.zeros_like(t))))
        u = self.f_prime_inverse(safe)
        value = safe * u - self.f(jnp.log(u))
        below = jnp.where(t <= self.slope_at_zero, -self.f_at_zero, jnp.inf)
        return jnp.where(inside, value, below)

    def phi(self, x: Array) -> Array:
        """phi(x) = -f*(-x): the matching loss is -phi. -inf for x < -f'(inf).

        phi saturates at f(0) for x >= -f'(0+) where f'(0+) is finite (Pearson, TV).
        """
        return -self.conjugate(-at_least_float32(x))

    def k2(self, log_u: Array) -> Array:
        """K(d) = int_0^d f'(e^s) ds: k2 generalised to any f (KL: d^2/2).

        As a loss on samples of the policy its gradient is that of D_f; its value is
        not D_f. Default: Gauss-Legendre value with the exact derivative f'.
        """
        return _numeric_k2(self, at_least_float32(log_u))

    def k3(self, log_u: Array) -> Array:
        """f(u)/u: k3 generalised to any f; E_policy[f(u)/u] = D_f(policy || other)."""
        log_u = at_least_float32(log_u)
        return self.f(log_u) * jnp.exp(-log_u)

    def constants(self) -> Constants:
        """Limits of f and f'. Default: read off f and f' numerically.

        A limit of f' is taken as infinite when f' still grows at log u = +-80 at least
        like log u; f(0+) when f there is above 1e6; the curvature is None where f' has
        slope 0. Give this method where that is not so.
        """
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self)):
            return self._read_off()  # traced: checked already where it was made
        with jax.ensure_compile_time_eval():
            values = [float(jnp.asarray(x)) for x in self._read_off()[:4]]
            slope = float(self.f_prime(jnp.float32(0.0)))
        curvature = values[0] if values[0] > 1e-6 else None
        return Constants(curvature, *values[1:], centred=abs(slope) < 1e-6)

    def _read_off(self) -> Constants:
        zero, far = jnp.float32(0.0), jnp.float32(-80.0)
        at_zero = self.f(far)
        return Constants(
            jax.grad(self.f_prime)(zero),
            jnp.where(at_zero > 1e6, jnp.inf, at_zero),
            _limit(self, -1.0),
            _limit(self, 1.0),
        )

    @property
    def curvature(self) -> Scalar | None:
        """f''(1); None where f has a kink or is flat there (TV, hockey stick)."""
        return self.constants().curvature

    @property
    def centred(self) -> bool:
        """Whether f'(1) = 0. Only then is a zero implicit reward the same as u = 1."""
        return self.constants().centred

    @property
    def f_at_zero(self) -> Scalar:
        """f(0+)."""
        return self.constants().f_at_zero

    @property
    def slope_at_zero(self) -> Scalar:
        """f'(0+): -inf is what makes a preference link admissible."""
        return self.constants().slope_at_zero

    @property
    def slope_at_infinity(self) -> Scalar:
        """f'(inf): the upper bound of the implicit reward (times beta)."""
        return self.constants().slope_at_infinity


def _limit(divergence: Divergence, side: float) -> Array:
    """f' at the end of `side`: infinite if its steps double as those of log u do."""
    near, middle, far = (
        divergence.f_prime(jnp.float32(side * x)) for x in (20.0, 40.0, 80.0)
    )
    first, second = jnp.abs(middle - near), jnp.abs(far - middle)
    grows = ~(second < 1.9 * first) & (second > 1e-3) | ~jnp.isfinite(far)
    return jnp.where(grows, side * jnp.inf, far)


@jax.custom_jvp
def _numeric_k2(divergence: Divergence, log_u: Array) -> Array:
    return integrate_from_zero(divergence.f_prime, log_u)


@_numeric_k2.defjvp
def _numeric_k2_jvp(primals, tangents):
    # The quadrature's own derivative would integrate f'' again, 256 times.
    divergence, log_u = primals
    slope = divergence.f_prime(log_u)
    return _numeric_k2(divergence, log_u), slope * tangents[1]


@jax.custom_jvp
def _numeric_inverse(divergence: Divergence, t: Array) -> Array:
    u = jnp.exp(bisect_increasing(divergence.f_prime, t, _LOG_RANGE))
    u = jnp.where(t <= divergence.slope_at_zero, 0.0, u)
    return jnp.where(t >= divergence.slope_at_infinity, jnp.inf, u)


@_numeric_inverse.defjvp
def _numeric_inverse_jvp(primals, tangents):
    divergence, t = primals
    u = _numeric_inverse(divergence, t)
    inside = (u > 0) & jnp.isfinite(u)
    log_u = jnp.log(jnp.where(inside, u, 1.0))
    ones = jnp.ones_like(log_u)
    _, slope = jax.jvp(divergence.f_prime, (log_u,), (ones,))  # u f''(u)
    return u, jnp.where(inside, u / slope, 0.0) * tangents[1]
