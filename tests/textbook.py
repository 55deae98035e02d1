"""The divergences as textbook functions of u, in numpy.

Independent of the library's forms in log u: f, f', f'' are written out, and the
estimators, integrals and gradients are made of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipost import adjoint, unit_curvature
from unipost import divergences as d

log = np.log


@dataclass
class Case:
    """A divergence with its f, f', f'' as textbook functions of u."""

    divergence: Any
    f: Callable
    slope: Callable
    curve: Callable

    @property
    def flat(self):
        return not np.any(self.curve(np.array([0.5, 2.0])))


A, W, GAMMA = 0.3, 0.3, 1.5
CASES = {
    "reverse_kl": Case(
        d.ReverseKL(), lambda u: u * log(u) - u + 1, log, lambda u: 1 / u
    ),
    "forward_kl": Case(
        d.ForwardKL(), lambda u: u - 1 - log(u), lambda u: 1 - 1 / u, lambda u: u**-2
    ),
    "jensen_shannon": Case(
        d.JensenShannon(),
        lambda u: u * log(u) - (1 + u) * log((1 + u) / 2),
        lambda u: log(2 * u / (1 + u)),
        lambda u: 1 / (u * (1 + u)),
    ),
    "pearson_chi2": Case(
        d.PearsonChi2(),
        lambda u: (u - 1) ** 2,
        lambda u: 2 * (u - 1),
        lambda u: 2 + 0 * u,
    ),
    "neyman_chi2": Case(
        d.NeymanChi2(),
        lambda u: (u - 1) ** 2 / u,
        lambda u: 1 - u**-2,
        lambda u: 2 * u**-3,
    ),
    "squared_hellinger": Case(
        d.SquaredHellinger(),
        lambda u: (np.sqrt(u) - 1) ** 2,
        lambda u: 1 - u**-0.5,
        lambda u: u**-1.5 / 2,
    ),
    "alpha": Case(
        d.Alpha(A),
        lambda u: (u ** (1 - A) - (1 - A) * u - A) / (A * (A - 1)),
        lambda u: (1 - u**-A) / A,
        lambda u: u ** (-A - 1),
    ),
    "jeffreys": Case(
        d.Jeffreys(),
        lambda u: (u - 1) * log(u),
        lambda u: log(u) + 1 - 1 / u,
        lambda u: 1 / u + u**-2,
    ),
    "chi2_kl": Case(
        d.Chi2KL(),
        lambda u: (u - 1) ** 2 / 2 + u * log(u) - u + 1,
        lambda u: u - 1 + log(u),
        lambda u: 1 + 1 / u,
    ),
    "total_variation": Case(
        d.TotalVariation(),
        lambda u: np.abs(u - 1) / 2,
        lambda u: np.sign(u - 1) / 2,
        lambda u: 0 * u,
    ),
    "hockey_stick": Case(
        d.HockeyStick(GAMMA),
        lambda u: np.maximum(u - GAMMA, 0),
        lambda u: 1.0 * (u > GAMMA),
        lambda u: 0 * u,
    ),
    "skew_jensen_shannon": Case(
        d.SkewJensenShannon(W),
        lambda u: (1 - W) * u * log(u / (W + (1 - W) * u)) - W * log(W + (1 - W) * u),
        lambda u: (1 - W) * log(u / (W + (1 - W) * u)),
        lambda u: W * (1 - W) / (u * (W + (1 - W) * u)),
    ),
    "unit_curvature": Case(
        unit_curvature(d.JensenShannon()),
        lambda u: 2 * u * log(u) - 2 * (1 + u) * log((1 + u) / 2),
        lambda u: 2 * log(2 * u / (1 + u)),
        lambda u: 2 / (u * (1 + u)),
    ),
    "adjoint": Case(  # u f(1/u) of f = (u - 1)^2 / 2
        adjoint(unit_curvature(d.PearsonChi2())),
        lambda u: (u - 1) ** 2 / u / 2,
        lambda u: (1 - u**-2) / 2,
        lambda u: u**-3,
    ),
}


def log_softmax(z):
    return z - log(np.exp(z).sum(-1, keepdims=True))


def numeric_gradient(scalar, z, step=1e-5):
    found = np.zeros_like(z)
    for i in np.ndindex(z.shape):
        ahead, back = z.copy(), z.copy()
        ahead[i] += step
        back[i] -= step
        found[i] = (scalar(ahead) - scalar(back)) / (2 * step)
    return found


def primitive(slope, log_u):
    """int_1^u slope(v) dv by Gauss-Legendre, in two panels around the kink at GAMMA."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    middle = np.minimum(log_u, log(GAMMA))
    total = np.zeros_like(log_u)
    for low, high in ((0 * log_u, middle), (middle, log_u)):
        half = (high - low)[..., None] / 2
        v = np.exp(low[..., None] + half * (1 + nodes))
        total = total + (half * weights * v * slope(v)).sum(-1)
    return total


def estimators(case, log_u, rho):
    """Per token: the value of every sampled estimator, and its slope in log pi."""
    u = np.exp(log_u)
    f, slope, curve = case.f(u), case.slope(u), case.curve(u)
    k2 = primitive(lambda v: case.slope(v) / v, log_u)
    return {
        "k1": (slope, u * curve),
        "abs": (np.abs(slope), np.sign(slope) * u * curve),
        "k2": (k2, slope),
        "k3": (f / u, slope - f / u),
        "importance_k2": (rho * k2, rho * slope),
        "importance_k3": (rho * f / u, rho * slope),
    }
