"""Which distance predicts forgetting: R^2 of each, printed."""

from drawing import About, main
from stored import Rows, Stored
from style import COLUMN, new_figure, published

ABOUT = About(
    title="Predictors of forgetting",
    paper="2509.04259",
    item="Table 1, Figs 3 and 11",
    claim="KL(base || policy) on the new task predicts forgetting better than the "
    "reverse KL, total variation and distances of weights or activations.",
    data=("published/razor.json",),
    differs="Printed values, read in two extracts of the paper. Ours, with intervals "
    "over runs: razor_predictors.",
)


def rows(stored: Stored) -> Rows:
    """A row for each predictor: printed R^2."""
    table = stored.published("razor", "predictors")["rows"]
    model = stored.published("razor", "language_model")["rows"]
    found = [
        {"setting": "ParityMNIST", "predictor": name, "r2": value}
        for name, (value,) in table.items()
    ]
    return found + [
        {"setting": "3B language model", "predictor": name, "r2": value}
        for name, (value,) in model.items()
    ]


def draw(found: Rows):
    """One diamond for each predictor, the language model's beside."""
    figure = new_figure(COLUMN, 2.1)
    axes = figure.subplots()
    own = [row for row in found if row["setting"] == "ParityMNIST"]
    other = [row for row in found if row["setting"] != "ParityMNIST"]
    names = [row["predictor"] for row in own]
    for y, row in enumerate(own):
        axes.plot([0, row["r2"]], [y, y], color="#bbbbbb", lw=2)
    published(axes, [row["r2"] for row in own], range(len(own)), "ParityMNIST")
    places = [names.index(row["predictor"]) for row in other]
    published(axes, [row["r2"] for row in other], places, "3B model", ms=7)
    names = [name.replace("||", "‖") for name in names]
    axes.set_yticks(range(len(own)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(own) - 0.5, -0.5)
    axes.set_xlim(0, 1.03)
    axes.set_xlabel("R² of a quadratic fit of forgetting (printed)")
    axes.legend(loc="lower right")
    return figure


def verdict(found: Rows) -> str:
    """Whether the first is the largest, by the printed values."""
    own = [row for row in found if row["setting"] == "ParityMNIST"]
    best = max(own, key=lambda row: row["r2"])["predictor"]
    word = "supported" if best == "KL(base||policy)" else "not supported"
    return f"{word} by the printed values (largest: {best})"


if __name__ == "__main__":
    main(__file__)
