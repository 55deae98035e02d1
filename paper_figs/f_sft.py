"""f-SFT of every divergence and gauge, before and after DPO."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import DIVERGENCES, FAINT, METHODS, PAGE, new_figure, title

ABOUT = About(
    title="f-SFT by divergence and gauge, before and after DPO",
    paper="2507.00018",
    item="f-divergences of SFT",
    claim="f-SFT that keeps its divergence term ends nearer to the base than plain SFT "
    "and is better after DPO.",
    data=("f_sft.json",),
    command="unipost run experiments/papers/f_sft.yaml",
    differs="The paper's formulas of f-SFT were not to be had: these are the dual of "
    "IQ-Learn. GSM8K equations, 187k parameters, one learning rate for all.",
)
NAMES = {
    "total_variation": "TV",
    "pearson_chi2": "Pearson",
    "squared_hellinger": "Hellinger",
    "jensen_shannon": "JS",
    "reverse_kl": "KL",
    "forward_kl": "forward KL",
}
GAUGES = {"zero": "V = 0", "lse": "V = lse", "lsediff": "V = lse − lse ref"}
PANELS = {
    "equations/sampled": ("unseen equations", "accuracy, %"),
    "retention": ("other skills", "retention, points"),
    "kl_reverse": ("KL(policy‖base)", "nats"),
}


def rows(stored: Stored) -> Rows:
    """A row for each panel and arm with its interval; then the claims."""
    results = stored.results("f_sft")
    sample = suite.sampled(results)
    arms = ["sft", *(f"{d}_{g}" for d in NAMES for g in GAUGES)]
    found: Rows = [
        {"panel": what, "arm": arm, "stage": stage}
        | suite.triple(sample, arm + stage, what, "final")
        for what in PANELS
        for arm in arms
        for stage in ("", "_dpo")
    ]
    return found + suite.claim_rows(results)


def draw(found: Rows):
    """Hollow before DPO, filled after it; the line is plain SFT before DPO."""
    figure = new_figure(PAGE, 4.4)
    arms = list(dict.fromkeys(r["arm"] for r in found if r["panel"] in PANELS))
    named = [_named(arm) for arm in arms]
    panels = figure.subplots(1, 3)
    for axes, (what, (head, text)) in zip(panels, PANELS.items(), strict=True):
        for row in found:
            if row["panel"] == what:
                _mark(axes, row, arms.index(row["arm"]))
        plain = next(r["mean"] for r in found if r["panel"] == what)
        axes.axvline(plain, color=FAINT, lw=0.7, ls=":", zorder=0.5)
        for below in range(3, len(arms), 3):
            axes.axhline(below + 0.5, color="#e5e5e5", lw=0.6, zorder=0.2)
        axes.axhline(0.5, color="#e5e5e5", lw=0.6, zorder=0.2)
        axes.set_yticks(range(len(arms)), named if axes is panels[0] else [])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(text)
        title(axes, head)
    panels[2].set_xscale("log")
    panels[2].xaxis.set_major_formatter("{x:g}")
    before = {"ls": "none", "color": "#333333", "mfc": "white", "label": "after f-SFT"}
    panels[0].plot([], [], "o", **before)
    panels[0].plot([], [], "o", color="#333333", label="then DPO")
    panels[0].plot([], [], ":", color=FAINT, label="plain SFT")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _named(arm: str) -> str:
    divergence, _, gauge = arm.rpartition("_")
    return f"{NAMES[divergence]}, {GAUGES[gauge]}" if divergence else "plain SFT"


def _mark(axes, row, y: int) -> None:
    look = METHODS["sft"] if row["arm"] == "sft" else None
    look = look or DIVERGENCES[row["arm"].rpartition("_")[0]]
    at = y + (0.17 if row["stage"] else -0.17)
    axes.plot([row["low"], row["high"]], [at, at], color=look.color, lw=1.1)
    fill = look.color if row["stage"] else "white"
    axes.plot(row["mean"], at, look.marker, color=look.color, mfc=fill, ms=4)


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
