"""The generators of the divergence table written out in mpmath, at 60 digits.

Independent of the library: textbook formulas in u, no log-space rewriting. K is the
table's closed form; the conjugate follows from the written inverse.
"""

from dataclasses import dataclass
from typing import Any

import mpmath as mp

from unipost.divergences import (
    Alpha,
    Chi2KL,
    ForwardKL,
    HockeyStick,
    Jeffreys,
    JensenShannon,
    LogOdds,
    NeymanChi2,
    PearsonChi2,
    ReverseKL,
    Shaping,
    SkewJensenShannon,
    SquaredHellinger,
    TotalVariation,
    unit_curvature,
)

mp.mp.dps = 120


@dataclass
class Oracle:
    """f and f' as functions of u; inverse and K where the table has them.

    `top` is the end of the domain in log u.
    """

    divergence: Any
    f: Any
    f_prime: Any
    inverse: Any = None
    k: Any = None
    top: float = mp.inf


def wright(z):
    """The Wright omega function W0(e^z), at a precision where e^z is harmless."""
    return mp.lambertw(mp.exp(mp.mpf(z)))


def alpha(a):
    a = mp.mpf(a)
    return Oracle(
        Alpha(float(a)),
        lambda u: (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1)),
        lambda u: (1 - u**-a) / a,
        lambda t: (1 - a * t) ** (-1 / a),
        lambda d: d / a + (mp.exp(-a * d) - 1) / a**2,
    )


def _js_k(d):
    li2 = mp.polylog(2, -mp.exp(d))
    return d * mp.log(2) + d**2 / 2 + mp.re(li2) + mp.pi**2 / 12


def _shaping(gamma):
    g = mp.mpf(gamma)
    return Oracle(
        Shaping(float(gamma)),
        lambda u: u - 1 - g * mp.log((u + g) / (1 + g)),
        lambda u: u / (u + g),
        lambda t: g * t / (1 - t),
        lambda d: mp.log((mp.exp(d) + g) / (1 + g)),
    )


def _skew(w):
    w = mp.mpf(w)

    def v(u):
        return w + (1 - w) * u

    def li2(d):
        return mp.re(mp.polylog(2, -(1 - w) / w * mp.exp(d)))

    def inverse(t):
        ratio = mp.exp(t / (1 - w))
        return w * ratio / (1 - (1 - w) * ratio)

    return Oracle(
        SkewJensenShannon(float(w)),
        lambda u: -w * mp.log(v(u)) + (1 - w) * u * mp.log(u / v(u)),
        lambda u: (1 - w) * mp.log(u / v(u)),
        inverse,
        lambda d: (1 - w) * (d**2 / 2 - d * mp.log(w) + li2(d) - li2(0)),
    )


SMOOTH = {
    "reverse_kl": Oracle(
        ReverseKL(),
        lambda u: u * mp.log(u) - u + 1,
        mp.log,
        mp.exp,
        lambda d: d**2 / 2,
    ),
    "forward_kl": Oracle(
        ForwardKL(),
        lambda u: u - 1 - mp.log(u),
        lambda u: 1 - 1 / u,
        lambda t: 1 / (1 - t),
        lambda d: d + mp.exp(-d) - 1,
    ),
    "jensen_shannon": Oracle(
        JensenShannon(),
        lambda u: u * mp.log(u) - (1 + u) * mp.log((1 + u) / 2),
        lambda u: mp.log(2 * u / (1 + u)),
        lambda t: mp.exp(t) / (2 - mp.exp(t)),
        _js_k,
    ),
    "pearson_chi2": Oracle(
        PearsonChi2(),
        lambda u: (u - 1) ** 2,
        lambda u: 2 * (u - 1),
        lambda t: 1 + t / 2,
        lambda d: 2 * (mp.exp(d) - d - 1),
    ),
    "neyman_chi2": Oracle(
        NeymanChi2(),
        lambda u: (u - 1) ** 2 / u,
        lambda u: 1 - u**-2,
        lambda t: (1 - t) ** mp.mpf("-0.5"),
        lambda d: d + mp.exp(-2 * d) / 2 - mp.mpf("0.5"),
    ),
    "squared_hellinger": Oracle(
        SquaredHellinger(),
        lambda u: (mp.sqrt(u) - 1) ** 2,
        lambda u: 1 - 1 / mp.sqrt(u),
        lambda t: (1 - t) ** -2,
        lambda d: d + 2 * mp.exp(-d / 2) - 2,
    ),
    "jeffreys": Oracle(
        Jeffreys(),
        lambda u: (u - 1) * mp.log(u),
        lambda u: mp.log(u) + 1 - 1 / u,
        lambda t: 1 / wright(1 - t),
        lambda d: d**2 / 2 + d + mp.exp(-d) - 1,
    ),
    "chi2_kl": Oracle(
        Chi2KL(),
        lambda u: (u - 1) ** 2 / 2 + u * mp.log(u) - u + 1,
        lambda u: u - 1 + mp.log(u),
        lambda t: wright(1 + t),
        lambda d: mp.exp(d) - 1 - d + d**2 / 2,
    ),
    "shaping": _shaping("0.1"),
    "alpha_0.3": alpha("0.3"),
    "alpha_0.5": alpha("0.5"),
    "alpha_0.7": alpha("0.7"),
    "alpha_0.01": alpha("0.01"),
    "alpha_-1": alpha("-1"),
    "skew_jensen_shannon_0.3": _skew("0.3"),
    "skew_jensen_shannon_0.01": _skew("0.01"),
    "skew_jensen_shannon_0.9": _skew("0.9"),
    "log_odds": Oracle(
        LogOdds(),
        lambda u: u * mp.log(u) + (1 - u) * mp.log(1 - u),
        lambda u: mp.log(u / (1 - u)),
        lambda t: 1 / (1 + mp.exp(-t)),
        top=0,
    ),
    "unit_pearson": Oracle(
        unit_curvature(PearsonChi2()),
        lambda u: (u - 1) ** 2 / 2,
        lambda u: u - 1,
        lambda t: 1 + t,
        lambda d: mp.exp(d) - d - 1,
    ),
}

KINKED = {
    "total_variation": Oracle(
        TotalVariation(),
        lambda u: abs(u - 1) / 2,
        lambda u: mp.sign(u - 1) / 2,
        None,
        lambda d: abs(d) / 2,
    ),
    "hockey_stick": Oracle(
        HockeyStick(1.2),
        lambda u: max(u - mp.mpf(1.2), 0),
        lambda u: mp.mpf(int(u > mp.mpf(1.2))),
        None,
        lambda d: max(d - mp.log(mp.mpf(1.2)), 0),
    ),
}

ALL = SMOOTH | KINKED
