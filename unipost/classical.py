"""The divergences without a parameter, each from log u in a few exact lines.

D_f(policy || other) with u = policy/other: `reverse_kl` is KL(policy || other),
`forward_kl` is KL(other || policy). Constants are the textbook ones, so that every
paper's beta means what the paper says; f''(1) is the property `curvature`, and
`unit_curvature` rescales to f''(1) = 1 for ablations that hold it fixed.

Below, u = e^d and g(d) = e^d - 1 - d, which `expm1m` evaluates without cancellation;
most generators are one or two g's.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import spence

from unipost.divergence import Constants, Divergence
from unipost.parts import part
from unipost.special import (
    LOG2,
    at_least_float32,
    exp_plus_inverse,
    expm1m,
    integrate_from_zero,
    log2_sigmoid,
    log_cosh,
)

INF = math.inf


def below(t, end, inside, value_at, *, closed=False):
    """`value_at(t)` for t below `end`, inf from there on, with a finite gradient."""
    t = at_least_float32(t)
    ok = (t <= end) if closed else (t < end)
    return jnp.where(ok, value_at(jnp.where(ok, t, inside)), jnp.inf)


@part
class ReverseKL(Divergence):
    """KL(policy || other): f = u log u - u + 1, f' = log u. RLHF, DPO, SFT, REINFORCE.

    k2 = d^2/2 and k3 = e^-d - 1 + d are Schulman's (joschu.net/blog/kl-approx.html).
    """

    def constants(self):
        return Constants(1.0, 1.0, -INF, INF)

    def f(self, log_u):
        d = at_least_float32(log_u)
        return jnp.exp(d) * expm1m(-d)

    def f_prime(self, log_u):
        return at_least_float32(log_u)

    def f_prime_inverse(self, t):
        return jnp.exp(at_least_float32(t))

    def conjugate(self, t):
        return jnp.expm1(at_least_float32(t))

    def k2(self, log_u):
        return 0.5 * at_least_float32(log_u) ** 2

    def k3(self, log_u):
        return expm1m(-at_least_float32(log_u))


@part
class ForwardKL(Divergence):
    """KL(other || policy): f = u - 1 - log u, f' = 1 - 1/u."""

    def constants(self):
        return Constants(1.0, INF, -INF, 1.0)

    def f(self, log_u):
        return expm1m(log_u)

    def f_prime(self, log_u):
        return -jnp.expm1(-at_least_float32(log_u))

    def f_prime_inverse(self, t):
        return below(t, 1.0, 0.0, lambda t: 1.0 / (1.0 - t))

    def conjugate(self, t):
        return below(t, 1.0, 0.0, lambda t: -jnp.log1p(-t))

    def k2(self, log_u):
        return expm1m(-at_least_float32(log_u))

    def k3(self, log_u):
        d = at_least_float32(log_u)
        return jnp.exp(-d) * expm1m(d)


@part
class JensenShannon(Divergence):
    """KL(policy || M) + KL(other || M), M the mixture: twice the JSD.

    f = u log u - (1+u) log((1+u)/2), f' = log(2u/(1+u)), bounded by log 2.
    """

    def constants(self):
        return Constants(0.5, LOG2, -INF, LOG2)

    def f(self, log_u):
        d = at_least_float32(log_u)
        small = jnp.abs(d) < 1.0
        s = jnp.where(small, d, 0.0)
        near = jnp.expm1(s) * s / 2 - (jnp.exp(s) + 1.0) * log_cosh(s / 2)
        far = jnp.exp(d) * log2_sigmoid(d) + log2_sigmoid(-d)
        return jnp.where(small, near, far)

    def f_prime(self, log_u):
        return log2_sigmoid(log_u)

    def f_prime_inverse(self, t):
        return below(t, LOG2, 0.0, lambda t: jnp.exp(t) / (1.0 - jnp.expm1(t)))

    def conjugate(self, t):
        return below(t, LOG2, 0.0, lambda t: -jnp.log1p(-jnp.expm1(t)))

    def k2(self, log_u):
        return _jensen_shannon_k2(at_least_float32(log_u))


@part
class PearsonChi2(Divergence):
    """sum (p - q)^2 / q: f = (u - 1)^2, f' = 2 (u - 1).

    `unit_curvature(PearsonChi2())` has f' = u - 1: the importance ratio itself. f'(0)
    = -2 is finite, so an optimum may drop actions, and phi is flat from x = 2 on.
    """

    def constants(self):
        return Constants(2.0, 1.0, -2.0, INF)

    def f(self, log_u):
        return jnp.expm1(at_least_float32(log_u)) ** 2

    def f_prime(self, log_u):
        return 2.0 * jnp.expm1(at_least_float32(log_u))

    def f_prime_inverse(self, t):
        return jnp.maximum(1.0 + at_least_float32(t) / 2, 0.0)

    def conjugate(self, t):
        t = jnp.maximum(at_least_float32(t), -2.0)
        return t + t * t / 4

    def k2(self, log_u):
        return 2.0 * expm1m(log_u)

    def k3(self, log_u):
        d = at_least_float32(log_u)
        return -jnp.expm1(d) * jnp.expm1(-d)


@part
class NeymanChi2(Divergence):
    """sum (p - q)^2 / p: f = (u - 1)^2 / u, f' = 1 - u^-2."""

    def constants(self):
        return Constants(2.0, INF, -INF, 1.0)

    def f(self, log_u):
        d = at_least_float32(log_u)
        return -jnp.expm1(d) * jnp.expm1(-d)

    def f_prime(self, log_u):
        return -jnp.expm1(-2.0 * at_least_float32(log_u))

    def f_prime_inverse(self, t):
        return below(t, 1.0, 0.0, lambda t: 1.0 / jnp.sqrt(1.0 - t))

    def conjugate(self, t):
        # 2 - 2 sqrt(1 - t), written without its cancellation near t = 0
        return below(
            t, 1.0, 0.0, lambda t: 2 * t / (1 + jnp.sqrt(1.0 - t)), closed=True
        )

    def k2(self, log_u):
        return 0.5 * expm1m(-2.0 * at_least_float32(log_u))

    def k3(self, log_u):
        return jnp.expm1(-at_least_float32(log_u)) ** 2


@part
class SquaredHellinger(Divergence):
    """sum (sqrt p - sqrt q)^2 = 2 H^2: f = (sqrt u - 1)^2, f' = 1 - u^(-1/2)."""

    def constants(self):
        return Constants(0.5, 1.0, -INF, 1.0)

    def f(self, log_u):
        return jnp.expm1(at_least_float32(log_u) / 2) ** 2

    def f_prime(self, log_u):
        return -jnp.expm1(-at_least_float32(log_u) / 2)

    def f_prime_inverse(self, t):
        return below(t, 1.0, 0.0, lambda t: (1.0 - t) ** -2)

    def conjugate(self, t):
        return below(t, 1.0, 0.0, lambda t: t / (1.0 - t))

    def k2(self, log_u):
        return 2.0 * expm1m(-at_least_float32(log_u) / 2)

    def k3(self, log_u):
        return jnp.expm1(-at_least_float32(log_u) / 2) ** 2


@part
class Jeffreys(Divergence):
    """KL(policy || other) + KL(other || policy): f = (u-1) log u, f' = log u + 1 - 1/u.

    (f')^-1(t) = 1 / omega(1 - t) with the Wright omega function.
    """

    def constants(self):
        return Constants(2.0, INF, -INF, INF)

    def f(self, log_u):
        d = at_least_float32(log_u)
        return jnp.expm1(d) * d

    def f_prime(self, log_u):
        d = at_least_float32(log_u)
        return d - jnp.expm1(-d)

    def f_prime_inverse(self, t):
        return jnp.exp(-exp_plus_inverse(-at_least_float32(t)))

    def conjugate(self, t):
        log_u = -exp_plus_inverse(-at_least_float32(t))
        return jnp.expm1(log_u) + log_u

    def k2(self, log_u):
        d = at_least_float32(log_u)
        return 0.5 * d * d + expm1m(-d)

    def k3(self, log_u):
        d = at_least_float32(log_u)
        return -d * jnp.expm1(-d)


@part
class Chi2KL(Divergence):
    """chi^2/2 + KL(policy || other): f' = u - 1 + log u, the mixture of chi-PO.

    (f')^-1(t) = omega(1 + t). Source: Huang et al. 2407.13399.
    """

    def constants(self):
        return Constants(2.0, 1.5, -INF, INF)

    def f(self, log_u):
        d = at_least_float32(log_u)
        return 0.5 * jnp.expm1(d) ** 2 + jnp.exp(d) * expm1m(-d)

    def f_prime(self, log_u):
        d = at_least_float32(log_u)
        return jnp.expm1(d) + d

    def f_prime_inverse(self, t):
        return jnp.exp(exp_plus_inverse(t))

    def conjugate(self, t):
        grown = jnp.expm1(exp_plus_inverse(t))  # u - 1
        return 0.5 * grown * (grown + 4.0)

    def k2(self, log_u):
        d = at_least_float32(log_u)
        return expm1m(d) + 0.5 * d * d

    def k3(self, log_u):
        d = at_least_float32(log_u)
        return -0.5 * jnp.expm1(d) * jnp.expm1(-d) + expm1m(-d)


@part
class TotalVariation(Divergence):
    """sum |p - q| / 2: f = |u - 1| / 2, f' = sign(u - 1) / 2.

    No curvature and no inverse. phi(x) = min(x, 1/2), -inf below -1/2: SFT inside
    its domain.
    """

    def constants(self):
        return Constants(None, 0.5, -0.5, 0.5)

    def f(self, log_u):
        return 0.5 * jnp.abs(jnp.expm1(at_least_float32(log_u)))

    def f_prime(self, log_u):
        return 0.5 * jnp.sign(at_least_float32(log_u))

    def conjugate(self, t):
        t = at_least_float32(t)
        return jnp.where(t <= 0.5, jnp.maximum(t, -0.5), jnp.inf)

    def k2(self, log_u):
        return 0.5 * jnp.abs(at_least_float32(log_u))

    def k3(self, log_u):
        return 0.5 * jnp.abs(jnp.expm1(-at_least_float32(log_u)))


@jax.custom_jvp
def _jensen_shannon_k2(d):
    """d log 2 + d^2/2 + Li2(-u) + pi^2/12, reflected so that nothing cancels.

    Li2(-x) = spence(1 + x). Close to 0 the quadrature of the exact slope is used: the
    closed form there is the difference of two numbers near 0.82.
    """
    small = jnp.abs(d) < 2.0
    near = integrate_from_zero(log2_sigmoid, jnp.where(small, d, 0.0), panels=1)
    far = jnp.where(small, 2.0, d)
    tail = spence(1.0 + jnp.exp(-jnp.abs(far)))
    up = far * LOG2 - math.pi**2 / 12 - tail
    down = far * LOG2 + far * far / 2 + math.pi**2 / 12 + tail
    return jnp.where(small, near, jnp.where(far > 0, up, down))


@_jensen_shannon_k2.defjvp
def _jensen_shannon_k2_jvp(primals, tangents):
    # spence has no derivative rule, and the exact slope is known
    (d,), (d_dot,) = primals, tangents
    return _jensen_shannon_k2(d), log2_sigmoid(d) * d_dot
