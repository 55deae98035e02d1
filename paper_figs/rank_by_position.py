"""How far down the base's list the tokens of a response stand, by their position."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, title

ABOUT = About(
    title="Rank shift by position in the response",
    paper="2507.00432",
    item="Figs 15, 16 and 20",
    claim="On the tasks that were not trained on the rank shift of GRPO is below that "
    "of SFT on either style, also after the third token.",
    data=("shifts.json",),
    command="python -m experiments.papers.shifts runs/papers_transfer OUT.json",
    differs="Greedy responses, 3 seeds of 128 items; the paper's responses have "
    "thousands of tokens and shifts up to 40 on a vocabulary of 150 thousand (ours: "
    "about 50). Positions that fewer than 20 responses reach are left out.",
)
ARMS = {
    "foreign_sft": ("SFT, foreign style", "sft"),
    "own_sft": ("SFT, own style", "sft_own"),
    "on_sft": ("on-policy SFT", "on_sft"),
    "grpo": ("GRPO", "grpo"),
}
TASKS = {
    "ch4": "ch4 (trained)",
    "ch5": "ch5 (longer)",
    "sort": "sort (other)",
    "rep": "rep (non-reasoning)",
    "look": "look",
    "fact": "fact",
}
CLAIMS = ("rank_old", "rank_late")
FEWEST = 20


def rows(stored: Stored) -> Rows:
    """A row for each arm, task and position, each mean, each part of a claim."""
    tree = stored.json("shifts")
    found: Rows = []
    for arm in ARMS:
        for task in TASKS:
            cell = tree["cells"][f"{arm}/{task}"]
            head = {"kind": "position", "arm": arm, "task": task}
            for place, (shift, count) in enumerate(cell["positions"], 1):
                if count >= FEWEST:
                    row = head | {"position": place, "mean": shift}
                    found.append(row | {"responses": count})
            mean, low, high = cell["shift"]
            row = head | {"kind": "mean", "mean": mean, "low": low, "high": high}
            found.append(row)
    return found + judged(tree)


def judged(tree) -> Rows:
    """A row for each part of the claims, and one with the verdict of each."""
    found: Rows = []
    for name in CLAIMS:
        claim = tree["claims"][name]
        for part, (mean, low, high, word) in claim["parts"].items():
            row = {"kind": "part", "arm": name, "task": part, "verdict": word}
            found.append(row | {"mean": mean, "low": low, "high": high})
        row = {"kind": "claim", "arm": name, "task": claim["says"]}
        found.append(row | {"verdict": claim["verdict"]})
    return found


def draw(found: Rows):
    """A panel for each task, a line for each arm."""
    figure = new_figure(PAGE, 3.6)
    panels = figure.subplots(2, 3).flat
    for axes, (task, text) in zip(panels, TASKS.items(), strict=True):
        for arm, (name, as_look) in ARMS.items():
            own = [
                row
                for row in found
                if row["kind"] == "position"
                and (row["arm"], row["task"]) == (arm, task)
            ]
            look = look_of(as_look)
            x, y = ([row[key] for row in own] for key in ("position", "mean"))
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            axes.plot(x, y, label=name, ms=3.5, **style)
        title(axes, text)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xlabel("position in the response")
        axes.set_ylabel("rank shift")
    legend_below(figure, axes, 4)
    return figure


def verdict(found: Rows) -> str:
    """Each claim with its verdict."""
    claims = [row for row in found if row["kind"] == "claim"]
    return "; ".join(f"{row['verdict']} for {row['arm']}" for row in claims)


if __name__ == "__main__":
    main(__file__)
