"""The derivative f' of the divergences that f-DPO and f-SFT take."""

import numpy as np
from drawing import About, main
from stored import Rows, Stored
from style import DIVERGENCES as LOOKS
from style import PAGE, new_figure, rest, title

from unipost.divergences import DIVERGENCES

ABOUT = About(
    title="Implicit reward by divergence",
    paper="2309.16240",
    item="Table 1 (f' of the divergences)",
    claim="f' is log u for reverse KL, 1 - 1/u for forward KL, log(2u/(1+u)) for "
    "Jensen-Shannon and (1 - u^-a)/a for alpha, up to a constant that cancels in a "
    "pair; JSD is written as 2 JSD here.",
    data=(),
    differs="Computed from the library's divergences (curves) and from the formulas "
    "(dots). The paper's tables of results were not to be had: no number is drawn.",
)
SHOWN = {
    "reverse_kl": {},
    "forward_kl": {},
    "jensen_shannon": {},
    "alpha_0.3": {"a": 0.3},
    "alpha_0.5": {"a": 0.5},
    "alpha_0.7": {"a": 0.7},
    "squared_hellinger": {},
    "pearson_chi2": {},
    "chi2_kl": {},
}
FORMULAS = {
    "reverse_kl": lambda u: np.log(u),
    "forward_kl": lambda u: 1 - 1 / u,
    "jensen_shannon": lambda u: np.log(2 * u / (1 + u)),
    "alpha_0.3": lambda u: (1 - u**-0.3) / 0.3,
    "alpha_0.5": lambda u: (1 - u**-0.5) / 0.5,
    "alpha_0.7": lambda u: (1 - u**-0.7) / 0.7,
}


def rows(stored: Stored) -> Rows:
    """A row for each log u: f' of every divergence, and the paper's formula."""
    del stored
    import jax.numpy as jnp

    x = np.linspace(-3, 3, 61)
    found = [{"log u": float(value)} for value in x]
    for name, arguments in SHOWN.items():
        make = DIVERGENCES[name.partition("_0.")[0]]
        values = np.asarray(make(**arguments).f_prime(jnp.asarray(x)))
        for row, value in zip(found, values, strict=True):
            row[name] = float(value)
        for row, u in zip(found, np.exp(x), strict=True):
            if name in FORMULAS:
                row[f"{name} formula"] = float(FORMULAS[name](u))
    return found


def draw(found: Rows):
    """f' minus f'(1) against log u: those of the paper left, others right."""
    figure = new_figure(PAGE, 2.8)
    panels = figure.subplots(1, 2, sharey=True)
    x = [row["log u"] for row in found]
    for i, name in enumerate(SHOWN):
        look = LOOKS["alpha" if name == "alpha_0.5" else name]
        y = np.array([row[name] for row in found])
        y = y - y[len(y) // 2]
        axes = panels[0 if name in FORMULAS else 1]
        label = name.replace("_", " ").replace("chi2", "chi²")
        every = slice(3 + i % 5, None, 10)
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        axes.plot(x, y, markevery=every, label=label, **style)
    for axes in panels:
        rest(axes)
        axes.axvline(0, color="#bbbbbb", lw=0.6, zorder=0)
        axes.set_ylim(-6, 4)
        axes.set_xlabel("log u = log(policy/reference)")
        axes.legend(loc="lower right")
    panels[0].set_ylabel("f'(u) - f'(1)")
    title(panels[0], "of the paper")
    title(panels[1], "others, by the same name in a config")
    return figure


def verdict(found: Rows) -> str:
    """The largest difference from a formula, up to one constant each."""
    worst = 0.0
    for name in FORMULAS:
        gap = np.array([row[name] - row[f"{name} formula"] for row in found])
        worst = max(worst, float(np.ptp(gap)))
    word = "supported" if worst < 1e-4 else "not supported"
    return f"{word}: f' is the formula up to a constant, threshold 1e-4"


if __name__ == "__main__":
    main(__file__)
