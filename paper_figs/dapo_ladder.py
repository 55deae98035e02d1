"""DAPO's ladder: what each of its techniques adds on AIME 2024."""

from drawing import About, main
from stored import Rows, Stored
from style import COLUMN, new_figure, published

ABOUT = About(
    title="DAPO's ladder",
    paper="2503.14476",
    item="Table 1",
    claim="Each of the five techniques adds to those before it.",
    data=("published/dapo.json",),
    differs="Printed values, one run each. At our size DAPO is one arm of rl_methods.",
)


def rows(stored: Stored) -> Rows:
    """A row for each rung: accuracy and what it added."""
    table = stored.published("dapo", "ladder")["rows"]
    found, last = [], None
    for name, (value,) in table.items():
        added = None if last is None else value - last
        found.append({"arm": name, "accuracy": value, "added": added})
        last = value
    return found


def draw(found: Rows):
    """A staircase with the printed values."""
    figure = new_figure(COLUMN, 2.2)
    axes = figure.subplots()
    x = [row["accuracy"] for row in found]
    axes.step(x, range(len(found)), where="pre", color="#e6ab02", lw=1.5)
    published(axes, x, range(len(found)))
    for y, row in enumerate(found):
        text = f"{row['accuracy']}" + (f" (+{row['added']})" if row["added"] else "")
        style = {"textcoords": "offset points", "fontsize": 7, "va": "center"}
        axes.annotate(text, (row["accuracy"], y), (6, 0), **style)
    axes.set_yticks(range(len(found)), [row["arm"] for row in found])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(27, 58)
    axes.set_xlabel("AIME 2024, avg@32, % (printed)")
    return figure


def verdict(found: Rows) -> str:
    """Whether every rung is above the one before, as printed."""
    least = min(row["added"] for row in found[1:])
    word = "supported" if least > 0 else "not supported"
    return f"{word} by the printed values (smallest step +{least} points)"


if __name__ == "__main__":
    main(__file__)
