"""How far hidden states moved, printed, by group of tasks."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure

ABOUT = About(
    title="Shift of hidden states along two principal components",
    paper="2507.00432",
    item="Tables 2 and 6",
    claim="Models tuned with RL move their hidden states less than models tuned with "
    "SFT, in every group of tasks (one-sided rank tests, Holm over the three).",
    data=("transfer_tables.json",),
    differs="Printed values, not recomputed: they are not normalised by the scale of "
    "the activations, so bases cannot be compared; log axis. In the controlled study "
    "the lead of RL over SFT with thinking on other tasks is 36.9 against 38.2.",
)
GROUPS = ("mathematics", "other reasoning", "other tasks")
RL = ("SimpleRL", "General-Reasoner-RL", "DAPO", "UniReason-RL")
SMALLEST = 0.05


def rows(stored: Stored) -> Rows:
    """A row for each tuned model: method and the printed mean shift of each group."""
    tables = stored.json("transfer_tables")
    values = tables["pca_table6"] | tables["pca_table2"]
    found = []
    for model, shifts in values.items():
        if model == "Qwen3-14B":  # the same row as Qwen3-14B-no-think
            continue
        method = "RL" if any(name in model for name in RL) else "SFT"
        if model.startswith("Qwen3-14B-"):
            method = "vendor's own"
        named = dict(zip(GROUPS, shifts, strict=True))
        found.append({"model": model, "method": method, **named})
    return sorted(found, key=lambda row: -row["other tasks"])


def draw(found: Rows):
    """A dot for each model and group on a log axis; 0.0 stands at its left end."""
    figure = new_figure(PAGE, 3.7)
    axes = figure.subplots()
    looks = {
        "RL": look_of("grpo"),
        "SFT": look_of("sft"),
        "vendor's own": look_of("control"),
    }
    faces = {"mathematics": "none", "other reasoning": None, "other tasks": None}
    marks = dict(zip(GROUPS, "os^", strict=True))
    for y, row in enumerate(found):
        look = looks[row["method"]]
        x = [max(row[group], SMALLEST) for group in GROUPS]
        axes.plot([min(x), max(x)], [y, y], color=look.color, lw=0.8, alpha=0.6)
        for group, value in zip(GROUPS, x, strict=True):
            face = faces[group] or look.color
            axes.plot(value, y, marks[group], color=look.color, mfc=face, ms=5)
    for method, look in looks.items():
        axes.plot([], [], "-", color=look.color, lw=3, label=method)
    for group, mark in marks.items():
        face = faces[group] or "#333333"
        style = {"color": "#333333", "mfc": face, "ms": 5, "label": group}
        axes.plot([], [], mark, **style)
    axes.set_xscale("log")
    axes.set_yticks(range(len(found)), [row["model"] for row in found])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("printed shift of the mean hidden state (0.0 drawn at 0.05)")
    legend_below(figure, axes, 6)
    return figure


def verdict(found: Rows) -> str:
    """Rank tests of RL below SFT in each group, the vendor's models left out."""
    from scipy.stats import mannwhitneyu

    from unipost.analysis.statistics import holm

    raw = []
    for group in GROUPS:
        rl, sft = (
            [row[group] for row in found if row["method"] == m] for m in ("RL", "SFT")
        )
        raw.append(float(mannwhitneyu(rl, sft, alternative="less").pvalue))
    held = [
        f"{'supported' if p < 0.05 else 'inconclusive'} for {group} (p {p:.2g})"
        for group, p in zip(GROUPS, holm(raw), strict=True)
    ]
    return "; ".join(held)


if __name__ == "__main__":
    main(__file__)
