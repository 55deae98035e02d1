"""Gradient weight of a demonstrated token under LUFFY's shapings of its probability."""

import numpy as np
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published

from unipost.presets import luffy

ABOUT = About(
    title="Gradient weight of a demonstrated token",
    paper="2504.14945",
    item="Eq 7-8, Fig. 9",
    claim="Shaping p/(p + 0.1) puts the largest weight f'(p) p (1 - p) at p = 0.0833 "
    "(0.2273), and more than no shaping below p = 0.2162.",
    data=("published/luffy.json",),
    differs="Computed from the objective by its own gradient; the printed numbers "
    "follow from the paper's formula. The bound is on the logit of the token.",
)
GAMMAS = (0.05, 0.1, 0.2, 0.3, 0.5)
SHADES = (("#78c679", ":"), ("", "-"), ("#41ab5d", "--"), ("#74c476", "-."))
SHADES += (("#238443", (0, (1, 3))),)
POINTS = 200


def rows(stored: Stored) -> Rows:
    """A row for each p: slope f'(p) p of every gamma, times 1 - p; and p (1 - p)."""
    p = np.unique(
        np.r_[np.geomspace(1e-3, 1, POINTS // 2), np.linspace(0.005, 1, POINTS)]
    )
    table = stored.published("luffy", "peak")["rows"]["shaping"]
    found = [
        {
            "p": float(x),
            "no shaping": float(x * (1 - x)),
            "SFT": float(1 - x),
            **{f"gamma {g:g}": float(y) for g, y in zip(GAMMAS, ys, strict=True)},
            "printed": None,
        }
        for x, *ys in zip(p, *(weight(p, g) * (1 - p) for g in GAMMAS), strict=True)
    ]
    return [
        *found,
        {"p": table[0], "printed": table[1]},
        {"p": table[2], "printed": None},
    ]


def weight(p: np.ndarray, gamma: float) -> np.ndarray:
    """Weight on grad log p of a demonstrated token with advantage 1, by jax.grad."""
    import jax
    import jax.numpy as jnp

    from unipost import Batch, Streams
    from unipost.signals import Raw

    objective = luffy(max_length=1.0, gamma=gamma, signal=Raw())
    ones = jnp.ones((len(p), 1, 1))
    batch = Batch(
        mask=ones,
        old=jnp.zeros_like(ones),
        rewards=jnp.ones((len(p), 1)),
        off_policy=jnp.ones((len(p), 1)),
    )

    def loss(logps):
        return objective(Streams(policy=logps), batch)[0]

    logps = jnp.log(jnp.asarray(p))[:, None, None]
    return -np.asarray(jax.grad(loss)(logps))[:, 0, 0]


def draw(found: Rows):
    """The weights on a linear and on a log axis, with the peak and the crossing."""
    figure = new_figure(PAGE, 2.7)
    panels = figure.subplots(1, 2)
    *curve, peak, crossing = found
    p = [row["p"] for row in curve]
    shaped, plain = look_of("luffy"), look_of("mixed")
    for axes in panels:
        for (shade, line), gamma in zip(SHADES, GAMMAS, strict=True):
            style = {
                "color": shade or shaped.color,
                "lw": 1 if shade else 2,
                "ls": line,
            }
            style["label"] = f"shaping {gamma:g}"
            axes.plot(p, [row[f"gamma {gamma:g}"] for row in curve], **style)
        style = {"color": plain.color, "ls": (0, (6, 2)), "label": "no shaping, p"}
        axes.plot(p, [row["no shaping"] for row in curve], **style)
        style = {
            "color": look_of("sft").color,
            "ls": (0, (4, 1, 1, 1)),
            "label": "SFT, 1",
        }
        axes.plot(p, [row["SFT"] for row in curve], **style)
        published(axes, [peak["p"]], [peak["printed"]], "printed peak")
        axes.axvline(crossing["p"], color="#888888", lw=0.7, ls="--")
        axes.set_xlabel("probability p of the token")
    panels[0].set_ylabel("f'(p) p (1 - p)")
    panels[0].set_ylim(0, 0.6)
    panels[1].set_xscale("log")
    panels[1].set_yscale("log")
    panels[1].set_ylim(1e-3, 1.2)
    place = (crossing["p"], 0.34)
    note = f"equal at {crossing['p']:.4f}"
    style = {"textcoords": "offset points", "fontsize": 7, "color": "#666666"}
    panels[0].annotate(note, place, (3, 0), **style)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def verdict(found: Rows) -> str:
    """Whether the gradient peaks and crosses where the formula says."""
    *curve, peak, crossing = found
    grid = np.linspace(0.02, 0.4, 3801)
    values = weight(grid, 0.1) * (1 - grid)
    at, high = float(grid[values.argmax()]), float(values.max())
    below = grid[values > grid * (1 - grid)].max()
    close = (
        abs(at - peak["p"]) < 2e-4
        and abs(high - peak["printed"]) < 1e-4
        and abs(float(below) - crossing["p"]) < 2e-4
    )
    word = "supported" if close else "not supported"
    return f"{word}: peak {high:.4f} at p = {at:.4f}, equal at {float(below):.4f}"


if __name__ == "__main__":
    main(__file__)
