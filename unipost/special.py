"""Scalar functions that stay accurate where the textbook forms cancel or overflow.

All are elementwise, differentiable, and work in float32 and float64. They are the
only numerics that the divergences need.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

LOG2 = float(np.log(2.0))


def log1mexp(x: Array) -> Array:
    """log(1 - e^x) for x < 0, accurate at both ends; -inf at 0."""
    near = x > -LOG2
    low = jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x)))
    high = jnp.log(-jnp.expm1(jnp.where(near, x, -1.0)))
    return jnp.where(near, high, low)


def at_least_float32(x) -> Array:
    """`x` as a floating array of 32 bits or more (bf16 log-ratios lose the ratio)."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def expm1m(d: Array) -> Array:
    """e^d - 1 - d, exact to rounding also near 0 (series below |d| = 1/2)."""
    d = at_least_float32(d)
    small = jnp.abs(d) < 0.5
    s = jnp.where(small, d, 0.0)
    series = jnp.ones_like(s)
    for n in range(16, 2, -1):  # Horner form of 2/d^2 * sum_{n>=2} d^n / n!
        series = 1.0 + s / n * series
    # exp overflows to inf from log u = 89 on in float32; inf - d is still inf
    return jnp.where(small, 0.5 * s * s * series, jnp.expm1(d) - d)


def log_cosh(x: Array) -> Array:
    """log cosh x for |x| <= 1/2: log1p(2 sinh^2(x/2)) keeps the leading x^2/2."""
    return jnp.log1p(-0.5 * jnp.expm1(x) * jnp.expm1(-x))


def log2_sigmoid(d: Array) -> Array:
    """log(2 sigmoid(d)) = log(2u/(1+u)), accurate near 0 and bounded by log 2."""
    d = at_least_float32(d)
    small = jnp.abs(d) < 1.0
    s = jnp.where(small, d, 0.0)
    return jnp.where(small, s / 2 - log_cosh(s / 2), LOG2 - jnp.logaddexp(0.0, -d))


@jax.custom_jvp
def exp_plus_inverse(t: Array) -> Array:
    """The l with e^l - 1 + l = t, that is l = log omega(1 + t), omega = Wright omega.

    Newton from an upper bound of the root: the function is convex and increasing, so
    the iterates fall monotonically; eight steps reach rounding for any finite t.
    """
    t = at_least_float32(t)
    grown = jnp.where(t > 0, jnp.log1p(jnp.maximum(t, 0.0)), t + 1.0)
    low = jnp.minimum(t / 2, grown)
    for _ in range(8):
        low = low - (jnp.expm1(low) + low - t) / (jnp.exp(low) + 1.0)
    return jnp.where(jnp.isinf(t), t, low)


@exp_plus_inverse.defjvp
def _exp_plus_inverse_jvp(primals, tangents):
    (t,), (t_dot,) = primals, tangents
    root = exp_plus_inverse(t)
    return root, t_dot / (jnp.exp(root) + 1.0)


_NODES = (np.polynomial.legendre.leggauss(16)[0] + 1.0) / 2.0
_WEIGHTS = np.polynomial.legendre.leggauss(16)[1] / 2.0


def integrate_from_zero(fn: Callable[[Array], Array], d: Array, panels: int = 16):
    """int_0^d fn(s) ds by composite 16-point Gauss-Legendre on `panels` equal pieces.

    Relative accuracy holds near d = 0, because the step scales with d.
    """
    d = at_least_float32(d)
    offsets = (np.arange(panels)[:, None] + _NODES).reshape(-1) / panels
    weights = np.tile(_WEIGHTS, panels) / panels
    nodes = jnp.asarray(offsets, d.dtype), jnp.asarray(weights, d.dtype)

    def add(i, total):  # a loop: unrolled, fn would stand 256 times in the program
        offset, weight = (x[i] for x in nodes)
        return total + weight * fn(offset * d)

    return d * jax.lax.fori_loop(0, len(offsets), add, jnp.zeros_like(d))


def bisect_increasing(fn: Callable[[Array], Array], t: Array, bound: float) -> Array:
    """The x in [-bound, bound] with fn(x) = t for an increasing fn (nearest end else).

    70 halvings: below float64 rounding for bound = 88.
    """
    t = at_least_float32(t)
    low, high = jnp.full_like(t, -bound), jnp.full_like(t, bound)

    def halve(_, ends):
        low, high = ends
        mid = 0.5 * (low + high)
        below = fn(mid) < t
        return jnp.where(below, mid, low), jnp.where(below, high, mid)

    low, high = jax.lax.fori_loop(0, 70, halve, (low, high))
    return 0.5 * (low + high)
