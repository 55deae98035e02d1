"""The stages of DeepSeek-R1 on a small model."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, new_figure, title

from unipost.analysis.statistics import verdict as decided

ABOUT = About(
    title="The stages of DeepSeek-R1",
    paper="2501.12948",
    item="Section 2.3",
    claim="The last stage of the pipeline answers unseen equations better than as many "
    "steps of RL from the base, and forgets less of the other tasks.",
    data=("r1.json",),
    command="unipost run experiments/r1.yaml",
    differs="187k parameters on equations; the language is a format of numbers. The "
    "paper prints no accuracy for the stages (only the start and the end of R1-Zero "
    "and R1 itself), so there is nothing to draw beside.",
)
STAGES = {
    "base": "base",
    "zero": "RL from the base",
    "cold_start": "cold start",
    "rl": "RL",
    "sft": "SFT on accepted",
    "final": "RL on all tasks",
}
METRICS = {
    "equations/sampled": "equations, samples",
    "order/greedy": "ordering",
    "recall/greedy": "recall",
}


def rows(stored: Stored) -> Rows:
    """A row for each stage: accuracies with intervals and the share in the style."""
    results = stored.json("r1")
    found = []
    for stage, text in STAGES.items():
        about = results["stages"][stage]
        row = {"stage": stage, "title": text}
        row["style"] = 100 * about["means"]["equations/style"]
        for key in METRICS:
            for name, value in zip(
                ("mean", "low", "high"), about["scores"][key], strict=True
            ):
                row[f"{key} {name}"] = 100 * value
        found.append(row)
    for entry in results["comparisons"]:
        if (entry["first"], entry["second"]) == ("final", "zero"):
            mean, low, high = (100 * x for x in entry["difference"])
            row = {"stage": "final minus zero", "title": "difference"}
            found.append(row | {"mean": mean, "low": low, "high": high})
    return found


def draw(found: Rows):
    """A panel for each task, and the share of responses in the target style."""
    figure = new_figure(PAGE, 2.2)
    panels = figure.subplots(1, 4, sharey=True)
    stages = [row for row in found if row["stage"] in STAGES]
    for axes, (key, text) in zip(panels, METRICS.items(), strict=False):
        for y, row in enumerate(stages):
            color = "#8a8a8a" if row["stage"] in ("base", "zero") else "#0b5c8a"
            ends = [row[f"{key} low"], row[f"{key} high"]]
            axes.plot(ends, [y, y], color=color, lw=1.5)
            mark = {"base": "o", "zero": "s"}.get(row["stage"], "D")
            axes.plot(row[f"{key} mean"], y, mark, color=color, ms=5)
        title(axes, text)
        axes.set_xlabel("accuracy, %")
    panels[3].barh(
        range(len(stages)), [row["style"] for row in stages], 0.5, color="#bbbbbb"
    )
    title(panels[3], "in the target style")
    panels[3].set_xlabel("responses, %")
    panels[0].set_yticks(range(len(stages)), [row["title"] for row in stages])
    panels[0].set_ylim(len(stages) - 0.5, -0.5)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    return figure


def verdict(found: Rows) -> str:
    """Better in accuracy by the paired difference; forgetting by the recall task."""
    by = {row["stage"]: row for row in found}
    gap = by["final minus zero"]
    learned = decided(gap["low"], gap["high"])
    lost = by["final"]["recall/greedy mean"] - by["zero"]["recall/greedy mean"]
    kept = "supported" if lost > 0 else "not supported"
    return (
        f"{learned} for accuracy ({gap['mean']:+.1f} [{gap['low']:.1f}, "
        f"{gap['high']:.1f}] points); {kept} for forgetting (recall {lost:+.1f} points)"
    )


if __name__ == "__main__":
    main(__file__)
