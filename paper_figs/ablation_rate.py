"""What a larger learning rate of SFT learns and forgets."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, title

ABOUT = About(
    title="Learning rate of SFT: learned and forgotten",
    paper="2507.00018",
    item="Claim on the learning rate of SFT (no table was to be had)",
    claim="A larger learning rate of SFT learns more of the new task and forgets more "
    "of an old one.",
    data=("sft_rate_seeds.json",),
    command="unipost sweep experiments/ablations/sft_rate_seeds.yaml",
    differs="The paper's claim is about what DPO makes of the SFT model (`bridge`); "
    "this is SFT alone, with intervals over 4 seeds.",
)
METRICS = {
    "equations/sampled": "equations, samples",
    "order/greedy": "ordering numbers",
}


def rows(stored: Stored) -> Rows:
    """A row for each rate: both accuracies in percent, with intervals over seeds."""
    combinations = stored.json("sft_rate_seeds")["combinations"]
    found = []
    for about in combinations.values():
        row = {"rate": about["values"]["optimizer.learning_rate"]}
        for key in METRICS:
            values = about["means"][key]
            for name, value in zip(("mean", "low", "high"), values, strict=True):
                row[f"{key} {name}"] = 100 * value
        row["kl_reverse"] = about["means"]["kl_reverse"][0]
        found.append(row)
    return sorted(found, key=lambda row: row["rate"])


def draw(found: Rows):
    """Both accuracies against the rate, on a log axis."""
    figure = new_figure(PAGE, 2.2)
    panels = figure.subplots(1, 2)
    look = look_of("sft")
    for axes, (key, text) in zip(panels, METRICS.items(), strict=True):
        x = [row["rate"] for row in found]
        y = [row[f"{key} mean"] for row in found]
        ends = [[row[f"{key} {end}"] for row in found] for end in ("low", "high")]
        axes.fill_between(x, *ends, color=look.color, alpha=0.15, lw=0)
        axes.plot(x, y, look.marker + look.line, color=look.color)
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
        axes.set_xlabel("learning rate of SFT")
        axes.set_ylabel("accuracy, %")
        title(axes, text)
    return figure


def verdict(found: Rows) -> str:
    """Order of the two by the rate."""
    learned = [row["equations/sampled mean"] for row in found]
    kept = [row["order/greedy mean"] for row in found]
    more, less = learned == sorted(learned), kept == sorted(kept, reverse=True)
    words = ["supported" if held else "not supported" for held in (more, less)]
    best = found[learned.index(max(learned))]["rate"]
    return f"{words[0]} for learning (best at {best:g}); {words[1]} for forgetting"


if __name__ == "__main__":
    main(__file__)
