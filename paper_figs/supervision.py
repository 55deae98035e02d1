"""Outcome and process supervision, and a reference that moves with the policy."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, title

ABOUT = About(
    title="Outcome and process supervision, iterative GRPO",
    paper="2402.03300",
    item="Figs 5 and 6",
    claim="Rewards of steps teach more than rewards of outcomes; moving the reference "
    "to the policy teaches more than keeping it; accuracy grows linearly in the "
    "logarithm of the steps.",
    data=("supervision.json",),
    command="unipost run experiments/papers/supervision.yaml",
    differs="The paper prints curves alone: 7B, a learned reward model, mathematics. "
    "Ours: exact rewards, arith-transfer, 0.15M parameters with two misconceptions, "
    "one base; intervals over seeds and items. The reward model is not trained again "
    "between iterations, since it is exact.",
)
LOOKS = {
    "outcome": look_of("grpo"),
    "process": look_of("grpo_process"),
    "long": look_of("sft"),
    "iterated": look_of("luffy"),
}
PANELS = (("outcome", "process"), ("long", "iterated"))


def rows(stored: Stored) -> Rows:
    """Accuracy at every point of the curves; then the claims.

    The second iteration is placed behind the first: its step 0 is the end of that.
    """
    results = stored.results("supervision")
    sample = suite.sampled(results)
    found: Rows = [_row(sample, results, "start", 0, "final")]
    for arm in LOOKS:
        last = results["arms"][arm]["steps"]
        before = results["arms"]["outcome"]["steps"] if arm == "iterated" else 0
        for step in sample.steps(arm)[1:]:
            at = last if step is None else step
            found.append(_row(sample, results, arm, before + at, step or "final"))
    return found + suite.claim_rows(results)


def _row(sample, results, arm: str, at: int, when) -> dict:
    head = {"panel": "curve", "arm": arm, "title": results["arms"][arm]["title"]}
    return head | {"at": at} | suite.triple(sample, arm, "ch5/sampled", when)


def draw(found: Rows):
    """What is supervised, and which reference, on one log axis of steps."""
    figure = new_figure(PAGE, 2.9)
    panels = figure.subplots(1, 2, sharey=True)
    start = next(row for row in found if row["arm"] == "start")
    for axes, arms in zip(panels, PANELS, strict=True):
        axes.axhline(start["mean"], color="#8a8a8a", lw=0.8, ls=":", label="start")
        for arm in arms:
            line = [row for row in found if row["arm"] == arm]
            if arm == "iterated":
                ends = [row for row in found if row["arm"] == "outcome"]
                line = [max(ends, key=lambda row: row["at"]), *line]
            look, x = LOOKS[arm], [row["at"] for row in line]
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            y, name = [row["mean"] for row in line], line[-1]["title"]
            axes.plot(x, y, label=name, ms=4, lw=1.3, **style)
            ends = ([row[end] for row in line] for end in ("low", "high"))
            axes.fill_between(x, *ends, color=look.color, alpha=0.12, lw=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("steps of GRPO (log scale)")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.1))
    panels[0].set_ylabel("accuracy of samples, %")
    title(panels[0], "what is rewarded")
    title(panels[1], "which reference")
    return figure


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
