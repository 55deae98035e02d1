"""Outcome and process reward models, votes and pass@N against what they cost."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, Look, new_figure, published, title

ABOUT = About(
    title="Test-time compute: reward models of outcomes and of steps, votes",
    paper="2305.20050",
    item="best of 1860; the o1 report's axis",
    claim="A reward model of steps chooses better than one of outcomes and than a "
    "vote; accuracy grows linearly in the logarithm of the samples.",
    data=("published/prm.json", "test_time.json"),
    command="unipost run experiments/papers/test_time.yaml",
    differs="Printed: GPT-4's samples on MATH, N = 1860. Ours: chains of five digits, "
    "a policy of 0.15M parameters with two misconceptions, reward models of its size "
    "on the same solutions, labels exact; one policy. FLOPs are 2 per parameter and "
    "token, of policy and reward model.",
)
LOOKS = {
    "pass@n": ("pass@N", Look("#8a8a8a", "X", ":")),
    "weighted vote, prm": ("vote weighted by steps", Look("#88ccee", "v", "--")),
    "best of n, prm": ("steps, product", Look("#332288", "o", "-")),
    "best of n, prm_min": ("steps, min", Look("#aa4499", "D", "-")),
    "best of n, prm_last": ("steps, last", Look("#999933", "<", "-")),
    "majority": ("majority", Look("#117733", "^", "-.")),
    "weighted vote, orm": ("vote weighted by outcome", Look("#ddaa33", "P", "--")),
    "best of n, orm": ("outcome", Look("#cc3311", "s", "-")),
    "best of n, likelihood": ("likelihood", Look("#444444", "*", ":")),
}
PRINTED = {
    "process reward": "steps, product",
    "outcome reward": "outcome",
    "majority": "majority",
}


def rows(stored: Stored) -> Rows:
    """Printed accuracies; ours at every N with tokens and FLOPs; then the claims."""
    table = stored.published("prm", "best_of_1860")["rows"]
    found: Rows = [
        {"panel": "printed", "arm": PRINTED[name], "N": 1860, "mean": value}
        for name, (value,) in table.items()
    ]
    results = stored.results("test_time")
    sample = suite.sampled(results)
    (task,) = results["tasks"]
    for rule, (name, _) in LOOKS.items():
        points = results["arms"][rule]["runs"][0]["curve"]
        for point in points:
            at = point["step"]
            cost = {
                key: float(sample.mean(rule, key, at)[0])
                for key in ("generated", "flops")
            }
            row = {"panel": "ours", "arm": name, "N": at} | cost
            found.append(row | suite.triple(sample, rule, task, at))
    return found + suite.claim_rows(results)


def draw(found: Rows):
    """Printed values; our curves against N, and against FLOPs, on log axes."""
    figure = new_figure(PAGE, 3.3)
    printed, samples, cost = figure.subplots(1, 3, width_ratios=(2, 4, 4))
    own = [row for row in found if row["panel"] == "printed"]
    published(printed, [row["mean"] for row in own], range(len(own)), "", ms=6)
    printed.set_yticks(range(len(own)), [row["arm"] for row in own])
    printed.set_ylim(len(own) - 0.5, -0.5)
    printed.set_xlim(65, 82)
    printed.tick_params(axis="y", length=0)
    printed.set_xlabel("accuracy, %")
    title(printed, "printed, N = 1860")
    for name, look in LOOKS.values():
        line = [r for r in found if r["panel"] == "ours" and r["arm"] == name]
        for axes, key in ((samples, "N"), (cost, "flops")):
            x = [row[key] for row in line]
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            y = [row["mean"] for row in line]
            axes.plot(x, y, label=name, ms=3.5, lw=1.2, **style)
            if name != "likelihood":
                ends = ([row[end] for row in line] for end in ("low", "high"))
                axes.fill_between(x, *ends, color=look.color, alpha=0.08, lw=0)
    samples.set_xscale("log", base=2)
    samples.xaxis.set_major_formatter("{x:g}")
    cost.set_xscale("log")
    title(samples, "ours")
    title(cost, "ours, by cost")
    samples.set_xlabel("N, responses per question")
    cost.set_xlabel("forward FLOPs per question")
    samples.set_ylabel("accuracy, %")
    handles, labels = samples.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
