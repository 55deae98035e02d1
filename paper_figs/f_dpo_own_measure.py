"""Reward of f-DPO against its distance, in every divergence's own measure."""

from claims import claim_rows, told
from drawing import About, main
from f_dpo_arms import ARMS
from stored import Rows, Stored
from style import PAGE, new_figure, title

ABOUT = About(
    title="f-DPO: reward against distance, in each divergence",
    paper="2309.16240",
    item="Reward-divergence frontier",
    claim="At equal beta training in a KL stays nearer to the base in that KL than "
    "training in the other.",
    data=("f_dpo_measures.json",),
    command="python -m experiments.papers.f_dpo_measures --runs runs/f_dpo",
    differs="The paper's frontiers (IMDB, against PPO) were not to be had. Accuracy "
    "of samples for reward, GSM8K equations, 187k parameters; three beta to a line, "
    "D_f of whole responses from samples of policy and base; the ring marks the arm "
    "that is trained in the panel's own divergence.",
)
MEASURES = {
    "reverse_kl": ("reverse_kl", "KL(policy‖base)"),
    "jensen_shannon": ("jensen_shannon", "Jensen-Shannon"),
    "alpha_0.3": ("alpha_3", "alpha 0.3"),
    "alpha_0.5": ("alpha_5", "alpha 0.5"),
    "alpha_0.7": ("alpha_7", "alpha 0.7"),
    "forward_kl": ("forward_kl", "KL(base‖policy)"),
}


def rows(stored: Stored) -> Rows:
    """Accuracy and the six distances of every arm, then the claims."""
    tree, found = stored.json("f_dpo_measures"), []
    for row in tree["table"]:
        name = row["what"].removeprefix("divergence/")
        if name in MEASURES or name == "right":
            arm, _, beta = row["arm"].partition("@")
            found.append({**row, "what": name, "arm": arm, "at": float(beta)})
    claims = claim_rows(tree)
    shown = ("own_forward", "own_reverse", "clamp")
    return found + [row for row in claims if row["arm"] in shown]


def draw(found: Rows):
    """A panel for each divergence as a measure, a line for each arm over its beta."""
    figure = new_figure(PAGE, 4.2)
    panels = figure.subplots(2, 3, sharey=True)
    for axes, (measure, (trained, text)) in zip(
        panels.flat, MEASURES.items(), strict=True
    ):
        for arm, (name, look) in ARMS.items():
            x, y = (_means(found, what, arm) for what in (measure, "right"))
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            axes.plot(x, y, label=name, **style)
            if arm == trained:
                axes.plot(x, y, "o", ms=9, mfc="none", mec="#444444", mew=0.8)
        axes.set_xlim(left=0)
        title(axes, text)
    for axes in panels[1]:
        axes.set_xlabel("distance")
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure


def _means(found: Rows, what: str, arm: str) -> list[float]:
    """By beta."""
    own = [r for r in found if (r["what"], r["arm"]) == (what, arm)]
    return [r["mean"] for r in sorted(own, key=lambda r: r["at"])]


def verdict(found: Rows) -> str:
    """The claims of the script, as stored."""
    return told(found)


if __name__ == "__main__":
    main(__file__)
