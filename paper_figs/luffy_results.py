"""LUFFY against the ways of using demonstrations, in and out of distribution."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, rest, title

ABOUT = About(
    title="LUFFY's main results",
    paper="2504.14945",
    item="Table 1",
    claim="LUFFY is above RL alone, SFT and SFT followed by RL, in distribution and "
    "out of it.",
    data=("published/luffy.json",),
    differs="Printed values of one model without intervals; 860 steps is its longer "
    "run. Ours on prompts that the base never solves: luffy_ablation and luffy_hard.",
)
ARMS = {
    "base": "base",
    "SFT": "sft",
    "RL with SFT loss": "rl_sft",
    "SFT, then RL": "sft_rl",
    "on-policy RL": "dr_grpo",
    "LUFFY": "luffy",
    "LUFFY, 860 steps": "luffy",
}
COLUMNS = {"average": "in", "other average": "out"}


def rows(stored: Stored) -> Rows:
    """A row for each arm: the printed averages, in distribution and out of it."""
    table = stored.published("luffy", "main")
    places = {key: table["columns"].index(c) for c, key in COLUMNS.items()}
    return [
        {"arm": arm, **{key: table["rows"][arm][i] for key, i in places.items()}}
        for arm in ARMS
    ]


def draw(found: Rows):
    """A diamond for each arm in either panel, on a line in its method's colour."""
    figure = new_figure(PAGE, 2.1)
    panels = figure.subplots(1, 2, sharey=True)
    texts = ("mean of six mathematics sets", "mean of three other sets")
    for axes, key, text in zip(panels, ("in", "out"), texts, strict=True):
        for y, row in enumerate(found):
            look = look_of(ARMS[row["arm"]])
            axes.plot([0, row[key]], [y, y], color=look.color, lw=2.5, alpha=0.5)
            published(axes, [row[key]], [y], "")
            place = (row[key], y)
            style = {"textcoords": "offset points", "fontsize": 7, "va": "center"}
            axes.annotate(f"{row[key]:.1f}", place, (5, 0), **style)
        title(axes, text)
        axes.set_xlim(0, 70)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlabel("accuracy, % (printed)")
        rest(axes, way="v")
    panels[0].set_yticks(range(len(found)), [row["arm"] for row in found])
    panels[0].tick_params(axis="y", length=0)
    return figure


def verdict(found: Rows) -> str:
    """LUFFY against each of the three, by the printed means."""
    by = {row["arm"]: row for row in found}
    leads = [
        by["LUFFY"][key] - by[arm][key]
        for arm in ("on-policy RL", "SFT", "SFT, then RL")
        for key in ("in", "out")
    ]
    word = "supported" if min(leads) > 0 else "not supported"
    return f"{word} by the printed means (smallest lead {min(leads):+.1f} points)"


if __name__ == "__main__":
    main(__file__)
