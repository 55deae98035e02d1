"""The divergences as formulas in u = policy/other, or in r for the matching function.

Each entry is compared with the code of its divergence by the tests.
"""

from __future__ import annotations

from typing import NamedTuple

from unipost.classical import (
    Chi2KL,
    ForwardKL,
    Jeffreys,
    JensenShannon,
    NeymanChi2,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.divergence import Divergence
from unipost.explain.expression import Expression, formula, of_part, text
from unipost.parametric import (
    Adjoint,
    Alpha,
    HockeyStick,
    LogOdds,
    Shaping,
    SkewJensenShannon,
    UnitCurvature,
)


class Shape(NamedTuple):
    """Formulas of one divergence; "" where there is no short one.

    f        the generator f(u)
    slope    f'(u), the implicit reward
    curve    u f''(u) = d f'(u) / d log u
    k2       K(log u) = int_0^log u f'(e^s) ds
    k3       f(u)/u
    k3_slope f' - f/u = d k3 / d log u
    phi      -f*(-r), with its saturating branch
    phi_slope  phi'(r)
    """

    f: str
    slope: str
    curve: str
    k2: str = ""
    k3: str = ""
    k3_slope: str = ""
    phi: str = ""
    phi_slope: str = ""


SHAPES: dict[type[Divergence], Shape] = {
    ReverseKL: Shape(
        *("u*log(u) - u + 1", "log(u)", "1"),
        *("log(u)**2/2", "log(u) - 1 + 1/u", "1 - 1/u"),
        *("1 - exp(-r)", "exp(-r)"),
    ),
    ForwardKL: Shape(
        *("u - 1 - log(u)", "1 - 1/u", "1/u"),
        *("log(u) + 1/u - 1", "1 - (1 + log(u))/u", "log(u)/u"),
        *("log(1 + r)", "1/(1 + r)"),
    ),
    JensenShannon: Shape(
        *("u*log(u) - (1 + u)*log((1 + u)/2)", "log(2*u/(1 + u))", "1/(1 + u)"),
        *("", "log(u) - (1 + 1/u)*log((1 + u)/2)", "log((1 + u)/2)/u"),
        *("log(2 - exp(-r))", "1/(2*exp(r) - 1)"),
    ),
    PearsonChi2: Shape(
        *("(u - 1)**2", "2*(u - 1)", "2*u"),
        *("2*(u - 1 - log(u))", "u - 2 + 1/u", "u - 1/u"),
        *("r - r**2/4 if r <= 2 else 1", "max(1 - r/2, 0)"),
    ),
    NeymanChi2: Shape(
        *("(u - 1)**2/u", "1 - u**-2", "2*u**-2"),
        *("log(u) + u**-2/2 - 1/2", "(1 - 1/u)**2", "2*(1/u - u**-2)"),
        *("2*sqrt(1 + r) - 2", "1/sqrt(1 + r)"),
    ),
    SquaredHellinger: Shape(
        *("(sqrt(u) - 1)**2", "1 - u**(-1/2)", "u**(-1/2)/2"),
        *("log(u) + 2*u**(-1/2) - 2", "(1 - u**(-1/2))**2", "u**(-1/2) - 1/u"),
        *("r/(1 + r)", "(1 + r)**-2"),
    ),
    Jeffreys: Shape(
        *("(u - 1)*log(u)", "log(u) + 1 - 1/u", "1 + 1/u"),
        *("log(u)**2/2 + log(u) + 1/u - 1", "(1 - 1/u)*log(u)"),
        "1 - 1/u + log(u)/u",
        *("r + 2 - omega(1 + r) - 1/omega(1 + r)", "1/omega(1 + r)"),
    ),
    Chi2KL: Shape(
        *("(u - 1)**2/2 + u*log(u) - u + 1", "u - 1 + log(u)", "u + 1"),
        *("u - 1 - log(u) + log(u)**2/2", "u/2 - 2 + 3/(2*u) + log(u)"),
        "u/2 + 1 - 3/(2*u)",
        *("3/2 - omega(1 - r) - omega(1 - r)**2/2", "omega(1 - r)"),
    ),
    TotalVariation: Shape(
        *("abs(u - 1)/2", "sign(u - 1)/2", "0"),
        *("abs(log(u))/2", "abs(1 - 1/u)/2", "sign(u - 1)/(2*u)"),
        *("min(r, 1/2)", "indicator(r < 1/2)"),
    ),
    Alpha: Shape(
        "(u**(1 - a) - (1 - a)*u - a)/(a*(a - 1))",
        *("(1 - u**-a)/a", "u**-a", "log(u)/a + (u**-a - 1)/a**2"),
        *("(u**-a - (1 - a) - a/u)/(a*(a - 1))", "(u**-a - 1/u)/(1 - a)"),
        *("(1 - (1 + a*r)**((a - 1)/a))/(1 - a)", "(1 + a*r)**(-1/a)"),
    ),
    HockeyStick: Shape(
        *("max(u - gamma, 0)", "indicator(u > gamma)", "0"),
        *(
            "max(log(u/gamma), 0)",
            "max(1 - gamma/u, 0)",
            "gamma/u*indicator(u > gamma)",
        ),
        *("gamma*min(r, 0)", "gamma*indicator(r < 0)"),
    ),
    SkewJensenShannon: Shape(
        "(1 - w)*u*log(u) - (w + (1 - w)*u)*log(w + (1 - w)*u)",
        *("(1 - w)*log(u/(w + (1 - w)*u))", "w*(1 - w)/(w + (1 - w)*u)", ""),
        "(1 - w)*log(u) - (w/u + 1 - w)*log(w + (1 - w)*u)",
        "w*log(w + (1 - w)*u)/u",
        "w*log((1 - (1 - w)*exp(-r/(1 - w)))/w)",
        "w*exp(-r/(1 - w))/(1 - (1 - w)*exp(-r/(1 - w)))",
    ),
    Shaping: Shape(
        "u - 1 - gamma*log((u + gamma)/(1 + gamma))",
        *("u/(u + gamma)", "gamma*u/(u + gamma)**2", "log((u + gamma)/(1 + gamma))"),
    ),
    LogOdds: Shape("u*log(u) + (1 - u)*log(1 - u)", "log(u/(1 - u))", "1/(1 - u)"),
}

# how a formula that is not written down is named
_OWN = {
    "f": "f_{}(u)",
    "slope": "f1_{}(u)",
    "curve": "u*f2_{}(u)",
    "k2": "K_{}(log(u))",
    "k3": "f_{}(u)/u",
    "k3_slope": "f1_{0}(u) - f_{0}(u)/u",
    "phi": "phi_{}(r)",
    "phi_slope": "phi1_{}(r)",
}


def of_divergence(divergence: Divergence, what: str) -> Expression:
    """The formula `what`, a field of `Shape`, of any divergence; one's own by name."""
    if isinstance(divergence, UnitCurvature):
        inner, c = divergence.divergence, divergence.divergence.curvature
        if what.startswith("phi"):
            scaled = formula("c*r", c=c)
            value = formula(of_divergence(inner, what), r=scaled)
            return formula("x/c" if what == "phi" else "x", x=value, c=c)
        return formula("x/c", x=of_divergence(inner, what), c=c)
    if isinstance(divergence, Adjoint) and what in _SWAPPED:
        inner, swapped = divergence.divergence, formula("1/u")
        parts = {k: of_divergence(inner, k) for k in ("f", "slope", "curve")}
        return formula(
            _SWAPPED[what], **{k: formula(v, u=swapped) for k, v in parts.items()}
        )
    source = (
        getattr(SHAPES[type(divergence)], what) if type(divergence) in SHAPES else ""
    )
    if source:
        return of_part(source, divergence)
    return formula(_OWN[what].format(type(divergence).__name__))


# f°(u) = u f(1/u): what stands for `f` is f(1/u) already
_SWAPPED = {
    "f": "u*f",
    "slope": "f - slope/u",
    "curve": "curve/u",
    "k3": "f",
    "k3_slope": "-slope/u",
}


def slope_formula(divergence: Divergence, u: str = "u") -> str:
    """f'(u) as text; a divergence of one's own prints as f'(u) with its name."""
    return text(formula(of_divergence(divergence, "slope"), u=formula(u)))


def phi_formula(divergence: Divergence) -> str:
    """phi(r) = -f*(-r) as text, with its saturating branch."""
    return text(of_divergence(divergence, "phi"))
