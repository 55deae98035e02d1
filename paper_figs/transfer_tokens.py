"""How far the distribution of tokens moved: KL and rank shift by task, printed."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, bars, legend_below, look_of, new_figure, title

ABOUT = About(
    title="KL and rank shift of tokens by task",
    paper="2507.00432",
    item="Figs 4, 17, 18 and 19",
    claim="On every task the model tuned with RL moved less than both SFT models, in "
    "KL and in rank.",
    data=("transfer_tables.json", "published/transfer_7b.json"),
    differs="Printed values. The released code's KL is a single-sample estimate on the "
    "tuned model's own text, averaged over items, its absolute value. Which bar of "
    "Fig. 18 is which task is not known; its means are SFT 0.347, RL 0.137. Ours: "
    "token_shift.",
)
LOOKS = {
    "SFT-no-think": look_of("sft_own"),
    "SFT-think": look_of("sft"),
    "SFT": look_of("sft"),
    "RL": look_of("grpo"),
}
LABELS = {"SFT-no-think": "SFT, no think", "SFT-think": "SFT, think"}
PANELS = {
    "KL, 14B": "KL to the base, nats per token (14B)",
    "rank, 14B": "mean rank shift (14B)",
    "rank, 7B": "mean rank shift (7B, one SFT model)",
}


def rows(stored: Stored) -> Rows:
    """A row for each figure, arm and task."""
    tables = stored.json("transfer_tables")
    seven = {"UniReason-7B-SFT": "SFT", "UniReason-7B-RL": "RL"}
    kinds = (
        ("KL, 14B", "kl_fig4", {}),
        ("rank, 14B", "rank_fig17", {}),
        ("rank, 7B", "rank_fig19", seven),
    )
    found = [
        {"what": what, "arm": names.get(arm, arm), "task": task, "value": value}
        for what, key, names in kinds
        for arm, values in tables[key].items()
        for task, value in zip(tables[f"{key}_order"], values, strict=True)
    ]
    unordered = stored.published("transfer_7b", "kl_unordered")["rows"]
    return found + [
        {"what": "KL, 7B", "arm": arm, "task": "mean", "value": sum(v) / len(v)}
        for arm, v in unordered.items()
    ]


def draw(found: Rows):
    """Bars by task: KL over the whole width, the two rank shifts below."""
    figure = new_figure(PAGE, 4.6)
    panels = figure.subplots(3, 1)
    for axes, (what, text) in zip(panels, PANELS.items(), strict=True):
        own = [row for row in found if row["what"] == what]
        tasks = list(dict.fromkeys(row["task"] for row in own))
        arms = [arm for arm in LOOKS if any(row["arm"] == arm for row in own)]
        series = {a: [r["value"] for r in own if r["arm"] == a] for a in arms}
        form = "%.2f" if "KL" in what else "%.1f"
        bars(axes, tasks, series, LOOKS, LABELS, values=form)
        title(axes, text)
        axes.margins(y=0.15)
    legend_below(figure, panels[0])
    return figure


def verdict(found: Rows) -> str:
    """Whether RL is below every SFT arm on each task, by figure."""
    total, below = 0, 0
    for what in PANELS:
        own = [row for row in found if row["what"] == what]
        for task in {row["task"] for row in own}:
            rl = [r["value"] for r in own if (r["arm"], r["task"]) == ("RL", task)]
            sft = [r["value"] for r in own if r["arm"] != "RL" and r["task"] == task]
            total, below = total + 1, below + (rl[0] < min(sft))
    word = "supported" if below == total else "not supported"
    return f"{word}: below in {below} of {total} comparisons"


if __name__ == "__main__":
    main(__file__)
