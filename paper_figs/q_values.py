"""Implicit rewards of responses and of their steps against what is right."""

from claims import claim_rows, told
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, Look, look_of, new_figure, rest, title

ABOUT = About(
    title="Logits as Q-functions, implicit rewards of steps",
    paper="2507.00018",
    item="Logits as Q-functions; implicit reward of SFT and DPO",
    claim="Sums over Q and V of the logits are log pi to 1e-5 nats; the implicit "
    "reward of a response and of a step correlates with its being right, after SFT "
    "and after DPO.",
    data=("q_values.json",),
    command="python -m experiments.papers.q_values",
    differs="The paper's text was not to be had, so no number is drawn beside ours. "
    "Chains of four and five numbers, 154k parameters, three seeds. `beyond base` "
    "leaves out what log p of the base tells already: that correlates more than any "
    "reward.",
)
ARMS = {
    "base": ("log p of the base", look_of("base")),
    "sft": ("SFT", look_of("sft")),
    "dpo": ("DPO", look_of("dpo")),
    "sft_dpo": ("DPO after SFT", Look("#56b4e9", "D", "-.")),
}
UNITS = {"response": "whole response", "step": "one step"}
HOWS = {"pooled": "all", "in_prompt": "in prompt", "given_base": "beyond base"}


def rows(stored: Stored) -> Rows:
    """Correlations of both tasks, the cumulated ones, then the claims."""
    tree, found = stored.json("q_values"), []
    for row in tree["correlations"]:
        ends = {key: row[key] for key in ("mean", "low", "high")}
        about = {"task": row["task"], "arm": row["arm"], "what": row["unit"]}
        found.append(about | {"at": row["how"]} | ends)
    for task, arms in tree["cumulated"].items():
        for arm, steps in arms.items():
            for row in steps:
                ends = {key: row[key] for key in ("mean", "low", "high")}
                about = {"task": task, "arm": arm, "what": "cumulated"}
                found.append(about | {"at": row["step"]} | ends)
    return found + claim_rows(tree)


def draw(found: Rows):
    """Two panels of correlations on ch4, then the cumulated rewards of ch5."""
    figure = new_figure(PAGE, 2.6)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (unit, text) in zip(panels, UNITS.items(), strict=False):
        for i, (arm, (name, look)) in enumerate(ARMS.items()):
            for j, how in enumerate(HOWS):
                key = ("ch4", arm, unit, how)
                own = [r for r in found if _key(r) == key]
                _dot(axes, j + (i - 1.5) * 0.17, own, look, name if j == 0 else None)
        axes.set_xticks(range(len(HOWS)), list(HOWS.values()))
        axes.tick_params(axis="x", length=0)
        title(axes, f"{text}, four numbers")
        rest(axes)
    for arm, (_, look) in ARMS.items():
        own = [r for r in found if (r["what"], r["arm"]) == ("cumulated", arm)]
        own = [r for r in own if r["task"] == "ch5"]
        x = [r["at"] for r in own]
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        ends = [[r[key] for r in own] for key in ("low", "high")]
        panels[2].fill_between(x, *ends, color=look.color, alpha=0.12, lw=0)
        panels[2].plot(x, [r["mean"] for r in own], **style)
    rest(panels[2])
    panels[2].set_xticks(range(1, 5))
    panels[2].set_xlabel("steps cumulated")
    title(panels[2], "up to a step, five numbers")
    panels[0].set_ylabel("correlation with right")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _key(row) -> tuple:
    return row.get("task"), row["arm"], row["what"], row["at"]


def _dot(axes, x: float, own: Rows, look: Look, label: str | None) -> None:
    for row in own:
        axes.plot([x, x], [row["low"], row["high"]], color=look.color, lw=1.1)
        axes.plot(x, row["mean"], look.marker, color=look.color, ms=4.5, label=label)


def verdict(found: Rows) -> str:
    """The claims of the script, as stored."""
    return told(found)


if __name__ == "__main__":
    main(__file__)
