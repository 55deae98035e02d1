"""What shaping and leaving out the clip add to mixing: printed, and at our size."""

from typing import Any

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, rest, title

from unipost.analysis.statistics import verdict as decided

ABOUT = About(
    title="LUFFY's ablation",
    paper="2504.14945",
    item="Table 4",
    claim="Mixing demonstrations into the group, then shaping, then no clip on own "
    "samples: each adds to the one before.",
    data=("published/luffy.json", "luffy_hard.json"),
    command="unipost run experiments/luffy_hard.yaml",
    differs="Left 7B on mathematics, gain over on-policy RL on the average of six "
    "sets. Right 187k parameters on prompts that the base never solves (3 seeds, 456 "
    "items), where on-policy RL has no reward at all and stays at 0.",
)
ARMS = {
    "mixed": ("mixed policy", "mixed policy"),
    "shaping": ("mixed, shaping", "+ shaping"),
    "luffy": ("mixed, shaping, no clip", "+ no clip (LUFFY)"),
}
STEPS = {
    "shaping against none": "shaping",
    "no clip on own samples against a clip": "luffy",
}


def rows(stored: Stored) -> Rows:
    """A row for each arm: printed gain over on-policy RL, ours, and the added step."""
    table = stored.published("luffy", "ablation")["rows"]
    summary = stored.summary("luffy_hard")
    arms = {arm.name: arm for arm in summary.arms}
    added = {STEPS[d.label]: d.target for d in summary.differences if d.label in STEPS}
    found = []
    for name, (printed, text) in ARMS.items():
        gain = arms[name].gain
        row: dict[str, Any] = {"arm": name, "title": text}
        row["printed"] = table[printed][-1] - table["on-policy"][-1]
        row |= {"gain": gain.mean, "low": gain.low, "high": gain.high}
        step = added.get(name)
        for key in ("mean", "low", "high"):
            row[f"added_{key}"] = None if step is None else getattr(step, key)
        found.append(row)
    return found


def draw(found: Rows):
    """Printed gains left, ours with intervals right."""
    figure = new_figure(PAGE, 1.9)
    left, right = figure.subplots(1, 2, sharey=True)
    for y, row in enumerate(found):
        look = look_of(row["arm"])
        published(left, [row["printed"]], [y], "")
        right.plot([row["low"], row["high"]], [y, y], color=look.color, lw=1.5)
        right.plot(row["gain"], y, look.marker, color=look.color, ms=6)
        place = (row["high"], y)
        text = f"{row['gain']:+.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        style = {"textcoords": "offset points", "fontsize": 7, "va": "center"}
        right.annotate(text, place, (6, 0), **style)
        left.annotate(f"{row['printed']:+.1f}", (row["printed"], y), (7, 0), **style)
    for axes, text in ((left, "printed, Qwen2.5-Math-7B"), (right, "ours, 187k")):
        rest(axes, way="v")
        title(axes, text)
        axes.set_xlabel("gain over on-policy RL, points")
        axes.set_ylim(len(found) - 0.5, -0.5)
    left.set_xlim(-2, 7)
    right.set_xlim(-2, 42)
    left.set_yticks(range(len(found)), [row["title"] for row in found])
    left.tick_params(axis="y", length=0)
    return figure


def verdict(found: Rows) -> str:
    """Each added step, by its interval at our size."""
    first = found[0]
    steps = [("mixing", first["gain"], first["low"], first["high"])]
    for row in found[1:]:
        values = (row[f"added_{key}"] for key in ("mean", "low", "high"))
        steps.append((row["title"].removeprefix("+ "), *values))
    words = [
        f"{name} {mean:+.1f} [{low:.1f}, {high:.1f}] {decided(low, high)}"
        for name, mean, low, high in steps
    ]
    verdicts = {decided(low, high) for _, _, low, high in steps}
    whole = next(
        word
        for word in ("not supported", "inconclusive", "supported")
        if word in verdicts
    )
    return f"{whole} as a whole: {'; '.join(words)}"


if __name__ == "__main__":
    main(__file__)
