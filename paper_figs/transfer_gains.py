"""Gains over the base by benchmark, of the controlled study's three arms."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, bars, legend_below, look_of, new_figure, published, rest, title

ABOUT = About(
    title="Gains by group of tasks, RL against SFT",
    paper="2507.00432",
    item="Fig. 1, Table 1",
    claim="The printed averages are the means of the printed scores.",
    data=("transfer_tables.json", "published/transfer_7b.json"),
    differs="Printed scores alone; ours are in transfer_arms. Two printed averages of "
    "other reasoning are not the means of their columns: 45.2 for 44.1 and 60.0 for "
    "51.0. The labels on the bars of Fig. 1 mix the two SFT arms; here they are apart.",
)
ARMS = {
    "Uni-RL": ("RL", look_of("grpo")),
    "Uni-think": ("SFT, think", look_of("sft")),
    "Uni-nothink": ("SFT, no think", look_of("sft_own")),
}
GROUPS = {"math": "mathematics", "other": "other reasoning", "non": "other tasks"}


def rows(stored: Stored) -> Rows:
    """A row for each arm and benchmark, and its average with the printed one."""
    tables = stored.json("transfer_tables")
    control = stored.published("transfer_7b", "control")
    base, found = tables["scores"]["Qwen3-14B-Base"], []
    for model, (text, _) in ARMS.items():
        for group, benchmarks in tables["benchmarks"].items():
            pairs = list(zip(base[group], tables["scores"][model][group], strict=True))
            gains = [after - before for before, after in pairs]
            for benchmark, gain in zip(benchmarks, gains, strict=True):
                row = {"arm": text, "group": group, "benchmark": benchmark}
                found.append({**row, "gain": gain, "printed": None})
            place = control["columns"].index(group)
            right = control["rows"][text][place]
            score = control["printed"].get(text, {}).get(group, right)
            before = sum(base[group]) / 4
            row = {"arm": text, "group": group, "benchmark": "average"}
            printed = score - before
            found.append({**row, "gain": sum(gains) / 4, "printed": printed})
    return found


def draw(found: Rows):
    """Three panels of bars; the printed average as a diamond."""
    figure = new_figure(PAGE, 4.8)
    panels = figure.subplots(3, 1)
    looks = dict(ARMS.values())
    for axes, (group, text) in zip(panels, GROUPS.items(), strict=True):
        own = [row for row in found if row["group"] == group]
        names = list(dict.fromkeys(row["benchmark"] for row in own))
        series = {arm: [r["gain"] for r in own if r["arm"] == arm] for arm in looks}
        bars(axes, names, series, looks, values="%+.0f")
        rest(axes)
        means = [r["printed"] for r in own if r["benchmark"] == "average"]
        edges = [4 + (i - 0.55) * 0.8 / 3 for i in range(3)]
        published(axes, edges, means, "printed")
        title(axes, text)
        axes.margins(y=0.18)
        axes.set_ylabel("gain, points")
    legend_below(figure, panels[0], 4)
    return figure


def verdict(found: Rows) -> str:
    """Whether the printed averages are the means, to their rounding."""
    means = [row for row in found if row["benchmark"] == "average"]
    wrong = [row for row in means if abs(row["gain"] - row["printed"]) > 0.11]
    names = [f"{row['arm']} on {row['group']}" for row in wrong]
    word = "not supported" if wrong else "supported"
    return f"{word}: {len(means) - len(wrong)} of {len(means)}; not {', '.join(names)}"


if __name__ == "__main__":
    main(__file__)
