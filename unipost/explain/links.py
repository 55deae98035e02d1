"""Links as formulas.

Of every link its loss in z and A (of a pair: in z_w and z_l, chosen and rejected
implicit reward) and its gain, minus the derivative: the coefficient is gain times
dz/dlog pi. Each is compared with the code by the tests.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from unipost.explain.divergences import of_divergence
from unipost.explain.expression import Expression, formula, of_part, text
from unipost.links import (
    Balance,
    Clipped,
    Contrast,
    Gain,
    Importance,
    Linear,
    Link,
    Matching,
    Residual,
    RowLogistic,
    SoftGate,
    Weighted,
)
from unipost.pair_links import (
    AnchoredDown,
    AnchoredUp,
    BinaryClassifier,
    DiscoPOP,
    Exo,
    Hinge,
    Logistic,
    MarginLink,
    NoiseContrastive,
    PairLink,
    RobustLogistic,
    SelfPlay,
    Squared,
)

Definition = tuple[str, Expression]


class LinkFormula(NamedTuple):
    """A link in symbols.

    loss      in z and A; of a pair in m = z_w - z_l, or in z_w and z_l
    gain      -dloss/dz; of a pair that of the chosen response
    rejected  gain of the rejected response; None where there is no pair
    where     what the other symbols stand for
    note      what no formula says of the loss
    gain_note what it leaves open of the gain
    """

    loss: Expression
    gain: Expression
    rejected: Expression | None = None
    where: tuple[Definition, ...] = ()
    note: str = ""
    gain_note: str = ""


# loss and gain of the links that are one formula; z is the implicit reward
POINTWISE: dict[type[Link], tuple[str, str]] = {
    Linear: ("-A*z", "A"),
    Importance: ("-A*(1 + z)", "A"),
    Residual: ("(A - z)**2/2", "A - z"),
    Gain: ("abs(A)*(1 - sigmoid(sign(A)*z))", "A*sigmoid(z)*sigmoid(-z)"),
    Contrast: (
        "2*G/(G - 1)*(tau/2*d**2 - (A - mean_G(A))*d)",
        "2*G/(G - 1)*(A - mean_G(A) - tau*d)",
    ),
    RowLogistic: (
        "-(1 - smoothing)*log(sigmoid(A*z)) - smoothing*log(sigmoid(-A*z))",
        "2*A*((1 - smoothing)*sigmoid(-A*z) - smoothing*sigmoid(A*z))",
    ),
}

KNOWN = {Clipped, Weighted, Balance, SoftGate, Matching, *POINTWISE}
SOFT_GATE = ("-4*A/tau*sigmoid(tau*z)", "4*A*sigmoid(tau*z)*sigmoid(-tau*z)")

# loss and gain of the links of the margin m = z_w - z_l
MARGIN: dict[type[MarginLink], tuple[str, str]] = {
    Logistic: (
        "-(1 - smoothing)*log(sigmoid(m - margin))"
        " - smoothing*log(sigmoid(margin - m))",
        "(1 - smoothing)*sigmoid(margin - m) - smoothing*sigmoid(m - margin)",
    ),
    RobustLogistic: (
        "(-(1 - noise)*log(sigmoid(m)) + noise*log(sigmoid(-m)))/(1 - 2*noise)",
        "((1 - noise)*sigmoid(-m) + noise*sigmoid(m))/(1 - 2*noise)",
    ),
    Hinge: ("max(0, 1 - m)", "indicator(m < 1)"),
    Squared: ("(m - 1/(2*tau))**2", "2*(1/(2*tau) - m)"),
    Exo: (
        "sigmoid(m)*(log(sigmoid(m)) - log(1 - smoothing))"
        " + sigmoid(-m)*(log(sigmoid(-m)) - log(smoothing))",
        "sigmoid(m)*sigmoid(-m)*(log((1 - smoothing)/smoothing) - m)",
    ),
    DiscoPOP: (
        "-sigmoid(-m/tau)*log(sigmoid(m)) + sigmoid(m/tau)*exp(-m)",
        "sigmoid(-m/tau)*sigmoid(-m) + sigmoid(m/tau)*exp(-m)"
        " - sigmoid(m/tau)*sigmoid(-m/tau)/tau*(log(sigmoid(m)) + exp(-m))",
    ),
}

# loss and the gains of chosen and rejected, of the links that see each by itself
PAIR: dict[type[PairLink], tuple[str, str, str]] = {
    NoiseContrastive: (
        "-log(sigmoid(z_w)) - (log(sigmoid(-z_w)) + log(sigmoid(-z_l)))/2",
        *("sigmoid(-z_w) - sigmoid(z_w)/2", "-sigmoid(z_l)/2"),
    ),
    BinaryClassifier: (
        "-log(sigmoid(z_w - shift)) - log(sigmoid(shift - z_l))",
        *("sigmoid(shift - z_w)", "-sigmoid(z_l - shift)"),
    ),
    SelfPlay: (
        "(z_w - target)**2 + (z_l + target)**2",
        *("2*(target - z_w)", "-2*(target + z_l)"),
    ),
    AnchoredUp: (
        "1 - sigmoid(z_w) + sigmoid(z_l)",
        *("sigmoid(z_w)*sigmoid(-z_w)", "-sigmoid(z_l)*sigmoid(-z_l)"),
    ),
    AnchoredDown: (
        "sigmoid(z_w) + 1 - sigmoid(z_w - z_l)",
        "sigmoid(z_w - z_l)*sigmoid(z_l - z_w) - sigmoid(z_w)*sigmoid(-z_w)",
        "-sigmoid(z_w - z_l)*sigmoid(z_l - z_w)",
    ),
}


def first_line(part: Any) -> str:
    """The first line of a part's docstring, without its full stop."""
    doc = inspect.getdoc(type(part)) or ""
    generated = doc.startswith(f"{type(part).__name__}(")  # a dataclass's own
    return "" if generated or not doc else doc.splitlines()[0].rstrip(".")


def of_link(
    link: Link | PairLink, z: Expression, weight: Expression, signal: Expression
) -> LinkFormula:
    """A link at the implicit reward `z` and the signal, its weight if it has one."""
    if isinstance(link, MarginLink):
        return _of_margin(link)
    if isinstance(link, PairLink):
        if type(link) not in PAIR:
            name = type(link).__name__
            loss, chosen, rejected = (
                formula(f"{sign}{name}(z_w, z_l)") for sign in ("", "-dw_", "-dl_")
            )
            return LinkFormula(loss, chosen, rejected, note=first_line(link))
        loss, chosen, rejected = (of_part(x, link) for x in PAIR[type(link)])
        return LinkFormula(loss, chosen, rejected)
    values = {"z": z, "A": signal, "w": weight}
    if type(link) not in KNOWN:  # a subclass may do something else
        name, note = type(link).__name__, first_line(link)
        return _built(f"{name}(z, A)", f"-dz_{name}(z, A)", values, note=note)
    match link:
        case Clipped():
            return _clipped(link, values)
        case Weighted():
            return _built("-sg(w)*A*z", "A*w", values)
        case Residual(centre="group"):
            gap = formula("A - z - mean_G(A - z)", **values)
            return _built("d**2/2", "d", {}, ("d", gap))
        case Balance(divergence=f, tau=tau):
            u, gap = formula("exp(d)"), formula("z - A/tau + log(Z)", tau=tau, **values)
            loss = formula(of_divergence(f, "k2"), u=u)
            gain = formula("-x", x=formula(of_divergence(f, "slope"), u=u))
            note = "log Z the group's mean of A/tau - z, a constant"
            return LinkFormula(loss, gain, None, (("d", gap),), note)
        case Contrast():
            centred = ("d", formula("z - mean_G(z)", **values))
            return _tabled(link, values, centred, note="G the size of the group")
        case SoftGate():
            tau = of_part("tau_pos if A > 0 else tau_neg", link)
            return _built(*SOFT_GATE, values, ("tau", tau))
        case Matching(divergence=f, cap=cap):
            loss = formula("-x", x=of_divergence(f, "phi"))
            note = f"phi' at most {text(formula('cap', cap=cap))}"
            gain = of_divergence(f, "phi_slope")
            return LinkFormula(loss, gain, None, (("r", z),), gain_note=note)
        case RowLogistic():
            note = "its partner a constant, the gradient doubled"
            return _tabled(link, values, note=note)
    return _tabled(link, values)


def _built(
    loss: str, gain: str, values: dict[str, Any], *where: Definition, note: str = ""
) -> LinkFormula:
    return LinkFormula(
        formula(loss, **values), formula(gain, **values), None, where, note
    )


def _tabled(link: Link, values: dict[str, Any], *where: Definition, note: str = ""):
    loss, gain = POINTWISE[type(link)]
    found = (of_part(loss, link, **values), of_part(gain, link, **values))
    return LinkFormula(*found, None, where, note)


def _of_margin(link: MarginLink) -> LinkFormula:
    margin = (("m", formula("z_w - z_l")),)
    if type(link) in MARGIN:
        loss, gain = (of_part(source, link) for source in MARGIN[type(link)])
    else:
        name = type(link).__name__
        loss, gain = formula(f"{name}(m)"), formula(f"-dm_{name}(m)")
        return LinkFormula(loss, gain, formula("-x", x=gain), margin, first_line(link))
    note = ""
    if isinstance(link, Logistic) and link.bound is not None:
        bound = text(formula("bound", bound=link.bound))
        note = f"m clipped to +-{bound}"
    gone = "0 where m is clipped" if note else ""
    return LinkFormula(loss, gain, formula("-x", x=gain), margin, note, gone)


def _clipped(link: Clipped, values: dict[str, Any]) -> LinkFormula:
    """PPO's clip, and what `dual` and `cap` add."""
    ratio = formula("1 + z", **values)
    bounds = of_part("clip(u, 1 - low, 1 + high)", link, u=ratio)
    u = ratio if link.cap is None else formula("min(u, cap)", u=ratio, cap=link.cap)
    loss = formula("-min(A*u, A*c)", u=u, c=bounds, A=values["A"])
    note = ""
    if link.dual is not None:
        dual = text(formula("dual", dual=link.dual))
        note = f"at most {dual} |A| where A < 0"
    gain = formula("A", A=values["A"])
    return LinkFormula(loss, gain, note=note, gain_note="0 where this is clipped")
