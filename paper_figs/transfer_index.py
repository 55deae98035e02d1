"""Transferability of 18 published models: printed, and recomputed from their scores."""

from audit import audited
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, published, rest

ABOUT = About(
    title="Transferability index of 18 published models",
    paper="2507.00432",
    item="Fig. 2, Tables 1 and 5",
    claim="Models tuned with RL transfer more than models tuned with SFT, to other "
    "reasoning and to other tasks (one-sided rank tests, Holm over the two).",
    data=("transfer_tables.json",),
    differs="Nothing is trained: the printed indices, and the index recomputed from "
    "the printed scores with the spreads that they imply. Dashed: means of the printed "
    "values. 18 models are no random "
    "sample, and bases, data and budgets differ between the two kinds.",
)
LOOKS = {"RL": look_of("grpo"), "SFT": look_of("sft")}


def rows(stored: Stored) -> Rows:
    """A row for each model: method, printed and recomputed index of both groups."""
    return audited(stored)


def draw(found: Rows):
    """Both groups above each other, models by size of their base."""
    figure = new_figure(PAGE, 4.2)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, key in zip(panels, ("other", "non"), strict=True):
        rest(axes)
        for method, look in LOOKS.items():
            own = [(i, r) for i, r in enumerate(found) if r["method"] == method]
            places = [i for i, _ in own]
            values = [r[f"recomputed_{key}"] for _, r in own]
            label = f"{method}, recomputed"
            style = {"color": look.color, "ms": 5, "label": label}
            axes.plot(places, values, look.marker, **style)
            mean = sum(r[f"printed_{key}"] for _, r in own) / len(own)
            axes.axhline(mean, color=look.color, ls="--", lw=0.9, zorder=0.6)
            place = (1.0, mean)
            axes.annotate(
                f"{method} {mean:+.0f}",
                place,
                (2, 0),
                ("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=look.color,
            )
        printed = [r[f"printed_{key}"] for r in found]
        published(axes, range(len(found)), printed, "printed")
        axes.margins(y=0.12)
    panels[0].set_ylabel("index, other reasoning, %")
    panels[1].set_ylabel("index, other tasks, %")
    panels[1].set_xticks(range(len(found)), [r["model"] for r in found], rotation=40)
    for label in panels[1].get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    legend_below(figure, panels[0])
    return figure


def verdict(found: Rows) -> str:
    """Rank tests of the printed indices, Holm over the two groups."""
    from scipy.stats import mannwhitneyu

    values = {}
    for key in ("other", "non"):
        rl, sft = (
            [r[f"printed_{key}"] for r in found if r["method"] == m]
            for m in ("RL", "SFT")
        )
        values[key] = float(mannwhitneyu(rl, sft, alternative="greater").pvalue)
    least, most = sorted(values.values())
    held = {key: p == least and 2 * p < 0.05 for key, p in values.items()}
    if 2 * least < 0.05 and most < 0.05:
        held = dict.fromkeys(values, True)
    said = [
        f"{'supported' if held[key] else 'inconclusive'} for {text} (p {p:.2g})"
        for (key, p), text in zip(
            values.items(), ("other reasoning", "other tasks"), strict=True
        )
    ]
    return "; ".join(said)


if __name__ == "__main__":
    main(__file__)
