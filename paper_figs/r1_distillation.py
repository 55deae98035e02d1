"""Distillation against RL on a small model: printed for 32B, and at our size."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, title

from unipost.analysis.statistics import verdict as decided

ABOUT = About(
    title="Distillation against RL on a small student",
    paper="2501.12948",
    item="Table 6",
    claim="A student learns more from the right responses of a larger RL-trained model "
    "than from RL of its own.",
    data=("published/r1.json", "distillation.json"),
    command="unipost run experiments/distillation.yaml",
    differs="Printed: 32B, 800 thousand curated traces of a 671B teacher. Ours: a "
    "student of 75k parameters, a teacher of 187k after GRPO, as many samples for "
    "either, 1355 equations, 5 seeds.",
)
ARMS = {
    "direct": "RL on the student",
    "distilled": "distilled",
    "distilled_rl": "distilled, then RL",
}


def rows(stored: Stored) -> Rows:
    """Printed accuracies by benchmark, our accuracies by stage, our difference."""
    table = stored.published("r1", "distil_or_rl")
    found = [
        {"where": "printed", "arm": arm, "task": task, "mean": value}
        for arm in ("RL on the model", "distilled")
        for task, value in zip(table["columns"], table["rows"][arm], strict=True)
    ]
    results = stored.json("distillation")
    for arm in ("teacher", "student", *ARMS):
        mean, low, high = results["stages"][arm]["scores"]["equations/sampled"]
        row = {"where": "ours", "arm": arm, "task": "equations"}
        found.append(row | {"mean": 100 * mean, "low": 100 * low, "high": 100 * high})
    for entry in results["comparisons"]:
        if (entry["first"], entry["second"]) == ("distilled", "direct"):
            mean, low, high = (100 * x for x in entry["difference"])
            row = {"where": "ours, difference", "arm": "distilled minus direct"}
            found.append(row | {"mean": mean, "low": low, "high": high})
    return found


def draw(found: Rows):
    """The printed pairs by benchmark; our stages with intervals."""
    figure = new_figure(PAGE, 2.5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    printed = [row for row in found if row["where"] == "printed"]
    tasks = list(dict.fromkeys(row["task"] for row in printed))
    looks = {"RL on the model": look_of("direct"), "distilled": look_of("distilled")}
    for shift, (arm, look) in zip((-0.12, 0.12), looks.items(), strict=True):
        values = [row["mean"] for row in printed if row["arm"] == arm]
        places = [i + shift for i in range(len(tasks))]
        left.vlines(places, 0, values, color=look.color, lw=5, alpha=0.5, label=arm)
        published(left, places, values, "printed" if shift > 0 else "")
    left.set_xticks(range(len(tasks)), [t.replace(" ", "\n") for t in tasks])
    left.set_ylabel("accuracy, %")
    left.set_ylim(0, 105)
    title(left, "printed, Qwen-32B")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)
    ours = [row for row in found if row["where"] == "ours"]
    marks = {"teacher": "grpo_kl", "student": "base", **{arm: arm for arm in ARMS}}
    for y, row in enumerate(ours):
        look = look_of(marks[row["arm"]])
        right.plot([row["low"], row["high"]], [y, y], color=look.color, lw=1.5)
        right.plot(row["mean"], y, look.marker, color=look.color, ms=6)
    names = [ARMS.get(row["arm"], f"{row['arm']}, before") for row in ours]
    names[0] = "teacher"
    right.set_yticks(range(len(ours)), names)
    right.tick_params(axis="y", length=0)
    right.set_ylim(len(ours) - 0.5, -0.5)
    right.set_xlabel("accuracy of samples, %")
    title(right, "ours, student of 75k")
    return figure


def verdict(found: Rows) -> str:
    """The paired difference of the two at our size."""
    row = next(row for row in found if row["where"] == "ours, difference")
    word = decided(row["low"], row["high"])
    ends = f"[{row['low']:.1f}, {row['high']:.1f}]"
    return f"{word}: distilled minus RL {row['mean']:+.1f} {ends} points"


if __name__ == "__main__":
    main(__file__)
