"""Which tokens are shifted: bars of the commonest, and two responses token by token."""

from typing import Any

from drawing import About, main
from stored import Rows, Stored
from style import FAINT, PAGE, look_of, new_figure, title

ABOUT = About(
    title="Shifted tokens",
    paper="2507.00432",
    item="Fig. 5, Table 8",
    claim="GRPO shifts fewer tokens of a response than SFT on either style, on the "
    "trained task and on a non-reasoning one.",
    data=("shifts.json",),
    command="python -m experiments.papers.shifts runs/papers_transfer OUT.json",
    differs="Bars of count times mean rank shift, no word clouds. Printed counts "
    "are of one response each (a puzzle: RL 15, SFT 390; a letter: RL 14, SFT 158), "
    "thousands of tokens long; ours are means over 128 greedy responses and 3 seeds. "
    "The prompts shown are the first where SFT on foreign traces shifts a token.",
)
ARMS = {
    "foreign_sft": ("SFT, foreign style", "sft"),
    "own_sft": ("SFT, own style", "sft_own"),
    "on_sft": ("on-policy SFT", "on_sft"),
    "grpo": ("GRPO", "grpo"),
}
TASKS = {
    "ch4": "ch4\n(trained)",
    "rep": "rep\n(non-reasoning)",
    "fact": "fact\n(closed-book)",
}
MOST = 8
CLAIM = "count"


def rows(stored: Stored) -> Rows:
    """A row for each token, count, token of a case and part of the claim."""
    tree = stored.json("shifts")
    found: Rows = []
    for task in TASKS:
        for arm in ARMS:
            cell = tree["cells"][f"{arm}/{task}"]
            head = {"arm": arm, "task": task}
            mean, low, high = cell["count"]
            row = head | {"kind": "count", "mean": mean, "low": low, "high": high}
            found.append(row)
            for token, count, shift in cell["tokens"][:MOST]:
                row = head | {"kind": "token", "token": _quoted(token)}
                found.append(row | {"mean": shift, "times": count})
    for kind, about in tree["cases"].items():
        for arm in ARMS:
            own = about["responses"][arm]
            head = {"arm": arm, "task": about["task"], "kind": "case", "says": kind}
            head |= {"prompt": _quoted(about["prompt"])}
            for token, shift in zip(own["tokens"], own["shift"], strict=True):
                found.append(head | {"token": _quoted(token), "mean": shift})
    claim = tree["claims"][CLAIM]
    for part, (mean, low, high, word) in claim["parts"].items():
        row = {"arm": part, "task": "", "kind": "part", "verdict": word}
        found.append(row | {"mean": mean, "low": low, "high": high})
    head = {"arm": CLAIM, "task": "", "kind": "claim", "says": claim["says"]}
    return [*found, head | {"verdict": claim["verdict"]}]


def _quoted(text: str) -> str:
    """In quotation marks, so that a digit stays text in a table."""
    return f"'{text}'"


def draw(found: Rows):
    """Bars for each arm and task; below, the two responses with the shifted tokens."""
    figure = new_figure(PAGE, 6.0)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.4, 2))
    above, below = parts
    grid = above.subplots(len(TASKS), len(ARMS), sharex="row")
    for line, (task, text) in zip(grid, TASKS.items(), strict=True):
        for axes, (arm, (name, as_look)) in zip(line, ARMS.items(), strict=True):
            own = [r for r in found if (r["arm"], r["task"]) == (arm, task)]
            _bars(axes, own, look_of(as_look))
            if task == next(iter(TASKS)):
                title(axes, name)
            if arm == next(iter(ARMS)):
                axes.set_ylabel(text)
    for axes in grid[-1]:
        axes.set_xlabel("count x mean shift")
    axes = below.subplots()
    axes.axis("off")
    axes.set_xlim(0, 34)
    _cases(axes, [row for row in found if row["kind"] == "case"])
    return figure


def _bars(axes, own: Rows, look) -> None:
    tokens = [row for row in own if row["kind"] == "token"]
    (count,) = [row["mean"] for row in own if row["kind"] == "count"]
    sizes = [row["mean"] * row["times"] for row in tokens]
    names = [row["token"].strip("'") for row in tokens]
    axes.barh(range(len(tokens)), sizes, 0.75, color=look.color)
    axes.set_yticks(range(len(tokens)), names)
    axes.set_ylim(MOST - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    place = {"xycoords": "axes fraction", "ha": "right", "fontsize": 7}
    axes.annotate(f"{count:.2f} a response", (0.99, 0.04), **place)


def _cases(axes, found: Rows) -> None:
    y = 0.0
    for kind in dict.fromkeys(row["says"] for row in found):
        own = [row for row in found if row["says"] == kind]
        prompt = own[0]["prompt"].strip("'")
        text = f"{kind}: {prompt}  (boxed: another rank under the base, with the shift)"
        axes.text(0, y, text, fontsize=7.5, va="center")
        for arm, (name, _) in ARMS.items():
            y += 1
            axes.text(0.3, y, name, fontsize=7, va="center", color=FAINT)
            _tokens(axes, y, [row for row in own if row["arm"] == arm])
        y += 1.4
    axes.set_ylim(y - 0.4, -0.8)


def _tokens(axes, y: float, own: Rows) -> None:
    x = 6.5
    for row in own:
        shift = row["mean"]
        text = row["token"].strip("'")
        text = text if not shift else f"{text} {shift:+.0f}"
        box = {"boxstyle": "square,pad=0.15", "fc": "#f6d5a8", "ec": "black", "lw": 0.5}
        style = {"fontsize": 7, "va": "center", "family": "monospace"}
        axes.text(x, y, text, bbox=box if shift else None, **style)
        x += 0.5 * len(text) + 0.55


def verdict(found: Rows) -> str:
    """The claim with its verdict and its parts."""
    (claim,) = [row for row in found if row["kind"] == "claim"]
    parts = [
        f"{row['arm']} {row['mean']:.3g} [{row['low']:.2g}, {row['high']:.2g}]"
        for row in found
        if row["kind"] == "part"
    ]
    return f"{claim['verdict']}: {'; '.join(parts)}"


if __name__ == "__main__":
    main(__file__)
