"""Which of the printed transferability indices follow from the printed scores."""

from audit import audited
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, published

ABOUT = About(
    title="Audit of the transferability index",
    paper="2507.00432",
    item="Table 5 against Tables 9-11",
    claim="The index is one formula of the printed scores: of 18 rows at least 13 "
    "follow from it within 0.6 points, with one spread of gains for all models.",
    data=("transfer_tables.json",),
    differs="The two ratios of spreads (0.939 and 0.8855 as roots) are not in the "
    "paper: they are inferred from the same numbers. With a spread of each model, "
    "as the text reads, the values are others (crosses).",
)
GROUPS = {"other": "other reasoning", "non": "other tasks"}


def rows(stored: Stored) -> Rows:
    """A row for each model: printed, recomputed with either spread, consistent."""
    return audited(stored)


def draw(found: Rows):
    """A line for each model, printed and recomputed; rows that do not follow named."""
    figure = new_figure(PAGE, 3.9)
    panels = figure.subplots(1, 2, sharey=True)
    look, literal = look_of("grpo"), look_of("control")
    places = range(len(found))
    for axes, (key, text) in zip(panels, GROUPS.items(), strict=True):
        ours = [row[f"recomputed_{key}"] for row in found]
        own = [row[f"own_spread_{key}"] for row in found]
        printed = [row[f"printed_{key}"] for row in found]
        for y, row in zip(places, found, strict=True):
            if row["consistent"] == "no":
                axes.axhspan(y - 0.45, y + 0.45, color="#f3e3e3", lw=0, zorder=0)
        shown = {
            "color": literal.color,
            "ms": 4,
            "mew": 1,
            "label": "recomputed, spread of each",
        }
        axes.plot(own, places, "x", **shown)
        axes.plot(
            ours, places, "o", color=look.color, ms=4.5, label="recomputed, one spread"
        )
        published(axes, printed, places, "printed")
        axes.axvline(0, color=literal.color, lw=0.7, zorder=0.5)
        axes.set_xlabel(f"index, {text}, %")
        axes.set_ylim(len(found) - 0.5, -0.5)
    panels[0].set_yticks(list(places), [row["model"] for row in found])
    panels[0].tick_params(axis="y", length=0)
    legend_below(figure, panels[0])
    return figure


def verdict(found: Rows) -> str:
    """How many rows follow, and which do not."""
    wrong = [row["model"] for row in found if row["consistent"] == "no"]
    right = len(found) - len(wrong)
    word = "supported" if right >= 13 else "not supported"
    return f"{word}: {right} of {len(found)} rows follow; not {', '.join(wrong)}"


if __name__ == "__main__":
    main(__file__)
