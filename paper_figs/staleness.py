"""What a stale sampler costs, and what a correction wins back: printed, and ours."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, title

from unipost.analysis.statistics import verdict as decided

ABOUT = About(
    title="Staleness and its corrections",
    paper="2505.24298",
    item="Table 2",
    claim="A sampler that lags 16 steps behind costs accuracy without a correction, "
    "and decoupled PPO loses less.",
    data=("published/areal.json", "staleness.json"),
    command="unipost run experiments/staleness.yaml",
    differs="Printed: AIME 2024 of one run each, staleness bounded by eta; infinity is "
    "drawn at the right end. Ours: a lag of exactly k steps, 187k parameters, 1355 "
    "equations, 3 seeds. Ours without a correction takes the trainer's own old policy; "
    "the paper's naive PPO takes the sampler's as the old one (our `naive`).",
)
ARMS = ("none", "naive", "tis_token", "tis_sequence", "mask", "decoupled")
TEXTS = {
    "none": "no correction",
    "naive": "ratio to the sampler",
    "tis_token": "TIS, tokens",
    "tis_sequence": "TIS, sequences",
    "mask": "masked",
    "decoupled": "decoupled PPO",
}
PRINTED = {"naive PPO": "naive", "decoupled PPO": "decoupled"}


def rows(stored: Stored) -> Rows:
    """Printed accuracies, our gains with intervals, and our paired differences."""
    table = stored.published("areal", "staleness")
    found = [
        {"where": "printed", "arm": PRINTED[arm], "steps": steps, "accuracy": value}
        for arm, values in table["rows"].items()
        for steps, value in zip(table["columns"], values, strict=True)
    ]
    summary = stored.summary("staleness")
    for arm in summary.arms:
        name, _, steps = arm.name.rpartition("_")
        sizes = [row.get("train/ess_behavior_sequence") or 0.0 for row in arm.rows]
        row = {"where": "ours", "arm": name, "steps": int(steps)}
        row |= {"accuracy": arm.target.mean, "low": arm.target.low}
        row |= {"high": arm.target.high, "ess": sum(sizes) / len(sizes)}
        found.append(row)
    for each in summary.differences:
        pair = {"arm": each.first.name, "against": each.second.name}
        mean, low, high = each.target
        row = {"where": "difference", **pair}
        row |= {"title": f"{each.first.title} minus {each.second.title}"}
        found.append(row | {"gain_mean": mean, "gain_low": low, "gain_high": high})
    return found


def draw(found: Rows):
    """Printed, our accuracy, and our effective sample size, against staleness."""
    figure = new_figure(PAGE, 2.7)
    panels = figure.subplots(1, 3)
    ticks = ["0", "1", "2", "4", "8", "16", "inf"]
    for arm in PRINTED.values():
        look = look_of(arm)
        own = [r for r in found if (r["where"], r["arm"]) == ("printed", arm)]
        x = [ticks.index(r["steps"]) for r in own]
        y = [r["accuracy"] for r in own]
        panels[0].plot(x, y, look.line, color=look.color)
        published(panels[0], x, y, "")
    panels[0].set_xticks(range(len(ticks)), [*ticks[:-1], "∞"])
    steps = sorted({r["steps"] for r in found if r["where"] == "ours"})
    for axes, key in ((panels[1], "accuracy"), (panels[2], "ess")):
        for i, arm in enumerate(ARMS):
            look = look_of(arm)
            own = [r for r in found if (r["where"], r["arm"]) == ("ours", arm)]
            own.sort(key=lambda r: r["steps"])
            x = [steps.index(r["steps"]) + (i - 2.5) * 0.06 for r in own]
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            if key == "accuracy":
                ends = [[r["low"] for r in own], [r["high"] for r in own]]
                axes.vlines(x, *ends, color=look.color, lw=0.7)
            axes.plot(x, [r[key] for r in own], label=TEXTS[arm], **style)
        axes.set_xticks(range(len(steps)), [str(s) for s in steps])
    for axes, text in zip(
        panels, ("printed, AIME24", "ours, 187k", "ours"), strict=True
    ):
        title(axes, text)
        axes.set_xlabel("steps that the sampler is behind")
    panels[0].set_ylabel("accuracy, %")
    panels[1].set_ylabel("accuracy of samples, %")
    panels[2].set_ylabel("effective share of sequences")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, columnspacing=1)
    return figure


def verdict(found: Rows) -> str:
    """16 steps against fresh, and decoupled PPO against none at 16, paired."""
    by = {(r["arm"], r["against"]): r for r in found if r["where"] == "difference"}
    cost, won = by["none_16", "none_0"], by["decoupled_16", "none_16"]
    words = [
        decided(-cost["gain_high"], -cost["gain_low"]),
        decided(won["gain_low"], won["gain_high"]),
    ]
    said = [
        f"{r['gain_mean']:+.1f} [{r['gain_low']:.1f}, {r['gain_high']:.1f}]"
        for r in (cost, won)
    ]
    return (
        f"{words[0]} for the cost of 16 steps ({said[0]} points); {words[1]} for what "
        f"decoupled PPO wins back ({said[1]})"
    )


if __name__ == "__main__":
    main(__file__)
