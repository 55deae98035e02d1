"""DFT against SFT on five base models, printed."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, bars, legend_below, look_of, new_figure, published, title

ABOUT = About(
    title="DFT against SFT",
    paper="2508.05629",
    item="Tables 1 and 3",
    claim="DFT is above SFT on every base, and above the offline and online RL that it "
    "is compared with.",
    data=("published/dft.json",),
    differs="Printed values without intervals. Ours, with teachers that the base "
    "supports and does not: dft_teachers.",
)
ARMS = {"base": "base", "SFT": "sft", "DFT": "dft"}
OFFLINE = {
    "RFT": "rft",
    "DPO": "dpo",
    "PPO": "ppo",
    "GRPO": "grpo",
    "iw-SFT": "iw_sft",
    "DFT": "dft",
}


def rows(stored: Stored) -> Rows:
    """A row for each base and arm, then one for each method of the second table."""
    main_table = stored.published("dft", "main")
    found = [
        {"table": "main", "model": model, "arm": arm, "accuracy": value}
        for model, values in main_table["rows"].items()
        for arm, value in zip(main_table["columns"], values, strict=True)
    ]
    offline = stored.published("dft", "offline")
    return found + [
        {"table": "offline", "model": offline["model"], "arm": arm, "accuracy": value}
        for arm, (value,) in offline["rows"].items()
    ]


def draw(found: Rows):
    """Bars by base; the methods of the second table as a ladder."""
    figure = new_figure(PAGE, 2.6)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    own = [row for row in found if row["table"] == "main"]
    models = list(dict.fromkeys(row["model"] for row in own))
    series = {arm: [r["accuracy"] for r in own if r["arm"] == arm] for arm in ARMS}
    looks = {arm: look_of(method) for arm, method in ARMS.items()}
    names = [m.replace("-Math", "\nMath").replace("kMath", "k\nMath") for m in models]
    names = [m.replace("Llama-", "Llama\n") for m in names]
    bars(left, names, series, looks, values="%.0f")
    title(left, "printed, mean of five mathematics sets")
    left.set_ylabel("accuracy, %")
    last = sorted(
        (row for row in found if row["table"] == "offline"), key=lambda r: r["accuracy"]
    )
    for y, row in enumerate(last):
        color = look_of(OFFLINE[row["arm"]]).color
        right.plot([20, row["accuracy"]], [y, y], color=color, lw=2.5, alpha=0.5)
        published(right, [row["accuracy"]], [y], "")
    right.set_yticks(range(len(last)), [row["arm"] for row in last])
    right.tick_params(axis="y", length=0)
    right.set_xlim(20, 38)
    right.set_xlabel("accuracy, %")
    title(right, "printed, 1.5B, offline setting")
    legend_below(figure, left)
    return figure


def verdict(found: Rows) -> str:
    """By the printed values."""
    by = {(r["table"], r["model"], r["arm"]): r["accuracy"] for r in found}
    models = {r["model"] for r in found if r["table"] == "main"}
    gaps = [by["main", m, "DFT"] - by["main", m, "SFT"] for m in models]
    offline = [r for r in found if r["table"] == "offline"]
    best = max(offline, key=lambda r: r["accuracy"])["arm"]
    word = "supported" if min(gaps) > 0 and best == "DFT" else "not supported"
    return f"{word} by the printed values (smallest lead over SFT {min(gaps):+.1f})"


if __name__ == "__main__":
    main(__file__)
