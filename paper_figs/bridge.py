"""Learning rate of SFT, before and after the same DPO."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, rest, title

ABOUT = About(
    title="The rate of SFT, before and after DPO",
    paper="2507.00018",
    item="Learning-rate result",
    claim="The rate of SFT that is best after DPO is smaller than the one best after "
    "SFT alone.",
    data=("bridge.json",),
    command="unipost run experiments/papers/bridge.yaml",
    differs="The paper measures win rates of 7B and 8B chat models (up to 25% "
    "relative, in its abstract); its tables were not to be had. GSM8K equations, 187k "
    "parameters. f-SFT of the same study is drawn in the figure of f-SFT.",
)
RATES = ("3e-5", "1e-4", "3e-4", "1e-3", "3e-3")
STAGES = {"sft@": ("sft", "after SFT"), "dpo_": ("dpo", "after SFT, then DPO")}
PANELS = {
    "equations/sampled": ("unseen equations", "accuracy, %"),
    "retention": ("other skills", "retention, points"),
    "kl_reverse": ("KL(policy‖base)", "nats"),
}


def rows(stored: Stored) -> Rows:
    """A row for each panel, stage and rate with its interval; then the claims."""
    results = stored.results("bridge")
    sample = suite.sampled(results)
    found: Rows = [
        {"panel": what, "arm": stage, "rate": rate}
        | suite.triple(sample, stage + rate, what, "final")
        for what in PANELS
        for stage in STAGES
        for rate in RATES
    ]
    base = suite.triple(sample, "base", "equations/sampled", "base")
    found.append({"panel": "equations/sampled", "arm": "base", "rate": ""} | base)
    return found + suite.claim_rows(results)


def draw(found: Rows):
    """Three panels against the rate; the dashed line is the base."""
    figure = new_figure(PAGE, 2.6)
    for axes, (what, (head, text)) in zip(
        figure.subplots(1, 3), PANELS.items(), strict=True
    ):
        for stage, (method, label) in STAGES.items():
            own = [r for r in found if r["panel"] == what and r["arm"] == stage]
            x, look = [float(row["rate"]) for row in own], look_of(method)
            ends = [[row[key] for row in own] for key in ("low", "high")]
            axes.fill_between(x, *ends, color=look.color, alpha=0.15, lw=0)
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            axes.plot(x, [row["mean"] for row in own], label=label, **style)
        if what == "equations/sampled":
            base = next(row["mean"] for row in found if row["arm"] == "base")
            axes.axhline(base, color="#777777", ls="--", lw=0.8, label="base")
        elif what == "retention":
            rest(axes)
        title(axes, head)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate of SFT")
        axes.set_ylabel(text)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
