"""Calibration and diversity of f-DPO by divergence and beta."""

from claims import claim_rows, told
from drawing import About, main
from f_dpo_arms import ARMS
from stored import Rows, Stored
from style import PAGE, new_figure, title

ABOUT = About(
    title="f-DPO: calibration and diversity",
    paper="2309.16240",
    item="Calibration error; table of diversity",
    claim="At equal beta forward KL is better calibrated and more diverse than reverse "
    "KL.",
    data=("f_dpo_measures.json",),
    command="python -m experiments.papers.f_dpo_measures --runs runs/f_dpo",
    differs="Confidence and correctness as in the paper's released code, beta 0.1, 0.3 "
    "and 1 (there 0.1, 0.3, 0.9); its tables were not to be had. GSM8K equations, 187k "
    "parameters, three seeds; reliability over all beta.",
)
WHATS = ("ece", "different", "self_bleu", "distinct_2", "entropy")


def rows(stored: Stored) -> Rows:
    """Numbers by arm and beta, the bins of reliability, then the claims."""
    tree = stored.json("f_dpo_measures")
    found = []
    for row in tree["table"]:
        if row["what"] in WHATS:
            arm, _, beta = row["arm"].partition("@")
            found.append({**row, "arm": arm, "at": float(beta)})
    for row in tree["bins"]:
        about = {"arm": row["arm"], "what": "bin", "at": row["low"]}
        own = {"mean": row["ranked"], "confidence": row["confidence"]}
        found.append(about | own | {"count": row["count"]})
    claims = claim_rows(tree)
    shown = ("calibration", "different", "self_bleu")
    return found + [row for row in claims if row["arm"] in shown]


def draw(found: Rows):
    """Reliability, then ECE and two diversities against beta."""
    figure = new_figure(PAGE, 4.4)
    panels = figure.subplots(2, 2)
    reliable = panels[0, 0]
    reliable.plot([0, 1], [0, 1], color="#999999", lw=0.8, zorder=0.5)
    for arm, (name, look) in ARMS.items():
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        own = [r for r in found if (r["what"], r["arm"]) == ("bin", arm)]
        own = [r for r in own if r["count"] >= 20]
        x, y = [r["confidence"] for r in own], [r["mean"] for r in own]
        reliable.plot(x, y, label=name, **style)
    reliable.set_xlabel("confidence in the chosen one")
    title(reliable, "share of pairs ranked right")
    texts = {"ece": "ECE", "different": "different of 64", "self_bleu": "self-BLEU"}
    for axes, (what, text) in zip(panels.flat[1:], texts.items(), strict=True):
        _against_beta(axes, found, what)
        title(axes, text)
    handles, labels = reliable.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure


def _against_beta(axes, found: Rows, what: str) -> None:
    for i, (arm, (_, look)) in enumerate(ARMS.items()):
        own = [r for r in found if (r["what"], r["arm"]) == (what, arm)]
        # side by side, so that the intervals can be told apart
        x = [r["at"] * 1.06 ** (i - 2.5) for r in own]
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        for at, row in zip(x, own, strict=True):
            axes.plot([at, at], [row["low"], row["high"]], color=look.color, lw=0.9)
        axes.plot(x, [r["mean"] for r in own], **style)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.3, 1.0], ["0.1", "0.3", "1"])
    axes.minorticks_off()
    axes.set_xlabel("beta")


def verdict(found: Rows) -> str:
    """The claims of the script, as stored."""
    return told(found)


if __name__ == "__main__":
    main(__file__)
