"""Hidden states of every layer before and after, along the base's directions."""

from drawing import About, main
from stored import Rows, Stored
from style import FAINT, PAGE, look_of, new_figure

ABOUT = About(
    title="Hidden states by layer, before and after",
    paper="2507.00432",
    item="Fig. 3 (and 7 to 12)",
    claim="On the tasks that were not trained on GRPO moves the hidden states less "
    "than SFT on either style does, and less than foreign SFT on each of them.",
    data=("shifts.json",),
    command="python -m experiments.papers.shifts runs/papers_transfer OUT.json",
    differs="Ours, in the form of the paper's code: prompts pooled with their padding, "
    "128 items, means over 3 seeds, four layers of 64 numbers. The paper's axes span "
    "hundreds, since its activations are larger: its d are in transfer_pca.",
)
ARMS = {
    "foreign_sft": ("SFT, foreign", "sft"),
    "own_sft": ("SFT, own style", "sft_own"),
    "on_sft": ("on-policy SFT", "on_sft"),
    "grpo": ("GRPO", "grpo"),
}
TASKS = {
    "ch4": "ch4 (trained)",
    "sort": "sort",
    "rep": "rep",
    "look": "look",
    "fact": "fact",
}
CLAIMS = ("pca_old", "pca_every")


def rows(stored: Stored) -> Rows:
    """A row for each arm, task and layer, for each d, for each part of a claim."""
    tree = stored.json("shifts")
    found: Rows = []
    for arm in ARMS:
        for task in TASKS:
            cell = tree["cells"][f"{arm}/{task}"]
            head = {"kind": "layer", "arm": arm, "task": task}
            for layer, (base, tuned) in enumerate(cell["points"]):
                row = head | {"layer": layer, "base_1": base[0], "base_2": base[1]}
                found.append(row | {"tuned_1": tuned[0], "tuned_2": tuned[1]})
            mean, low, high = cell["z"]
            found.append(head | {"kind": "d", "mean": mean, "low": low, "high": high})
    return found + judged(tree, CLAIMS)


def judged(tree, names) -> Rows:
    """A row for each part of these claims, then one with the claim's verdict."""
    found: Rows = []
    for name in names:
        claim = tree["claims"][name]
        for part, (mean, low, high, word) in claim["parts"].items():
            row = {"kind": "part", "arm": name, "task": part, "verdict": word}
            found.append(row | {"mean": mean, "low": low, "high": high})
        row = {"kind": "claim", "arm": name, "task": claim["says"]}
        found.append(row | {"verdict": claim["verdict"]})
    return found


def draw(found: Rows):
    """Tasks across, arms down: layers of the base joined to those after training."""
    figure = new_figure(PAGE, 4.9)
    shape = {"sharex": "col", "sharey": "col", "squeeze": False}
    grid = figure.subplots(len(ARMS), len(TASKS), **shape)
    for line, (arm, (name, look)) in zip(grid, ARMS.items(), strict=True):
        for axes, (task, text) in zip(line, TASKS.items(), strict=True):
            own = [r for r in found if (r["arm"], r["task"]) == (arm, task)]
            _layers(axes, [r for r in own if r["kind"] == "layer"], look_of(look))
            (d,) = [r["mean"] for r in own if r["kind"] == "d"]
            box = {"boxstyle": "square,pad=0.2", "fc": "white", "ec": FAINT, "lw": 0.5}
            place = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
            axes.annotate(f"d {d:.3f}", (0.98, 0.97), fontsize=7, bbox=box, **place)
            if arm == next(iter(ARMS)):
                axes.set_title(text, loc="left")
            if task == next(iter(TASKS)):
                axes.set_ylabel(f"{name}\nPC2")
            if arm == [*ARMS][-1]:
                axes.set_xlabel("shift on PC1")
            axes.margins(0.18, 0.4)
    marks = {"ls": "none", "ms": 4, "color": FAINT}
    handles = [
        grid[0, 0].plot([], [], "o", mfc="none", label="base, a layer", **marks)[0],
        grid[0, 0].plot([], [], "^", label="the same layer after training", **marks)[0],
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _layers(axes, own: Rows, look) -> None:
    for row in own:
        ends = [row["base_1"], row["tuned_1"]], [row["base_2"], row["tuned_2"]]
        axes.plot(*ends, color=FAINT, lw=0.8, zorder=1)
    base = [[row[key] for row in own] for key in ("base_1", "base_2")]
    tuned = [[row[key] for row in own] for key in ("tuned_1", "tuned_2")]
    style = {"ls": "none", "ms": 4}
    axes.plot(*base, "o", color="black", mfc="none", **style)
    axes.plot(*tuned, "^", color=look.color, **style)


def verdict(found: Rows) -> str:
    """Each claim with its verdict."""
    claims = [row for row in found if row["kind"] == "claim"]
    return "; ".join(f"{row['verdict']} for {row['arm']}" for row in claims)


if __name__ == "__main__":
    main(__file__)
