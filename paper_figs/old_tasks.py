"""How far models moved on tasks that they did not train on."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, title

ABOUT = About(
    title="Shift on the tasks that were not trained on",
    paper="2507.00432",
    item="Figs 3, 4 and 17, Table 2",
    claim="On the old tasks SFT on foreign traces moved most, then own style, "
    "on-policy SFT and GRPO: in KL, in the share of tokens with another rank, in "
    "hidden states.",
    data=("transfer_tables.json", "old_tasks.json"),
    command="python -m experiments.papers.old_tasks runs/papers_transfer OUT.json",
    differs="Printed (diamonds): the mean over five tasks of SFT with thinking and of "
    "RL, 14B, KL only; the paper's rank shift is a mean rank, ours a share, and its "
    "hidden states are not normalised. Ours: full KL, 3 seeds, 8 tasks, all steps.",
)
ARMS = {
    "foreign_sft": "SFT, foreign style",
    "own_sft": "SFT, own style",
    "on_sft": "on-policy SFT",
    "rft": "RFT from the base",
    "off_rl": "off-policy RL",
    "grpo": "GRPO",
    "grpo_kl": "GRPO with KL",
}
PANELS = {
    "kl": "KL(policy‖base), nats per token",
    "rank": "tokens with another rank, %",
    "latent": "shift of hidden states",
}
PRINTED = {"foreign_sft": "SFT-think", "grpo": "RL"}


def rows(stored: Stored) -> Rows:
    """A row for each arm and measure, with an interval; the printed KL; the steps."""
    import numpy as np

    from unipost.analysis.statistics import bootstrap_mean

    tree = stored.json("old_tasks")
    kl = Stored().json("transfer_tables")["kl_fig4"]
    found = []
    for arm, values in tree["values"].items():
        name = arm.partition("@")[0]
        for i, measure in enumerate(tree["measures"]):
            table = np.array(values)[:, :, i]
            mean, low, high = bootstrap_mean(table, 2000)
            row = {"kind": "ours", "arm": name, "measure": measure}
            found.append(row | {"mean": mean, "low": low, "high": high})
    for arm, printed in PRINTED.items():
        row = {"kind": "printed", "arm": arm, "measure": "kl"}
        found.append(row | {"mean": sum(kl[printed]) / len(kl[printed])})
    for measure, judged in tree["judged"].items():
        for pair, (mean, low, high, word) in judged["steps"].items():
            row = {"kind": "step", "arm": pair, "measure": measure, "verdict": word}
            found.append(row | {"mean": mean, "low": low, "high": high})
        row = {"kind": "claim", "arm": "", "measure": measure}
        found.append(row | {"verdict": judged["verdict"]})
    return found


def draw(found: Rows):
    """A panel for each measure, arms below each other; log axis for the KL."""
    figure = new_figure(PAGE, 2.2)
    panels = figure.subplots(1, 3, sharey=True)
    names = list(ARMS)
    for axes, (measure, text) in zip(panels, PANELS.items(), strict=True):
        for row in found:
            if row["measure"] != measure or row["kind"] not in ("ours", "printed"):
                continue
            y, look = names.index(row["arm"]), look_of(row["arm"])
            if row["kind"] == "printed":
                published(axes, [row["mean"]], [y], "", ms=5)
                continue
            axes.plot([row["low"], row["high"]], [y, y], color=look.color, lw=1.5)
            axes.plot(row["mean"], y, look.marker, color=look.color, ms=5)
        title(axes, text)
        axes.tick_params(axis="y", length=0)
    panels[0].set_xscale("log")
    panels[0].set_yticks(range(len(names)), list(ARMS.values()))
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def verdict(found: Rows) -> str:
    """The order of the four arms in each measure, by its weakest step."""
    told = []
    for row in found:
        if row["kind"] == "claim":
            told.append(f"{row['verdict']} in {row['measure']}")
    return "; ".join(told)


if __name__ == "__main__":
    main(__file__)
