"""LUFFY over training: entropy, gradient weights, and pass@8 against temperature."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, title
from suite import Figure

ABOUT = About(
    title="LUFFY: entropy, gradient weights, pass@8 by temperature",
    paper="2504.14945",
    item="Figs 2, 6, 9 and 12",
    claim="Shaping keeps the entropy up; LUFFY is above GRPO in pass@8 at every "
    "temperature, and above SFT at high ones.",
    data=("hard_split.json",),
    command="unipost run experiments/papers/hard_split.yaml",
    differs="The paper's are curves without a table: pass@8 on AIME24 and AMC at "
    "temperatures 0.1 to 1.0 between 62.5 and 80. Ours: problems that the base "
    "never solves, 0.15M parameters, 3 seeds; one update per batch, so no clip acts on "
    "own samples (luffy_ablation has that row). SFT sees eight times as many "
    "demonstrations a step. Rare: p <= 0.1.",
)
ARMS = ("grpo", "mixed", "luffy", "sft")
FIGURE = Figure(study="hard_split", arms=ARMS, panels=())
LINES = {
    "entropy": "entropy, nats a token",
    "rev/sampled": "accuracy of samples, %",
    "rare_tokens": "rare among demonstrated, %",
}
WEIGHTS = {"plain_weight": ("no shaping", ":"), "shaped_weight": ("shaped", "-")}
TASKS = {0.3: "rev_03", 0.6: "rev_06", 1.0: "rev", 1.5: "rev_15"}
HEAT = {heat: f"{task}/pass@8" for heat, task in TASKS.items()}


def rows(stored: Stored) -> Rows:
    """A row for each arm, number and step; for each temperature; for each claim."""
    results = stored.results(FIGURE.study)
    sample = suite.sampled(results)
    found: Rows = []
    for arm in ARMS:
        about = results["arms"][arm]
        head = {"panel": 0, "arm": arm, "title": about["title"]}
        for what in (*LINES, *WEIGHTS):
            for when in sample.steps(arm):
                at = "base" if when == 0 else (when or "final")
                step = about["steps"] if when is None else when
                row = head | {"what": what, "at": step}
                found.append(row | suite.triple(sample, arm, what, at))
        for heat, what in HEAT.items():
            row = head | {"panel": 1, "what": what, "at": heat}
            found.append(row | suite.triple(sample, arm, what, "final"))
    return found + suite.claim_rows(results)


def draw(found: Rows):
    """Three numbers over training, the weights, and pass@8 against temperature."""
    figure = new_figure(PAGE, 4.2)
    panels = figure.subplots(2, 3).flat
    for axes, (what, text) in zip(panels, LINES.items(), strict=False):
        for arm in ARMS:
            _line(axes, [r for r in found if (r["arm"], r["what"]) == (arm, what)], arm)
        title(axes, text)
        axes.set_xlabel("steps")
    _, _, _, weights, heat, blank = figure.axes
    for what, (_, line) in WEIGHTS.items():
        for arm in ("mixed", "luffy"):
            own = [r for r in found if (r["arm"], r["what"]) == (arm, what)]
            _line(weights, own, arm, line)
    title(weights, "weight of a demonstrated token")
    weights.set_xlabel("steps (solid: shaped, dotted: plain)")
    for arm in ARMS:
        own = [r for r in found if (r["arm"], r["panel"]) == (arm, 1)]
        _line(heat, own, arm)
    title(heat, "pass@8 after all steps, %")
    heat.set_xlabel("temperature")
    blank.set_visible(False)
    legend_below(figure, figure.axes[0], 4)
    return figure


def _line(axes, own: Rows, arm: str, line: str = "") -> None:
    look, x = look_of(arm), [row["at"] for row in own]
    ends = [[row[key] for row in own] for key in ("low", "high")]
    axes.fill_between(x, *ends, color=look.color, alpha=0.12, lw=0)
    style = {"color": look.color, "ls": line or look.line, "marker": look.marker}
    axes.plot(x, [row["mean"] for row in own], label=own[0]["title"], **style)


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
