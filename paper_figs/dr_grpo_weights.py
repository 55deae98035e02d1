"""Biases of GRPO: weight of a question by its difficulty, of a token by length."""

import numpy as np
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, title

from unipost import presets

ABOUT = About(
    title="Difficulty and length biases of GRPO",
    paper="2503.20783",
    item="Sections 3.1 and 3.2, Fig. 1",
    claim="Dividing by the standard deviation weighs a question by sqrt(q (1 - q)) in "
    "place of q (1 - q), q its share of right samples; dividing by the length weighs "
    "a token of a wrong response of n tokens by 1/n.",
    data=(),
    differs="Nothing is printed: the paper has the formulas. Points are the gradients "
    "of the two presets on groups of 16 (z-score with ddof 0, as the formula), lines "
    "the formulas.",
)
GROUP = 16


def rows(stored: Stored) -> Rows:
    """Weights by share of right samples, then by length, computed and by formula."""
    found = []
    for right in range(1, GROUP):
        q = right / GROUP
        values = {
            "Dr. GRPO": (_difficulty("dr_grpo", right), q * (1 - q)),
            "GRPO": (_difficulty("grpo", right), (q * (1 - q)) ** 0.5),
        }
        found += [_row("difficulty", name, q, pair) for name, pair in values.items()]
    for length in (1, 2, 4, 8, 16, 32):
        values = {
            "Dr. GRPO": (_length("dr_grpo", length), 1 / 32),
            "GRPO": (_length("grpo", length), 1 / length),
        }
        found += [_row("length", name, length, pair) for name, pair in values.items()]
    return found


def _row(kind, name, x, pair):
    return {
        "bias": kind,
        "method": name,
        "x": x,
        "computed": pair[0],
        "formula": pair[1],
    }


def _objective(name: str, length: int):
    if name == "grpo":
        return presets.grpo(kl=None, ddof=0, eps=0.0)
    return presets.dr_grpo(max_length=float(length))


def _gradient(objective, rewards, mask) -> np.ndarray:
    """|dL/dlog pi| [G, T] of one group on policy."""
    import jax
    import jax.numpy as jnp

    from unipost import Batch, Streams

    mask = jnp.asarray(mask, float)[None]
    old = jnp.full_like(mask, -1.0)
    batch = Batch(mask=mask, old=old, rewards=jnp.asarray(rewards, float)[None])

    def loss(logps):
        return objective(Streams(policy=logps), batch)[0]

    return np.abs(np.asarray(jax.grad(loss)(old))[0])


def _difficulty(name: str, right: int) -> float:
    """Half of the weight of all tokens of a group with `right` right samples."""
    rewards = [1.0] * right + [0.0] * (GROUP - right)
    return float(_gradient(_objective(name, 1), rewards, np.ones((GROUP, 1))).sum()) / 2


def _length(name: str, length: int) -> float:
    """Weight of a token of a wrong response of this length, its advantage being -1."""
    mask = np.zeros((2, 32))
    mask[0, :4], mask[1, :length] = 1, 1
    objective = _objective(name, 32)
    grad = _gradient(objective, [1.0, 0.0], mask)[1, 0]
    advantage = 1.0 if name == "grpo" else 0.5
    return float(grad) * 2 / advantage


def draw(found: Rows):
    """Either bias, lines for the formulas and markers for the gradients."""
    figure = new_figure(PAGE, 2.3)
    panels = figure.subplots(1, 2)
    looks = {"GRPO": look_of("grpo"), "Dr. GRPO": look_of("dr_grpo")}
    texts = {
        ("difficulty", "GRPO"): "GRPO: sqrt(q (1 - q))",
        ("difficulty", "Dr. GRPO"): "Dr. GRPO: q (1 - q)",
        ("length", "GRPO"): "GRPO: 1/n",
        ("length", "Dr. GRPO"): "Dr. GRPO: 1/32 at any n",
    }
    for axes, kind in zip(panels, ("difficulty", "length"), strict=True):
        for name, look in looks.items():
            own = [r for r in found if (r["bias"], r["method"]) == (kind, name)]
            x = [r["x"] for r in own]
            label = texts[kind, name]
            style = {"color": look.color, "ls": "--" if "Dr" in name else "-"}
            axes.plot(x, [r["formula"] for r in own], **style)
            marks = {"color": look.color, "ms": 4.5, "ls": "none"}
            axes.plot(x, [r["computed"] for r in own], look.marker, **marks)
            axes.plot([], [], marker=look.marker, label=label, **style)
    panels[0].set_xlabel("share q of right samples of a question")
    panels[0].set_ylabel("weight of the question")
    panels[0].legend(loc="lower center")
    panels[1].set_xlabel("tokens n of a wrong response")
    panels[1].set_ylabel("weight of one of its tokens")
    panels[1].set_xscale("log", base=2)
    panels[1].set_yscale("log", base=2)
    for axis in (panels[1].xaxis, panels[1].yaxis):
        axis.set_major_formatter("{x:g}")
    panels[1].legend()
    title(panels[0], "difficulty")
    title(panels[1], "length")
    return figure


def verdict(found: Rows) -> str:
    """The largest relative difference of a gradient from its formula."""
    worst = max(abs(r["computed"] / r["formula"] - 1) for r in found)
    word = "supported" if worst < 1e-4 else "not supported"
    return f"{word}: gradients are the formulas, threshold 1e-4 of each"


if __name__ == "__main__":
    main(__file__)
