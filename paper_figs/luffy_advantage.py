"""Advantage of a right demonstration in a group of eight."""

from typing import Any

import numpy as np
from drawing import About, main
from stored import Rows, Stored
from style import COLUMN, look_of, new_figure, published

from unipost.signals import Mean, ZScore

ABOUT = About(
    title="Advantage of a demonstration",
    paper="2504.14945",
    item="Eq 4",
    claim="One right demonstration beside seven own samples of which k are right has "
    "advantage (7 - k)/8, and its z-score falls from 2.475 to 0: what the policy can "
    "do is imitated less.",
    data=("published/luffy.json",),
    differs="Computed by the signals of the library. The released recipe uses the "
    "mean alone, Eq 4 the z-score (ddof 1).",
)
SIGNALS = {"mean": (Mean, "luffy"), "z-score": (ZScore, "grpo")}


def rows(stored: Stored) -> Rows:
    """A row for each k and signal: printed and computed advantage."""
    import jax.numpy as jnp

    from unipost import Batch

    table = stored.published("luffy", "advantage")["rows"]
    found = []
    for name, (signal, _) in SIGNALS.items():
        for k in range(8):
            rewards = jnp.asarray([[1.0] * k + [0.0] * (7 - k) + [1.0]])
            batch = Batch(mask=jnp.ones((1, 8, 1)), rewards=rewards)
            value = np.asarray(signal()(batch)).reshape(8, -1)[-1, 0]
            row = {"signal": name, "k": k, "advantage": float(value)}
            found.append({**row, "printed": table[name][k]})
    return found


def draw(found: Rows):
    """Lines of the two signals, the numbers of the formula as diamonds."""
    figure = new_figure(COLUMN, 2.2)
    axes = figure.subplots()
    for name, (_, method) in SIGNALS.items():
        look = look_of(method)
        own = [row for row in found if row["signal"] == name]
        k = [row["k"] for row in own]
        style: dict[str, Any] = {"color": look.color, "marker": look.marker}
        style |= {"ls": look.line, "label": name}
        axes.plot(k, [row["advantage"] for row in own], **style)
        label = "formula" if name == "mean" else ""
        published(axes, k, [row["printed"] for row in own], label, ms=6)
    axes.set_xlabel("right samples k among the policy's seven")
    axes.set_ylabel("advantage of the demonstration")
    axes.legend()
    return figure


def verdict(found: Rows) -> str:
    """The largest difference from the formula."""
    worst = max(abs(row["advantage"] - row["printed"]) for row in found)
    word = "supported" if worst < 6e-4 else "not supported"
    return f"{word}: the formula's three digits"


if __name__ == "__main__":
    main(__file__)
