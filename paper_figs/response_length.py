"""Length of responses over training: RL against SFT on own accepted samples."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, title

from unipost.analysis.statistics import bootstrap_mean, paired_difference
from unipost.analysis.statistics import verdict as decided

ABOUT = About(
    title="Length of responses over training",
    paper="2507.00432",
    item="Fig. 14",
    claim="Under a mean over the tokens of a response SFT on own accepted samples ends "
    "with shorter answers than GRPO, by more than under a constant normaliser.",
    data=("transfer.json", "accepted_only.json"),
    command="unipost run experiments/papers/transfer.yaml, and accepted_only.yaml",
    differs="Greedy responses to the trained task's test problems. The claim is ours, "
    "written after the runs, whose files hint at it: exploratory. The paper shows "
    "curves of one run each. A mean over tokens weighs those of a short response more.",
)
STUDIES = {
    "transfer": "mean over a response's tokens",
    "accepted_only": "divided by a constant",
}
ARMS = {
    "grpo": ("GRPO", "grpo"),
    "on_sft": ("on-policy SFT", "on_sft"),
    "rft": ("RFT from the base", "rft"),
}
WHAT = "ch4/length"


def rows(stored: Stored) -> Rows:
    """A row for each study, arm and step; for each gap of GRPO over on-policy SFT."""
    found: Rows = []
    for study in STUDIES:
        results = Stored().results(study)
        sample = suite.sampled(results)
        for arm in ARMS:
            name = arm if study == "accepted_only" else f"{arm}@3e-4"
            for when in sample.steps(name):
                at = "base" if when == 0 else (when or "final")
                step = when if isinstance(when, int) else results["arms"][name]["steps"]
                row = {"kind": "length", "study": study, "arm": arm, "step": step}
                found.append(row | suite.triple(sample, name, WHAT, at))
    gaps = {study: _gaps(Stored().results(study), study) for study in STUDIES}
    for study, values in gaps.items():
        row = {"kind": "gap", "study": study, "arm": "grpo - on_sft"}
        found.append(row | _named(bootstrap_mean(values)))
    both = paired_difference(gaps["transfer"], gaps["accepted_only"])
    row = {"kind": "claim", "study": "difference", "arm": "grpo - on_sft"}
    return [*found, row | _named(both)]


def _named(interval) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), map(float, interval), strict=True))


def _gaps(results, study: str) -> list[float]:
    """Final length of GRPO minus that of on-policy SFT, by seed."""
    end = "" if study == "accepted_only" else "@3e-4"
    lengths = [
        [run["tasks"]["ch4"]["length"] for run in results["arms"][arm + end]["runs"]]
        for arm in ("grpo", "on_sft")
    ]
    return [a - b for a, b in zip(*lengths, strict=True)]


def draw(found: Rows):
    """A panel for each normaliser."""
    figure = new_figure(PAGE, 2.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (study, text) in zip(panels, STUDIES.items(), strict=True):
        for arm, (name, as_look) in ARMS.items():
            own = [r for r in found if (r["study"], r["arm"]) == (study, arm)]
            look, x = look_of(as_look), [row["step"] for row in own]
            ends = [[row[key] for row in own] for key in ("low", "high")]
            axes.fill_between(x, *ends, color=look.color, alpha=0.12, lw=0)
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            axes.plot(x, [row["mean"] for row in own], label=name, **style)
        title(axes, text)
        axes.set_xlabel("steps")
    panels[0].set_ylabel("tokens of a response")
    legend_below(figure, panels[0])
    return figure


def verdict(found: Rows) -> str:
    """The claim: both gaps, and their difference."""
    gap, other, both = found[-3:]
    words = [decided(row["low"], row["high"]) for row in (gap, both)]
    order = ("not supported", "inconclusive", "supported")
    whole = next(word for word in order if word in words)
    told = [f"{r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in found[-3:]]
    return f"{whole}: GRPO longer by {told[0]} tokens, with a constant by {told[1]}"


if __name__ == "__main__":
    main(__file__)
