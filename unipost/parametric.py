"""Divergences with a parameter, and divergences made of divergences."""

from __future__ import annotations

import math

import jax
import jax.core
import jax.numpy as jnp

from unipost.classical import (
    ForwardKL,
    Jeffreys,
    JensenShannon,
    NeymanChi2,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    below,
)
from unipost.divergence import Constants, Divergence
from unipost.parts import Scalar, concrete, in_range, part
from unipost.special import at_least_float32, expm1m, log1mexp

INF = math.inf


def _log(value: Scalar):
    # a Python number must stay one: jnp.log would fix its dtype to the default
    known = concrete(value)
    return jnp.log(value) if known is None else math.log(known)


@part
class Alpha(Divergence):
    """The alpha family in f-DPO's parameter: f' = (1 - u^-a) / a, any a < 1, a != 0.

    f = (u^(1-a) - (1-a) u - a) / (a (a-1)). a -> 0 is reverse_kl, a -> 1 forward_kl,
    a = 1/2 twice squared_hellinger, a = -1 half Pearson (f' = u - 1). In other names:
    a = 1 - a_TRL (since its 2026 refactor) = -a of Box-Cox.
    """

    a: Scalar

    def __post_init__(self):
        what = "is outside a < 1, a != 0; write forward_kl for 1, reverse_kl for 0"
        in_range("alpha.a", self.a, high=1.0, what=what)
        if concrete(self.a) == 0.0:
            raise ValueError(f"alpha.a: 0 {what}")

    @property
    def _a(self):
        # a traced a may be 0: the limit is smooth, so step over it
        known = concrete(self.a)
        return known or jnp.where(jnp.abs(self.a) < 1e-6, 1e-6, self.a)

    def constants(self):
        a, at_zero = concrete(self.a), 1.0 / (1.0 - self.a)
        if a is None:
            limit = 1.0 / self._a
            low = jnp.where(limit > 0, -jnp.inf, limit)
            return Constants(1.0, at_zero, low, jnp.where(limit > 0, limit, jnp.inf))
        low, high = (-INF, 1.0 / a) if a > 0 else (1.0 / a, INF)
        return Constants(1.0, at_zero, low, high)

    def f(self, log_u):
        low, high = self._forms(log_u)
        return jnp.exp(low[0]) * low[1] + high[1]

    def f_prime(self, log_u):
        return -jnp.expm1(-self._a * at_least_float32(log_u)) / self._a

    def f_prime_inverse(self, t):
        a, inside, log_base = self._log_base(t)
        outside = jnp.where(a > 0, jnp.inf, 0.0)
        return jnp.where(inside, jnp.exp(-log_base / a), outside)

    def conjugate(self, t):
        a, inside, log_base = self._log_base(t)
        value = jnp.expm1((a - 1.0) / a * log_base) / (1.0 - a)
        return jnp.where(inside, value, jnp.where(a > 0, jnp.inf, -1.0 / (1.0 - a)))

    def _log_base(self, t):
        """a, whether 1 - a t > 0, and log(1 - a t) there."""
        a, t = self._a, at_least_float32(t)
        inside = a * t < 1.0
        return a, inside, jnp.log1p(-a * jnp.where(inside, t, 0.0))

    def k2(self, log_u):
        return expm1m(-self._a * at_least_float32(log_u)) / self._a**2

    def k3(self, log_u):
        low, high = self._forms(log_u)
        return low[1] + jnp.exp(-high[0]) * high[1]

    def _forms(self, log_u):
        """(d, f/u) where a < 1/2 and (d, f) elsewhere; (0, 0) where not selected.

        Two equal forms: the first is exact as a -> 0, the second as a -> 1. The one
        not selected is evaluated at 0, since its overflow would poison the gradient.
        """
        d, a = at_least_float32(log_u), self._a
        low, high = jnp.where(a < 0.5, d, 0.0), jnp.where(a < 0.5, 0.0, d)
        over_u = (expm1m(-low) - expm1m(-a * low) / a) / (1.0 - a)
        plain = (expm1m(high) - expm1m((1.0 - a) * high) / (1.0 - a)) / a
        return (low, over_u), (high, plain)


@part
class HockeyStick(Divergence):
    """E_other[(u - gamma)_+], gamma > 1: f = max(u - gamma, 0), f' = 1{u > gamma}.

    The PPO clip is an importance-sampled objective minus |A| times this. No curvature
    and no inverse.
    """

    gamma: Scalar

    def constants(self):
        return Constants(None, 0.0, 0.0, 1.0)

    def __post_init__(self):
        in_range("hockey_stick.gamma", self.gamma, 1.0, what="is not above 1")

    def f(self, log_u):
        return jnp.maximum(jnp.exp(at_least_float32(log_u)) - self.gamma, 0.0)

    def f_prime(self, log_u):
        d = at_least_float32(log_u)
        return jnp.where(d > _log(self.gamma), 1.0, 0.0).astype(d.dtype)

    def conjugate(self, t):
        t = at_least_float32(t)
        return jnp.where(t <= 1.0, self.gamma * jnp.maximum(t, 0.0), jnp.inf)

    def k2(self, log_u):
        return jnp.maximum(at_least_float32(log_u) - _log(self.gamma), 0.0)

    def k3(self, log_u):
        d = at_least_float32(log_u)
        return jnp.maximum(1.0 - self.gamma * jnp.exp(-d), 0.0)


@part
class Shaping(Divergence):
    """LUFFY's shaping f'(u) = u / (u + gamma), uncentred; used with no anchor (u = p).

    f = u - 1 - gamma log((u+gamma)/(1+gamma)). The weight on grad log p is
    gamma p / (p+gamma)^2, largest (1/4) at p = gamma. Source: 2504.14945 Eq 6.
    """

    gamma: Scalar = 0.1

    def __post_init__(self):
        in_range("shaping.gamma", self.gamma, 0.0, what="is not positive")

    def constants(self):
        gamma = self.gamma
        at_zero = -1.0 - gamma * (jnp.log(gamma) - jnp.log1p(gamma))
        known = concrete(gamma)
        if known is not None:
            at_zero = -1.0 - known * math.log(known / (1.0 + known))
        return Constants(gamma / (1.0 + gamma) ** 2, at_zero, 0.0, 1.0, centred=False)

    def f(self, log_u):
        d = at_least_float32(log_u)
        return jnp.expm1(d) - self.gamma * self.k2(d)

    def f_prime(self, log_u):
        z = at_least_float32(log_u) - _log(self.gamma)
        return jnp.exp(-jnp.logaddexp(0.0, -z))

    def f_prime_inverse(self, t):
        u = below(t, 1.0, 0.0, lambda t: self.gamma * t / (1.0 - t))
        return jnp.maximum(u, 0.0)

    def conjugate(self, t):
        def inside(t):
            t = jnp.maximum(t, 0.0)
            tail = _log(self.gamma / (1.0 + self.gamma)) - jnp.log1p(-t)
            return 1.0 - self.gamma * t + self.gamma * tail

        return below(t, 1.0, 0.0, inside)

    def k2(self, log_u):
        # log((u + gamma) / (1 + gamma)) = log1p((u - 1)/(1 + gamma)) for small u
        d = at_least_float32(log_u)
        grown = jnp.expm1(jnp.minimum(d, 1.0)) / (1.0 + self.gamma)
        near = jnp.log1p(grown)
        log_gamma = _log(self.gamma)
        far = jnp.logaddexp(d, log_gamma) - _log(1.0 + self.gamma)
        return jnp.where(d < 1.0, near, far)


@part
class LogOdds(Divergence):
    """f' = log(u / (1 - u)), the log odds of a probability u < 1: ORPO's reward.

    f = u log u + (1 - u) log(1 - u), minus the entropy of a coin. A score on bare
    probabilities, for no anchor; uncentred, without limit at u = 1. 2403.07691.
    """

    def constants(self):
        return Constants(INF, 0.0, -INF, INF, centred=False)

    def f(self, log_u):
        log_u, inside = self._inside(log_u)
        rest = -jnp.expm1(log_u) * log1mexp(log_u)
        return jnp.where(inside, jnp.exp(log_u) * log_u + rest, jnp.inf)

    def f_prime(self, log_u):
        log_u, inside = self._inside(log_u)
        return jnp.where(inside, log_u - log1mexp(log_u), jnp.inf)

    def _inside(self, log_u):
        """(log u below 0, whether it was): at u = 1 and beyond there is no odds."""
        log_u = at_least_float32(log_u)
        return jnp.where(log_u < 0, log_u, -1.0), log_u < 0

    def f_prime_inverse(self, t):
        return jax.nn.sigmoid(at_least_float32(t))

    def conjugate(self, t):
        return jax.nn.softplus(at_least_float32(t))


@part
class SkewJensenShannon(Divergence):
    """w KL(other || m) + (1 - w) KL(policy || m), m = w other + (1 - w) policy.

    f = -w log v + (1 - w) u log(u/v), v = w + (1 - w) u. w = 1/2 is the Jensen-Shannon
    divergence, half of `jensen_shannon`; generalised JSD of GKD with beta = w, whose
    ends 0 and 1 are forward_kl and reverse_kl. Source: 2306.13649.
    """

    w: Scalar = 0.5

    def __post_init__(self):
        what = "is outside (0, 1); write forward_kl for 0 or reverse_kl for 1"
        in_range("skew_jensen_shannon.w", self.w, 0.0, 1.0, what=what)

    def _logs(self, log_u):
        """log v and log(v/u), without cancellation near u = 1."""
        w, d = self.w, at_least_float32(log_u)
        return jnp.log1p((1.0 - w) * jnp.expm1(d)), jnp.log1p(w * jnp.expm1(-d))

    def constants(self):
        w, log = self.w, _log
        return Constants(w * (1.0 - w), -w * log(w), -INF, -(1.0 - w) * log(1.0 - w))

    def f(self, log_u):
        # w g(log v) + (1 - w) u g(log v/u), g(s) = e^s - 1 - s: nothing cancels
        v, v_over_u = map(expm1m, self._logs(log_u))
        return self.w * v + (1.0 - self.w) * jnp.exp(at_least_float32(log_u)) * v_over_u

    def f_prime(self, log_u):
        return -(1.0 - self.w) * self._logs(log_u)[1]

    def k3(self, log_u):
        # constant to rounding beyond 80; at inf (ref = 0) it would be 0 * inf
        log_u = jnp.minimum(at_least_float32(log_u), 80.0)
        v, v_over_u = map(expm1m, self._logs(log_u))
        return self.w * jnp.exp(-log_u) * v + (1.0 - self.w) * v_over_u

    def f_prime_inverse(self, t):
        def inside(t):  # u/v = e^(t/(1-w))
            t = t / (1.0 - self.w)
            return self.w * jnp.exp(t) / (self.w - (1.0 - self.w) * jnp.expm1(t))

        return below(t, self.slope_at_infinity, 0.0, inside)

    def conjugate(self, t):
        def inside(t):  # w log v
            grown = jnp.expm1(t / (1.0 - self.w))
            return -self.w * jnp.log1p((1.0 - 1.0 / self.w) * grown)

        return below(t, self.slope_at_infinity, 0.0, inside)


@part
class UnitCurvature(Divergence):
    """f / f''(1) of another divergence; make it with `unit_curvature`."""

    divergence: Divergence

    def __post_init__(self):
        if self.divergence.curvature is None:
            raise ValueError(
                f"unit_curvature: {self.divergence!r} has no curvature f''(1); "
                "use it unscaled"
            )

    @property
    def _c(self):
        curvature = self.divergence.curvature
        return 1.0 if curvature is None else curvature

    def constants(self):
        inner, c = self.divergence.constants(), self._c
        scaled = (v / c for v in inner[1:4])
        return Constants(1.0, *scaled, centred=inner.centred)

    def f(self, log_u):
        return self.divergence.f(log_u) / self._c

    def f_prime(self, log_u):
        return self.divergence.f_prime(log_u) / self._c

    def f_prime_inverse(self, t):
        return self.divergence.f_prime_inverse(at_least_float32(t) * self._c)

    def conjugate(self, t):
        return self.divergence.conjugate(at_least_float32(t) * self._c) / self._c

    def k2(self, log_u):
        return self.divergence.k2(log_u) / self._c

    def k3(self, log_u):
        return self.divergence.k3(log_u) / self._c


def unit_curvature(divergence: Divergence) -> Divergence:
    """`divergence` rescaled to f''(1) = 1, so that one beta means one local strength.

    `unit_curvature(PearsonChi2())` has f' = u - 1, the importance ratio. Refused for
    total variation and the hockey stick, which have no curvature.
    """
    curvature = divergence.curvature
    if curvature is not None and concrete(curvature) == 1.0:
        return divergence
    return UnitCurvature(divergence)


@part
class Adjoint(Divergence):
    """f°(u) = u f(1/u), which swaps the arguments: D_f°(p || q) = D_f(q || p).

    Make it with `adjoint`, which returns the closed form where there is one. f° is
    the k3 of f at 1/u, so it inherits k3's accuracy; the inverse of f°' is numeric.
    """

    divergence: Divergence

    def constants(self):
        inner = self.divergence.constants()
        # f°'(0+) = lim f(v) - v f'(v) as v -> inf, that is -f*(f'(inf))
        traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self))
        if traced:
            end = jnp.asarray(inner.slope_at_infinity, jnp.float32)
            low = -self.divergence.conjugate(end)
        else:
            with jax.ensure_compile_time_eval():
                end = jnp.asarray(inner.slope_at_infinity, jnp.float32)
                low = -float(self.divergence.conjugate(end))
        return Constants(
            inner.curvature,
            inner.slope_at_infinity,
            low,
            inner.f_at_zero,
            centred=inner.centred,
        )

    def f(self, log_u):
        return self.divergence.k3(-at_least_float32(log_u))

    def f_prime(self, log_u):
        # f°'(u) = f(v) - v f'(v) = -v d/dlog v [f(v)/v] at v = 1/u
        log_v = -at_least_float32(log_u)
        ones = jnp.ones_like(log_v)
        _, slope = jax.jvp(self.divergence.k3, (log_v,), (ones,))
        return -jnp.exp(log_v) * slope

    def k3(self, log_u):
        return self.divergence.f(-at_least_float32(log_u))


def adjoint(divergence: Divergence) -> Divergence:
    """The divergence with its two arguments swapped: f°(u) = u f(1/u).

    reverse_kl <-> forward_kl, pearson_chi2 <-> neyman_chi2, alpha(a) <-> alpha(1-a)
    for 0 < a < 1; jensen_shannon, squared_hellinger, jeffreys and total_variation are
    their own; anything else is wrapped.
    """
    match divergence:
        case ReverseKL():
            return ForwardKL()
        case ForwardKL():
            return ReverseKL()
        case PearsonChi2():
            return NeymanChi2()
        case NeymanChi2():
            return PearsonChi2()
        case JensenShannon() | SquaredHellinger() | Jeffreys() | TotalVariation():
            return divergence
        case Alpha(a=a) if 0.0 < (concrete(a) or 0.0) < 1.0:
            return Alpha(1.0 - a)
        case Adjoint(divergence=inner):
            return inner
    return Adjoint(divergence)
