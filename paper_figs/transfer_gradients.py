"""Indicators of the gradient norm over training, printed."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, bars, legend_below, look_of, new_figure, title

ABOUT = About(
    title="Indicators of the gradient norm",
    paper="2507.00432",
    item="Table 7, Fig. 13",
    claim="The gradient norm under RL oscillates and varies less than under SFT.",
    data=("transfer_tables.json",),
    differs="Printed values; the paper gives no formulas for them, and the norm "
    "depends on how a loss is averaged. Each panel has its own scale. Ours, with one "
    "normaliser: gradient_norms.",
)
ARMS = {
    "14B-RL": ("RL", look_of("grpo")),
    "14B-SFT-think": ("SFT, think", look_of("sft")),
    "14B-SFT-no-think": ("SFT, no think", look_of("sft_own")),
}
TEXTS = {
    "early_slope": "early slope",
    "t_half": "half-life, steps",
    "total_grad": "sum of norms",
    "late_avg": "late mean",
    "late_var": "late variance",
    "decay_rate": "decay rate",
    "oscillation": "oscillation",
}


def rows(stored: Stored) -> Rows:
    """A row for each arm, a column for each indicator."""
    tables = stored.json("transfer_tables")
    names = tables["gradnorm_table7_cols"]
    values = tables["gradnorm_table7"]
    return [
        {"arm": text, **dict(zip(names, values[key], strict=True))}
        for key, (text, _) in ARMS.items()
    ]


def draw(found: Rows):
    """A panel for each indicator."""
    figure = new_figure(PAGE, 2.2)
    panels = figure.subplots(1, len(TEXTS))
    looks = dict(ARMS.values())
    for axes, (key, text) in zip(panels, TEXTS.items(), strict=True):
        bars(axes, [""], {row["arm"]: [row[key]] for row in found}, looks)
        title(axes, text)
        axes.axhline(0, color="#666666", lw=0.6)
    legend_below(figure, panels[0])
    return figure


def verdict(found: Rows) -> str:
    """Oscillation and late variance of RL against the smaller of SFT."""
    by = {row["arm"]: row for row in found}
    rl, others = by["RL"], [row for arm, row in by.items() if arm != "RL"]
    lower = [
        rl[key] < min(row[key] for row in others) for key in ("oscillation", "late_var")
    ]
    word = "supported" if all(lower) else "not supported"
    return f"{word} by the printed numbers of one run each"


if __name__ == "__main__":
    main(__file__)
