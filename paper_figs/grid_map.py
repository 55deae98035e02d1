"""Every divergence, anchor and link on one task: learned against forgotten."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import DIVERGENCES, PAGE, new_figure, rest, title

ABOUT = About(
    title="Every divergence, anchor and link",
    paper="",
    item="grid, published nowhere",
    claim="Anchored at the base forgets less than anchored at nothing or at the last "
    "step, and costs accuracy against the last step.",
    data=("grid.json",),
    command="unipost run experiments/papers/grid.yaml",
    differs="Pairs of right and wrong solutions of GSM8K equations, 187k parameters, "
    "beta 0.3 for all: it is not matched over divergences. Refused and so not in the "
    "map: Pearson and total variation (finite f'(0+)), and all but the KL without an "
    "anchor.",
)
ANCHORS = {"reference": "the base", "old": "the last step", "none": "nothing"}
LINKS = {"logistic": "o", "hinge": "s", "squared": "^"}


def rows(stored: Stored) -> Rows:
    """A row for each arm: gain and retention with intervals; then the claims."""
    results = stored.results("grid")
    sample = suite.sampled(results)
    found = []
    for arm in results["arms"]:
        anchor, _, values = arm.partition("@")
        divergence, link = values.split(",")
        row = {"panel": "map", "arm": arm, "anchor": anchor, "link": link}
        row["divergence"] = divergence
        for what in ("gain", "retention"):
            for key, value in suite.triple(sample, arm, what, "final").items():
                row[f"{what}_{key}"] = value
        found.append(row)
    return found + suite.claim_rows(results)


def draw(found: Rows):
    """A panel for each anchor; colour is the divergence, marker the link."""
    figure = new_figure(PAGE, 2.9)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    own = [row for row in found if row["panel"] == "map"]
    for axes, (anchor, text) in zip(panels, ANCHORS.items(), strict=True):
        for row in own:
            if row["anchor"] != anchor:
                continue
            color = DIVERGENCES[row["divergence"]].color
            x, y = row["gain_mean"], row["retention_mean"]
            ends = [row["gain_low"], row["gain_high"]]
            axes.plot(ends, [y, y], color=color, lw=0.7)
            ends = [row["retention_low"], row["retention_high"]]
            axes.plot([x, x], ends, color=color, lw=0.7)
            axes.plot(x, y, LINKS[row["link"]], color=color, ms=5.5)
        rest(axes)
        title(axes, f"anchored at {text}")
        axes.set_xlabel("gain, points")
    panels[0].set_ylabel("retention, points")
    for name in dict.fromkeys(row["divergence"] for row in own):
        text = name.replace("_", " ").replace("chi2", "chi²")
        panels[0].plot([], [], "-", lw=4, color=DIVERGENCES[name].color, label=text)
    for link, mark in LINKS.items():
        panels[0].plot([], [], mark, color="#333333", label=link)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
