"""Best of N by reward models, votes and pass@N: printed, and at our size."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, Look, new_figure, published, title

ABOUT = About(
    title="Accuracy against test-time compute",
    paper="2305.20050",
    item="best-of-1860; a public reimplementation's best-of-n-results.csv",
    claim="A reward model chooses better than a majority vote, and gains on it as N "
    "grows.",
    data=("published/prm.json", "best_of.json"),
    command="unipost best-of experiments/base experiments/best_of.yaml",
    differs="Diamonds: the paper at N = 1860 (GPT-4's samples, MATH). Grey: Llama-2 "
    "reward models on GPT-4's samples, where the vote wins. Ours: an outcome reward "
    "model of 187k parameters that learned what answers look like, 500 equations, 64 "
    "samples. There is no process reward model of ours in it.",
)
LOOKS = {
    "best of n, likelihood": Look("#332288", "o", "-"),
    "best of n, reward_model": Look("#cc3311", "s", "--"),
    "majority": Look("#117733", "^", "-."),
    "weighted vote, likelihood": Look("#88ccee", "v", ":"),
    "weighted vote, reward_model": Look("#ddaa33", "P", ":"),
    "pass@n": Look("#8a8a8a", "X", ":"),
}
PRINTED = {
    "process reward": Look("#332288", "o", "-"),
    "outcome reward": Look("#cc3311", "s", "--"),
    "majority": Look("#117733", "^", "-."),
}


def rows(stored: Stored) -> Rows:
    """A row for each curve and N: share right in percent, with our intervals."""
    found = []
    for name, (value,) in stored.published("prm", "best_of_1860")["rows"].items():
        found.append({"where": "printed", "rule": name, "N": 1860, "accuracy": value})
    table = stored.published("prm", "llama")
    for name, values in table["rows"].items():
        for size, value in zip(table["columns"], values, strict=True):
            row = {"where": "Llama-2", "rule": name, "N": int(size)}
            found.append(row | {"accuracy": 100 * value})
    for point in _points(stored):
        value = point["exact"] if point["exact"] is not None else point["mean"]
        row = {"where": "ours", "rule": point["rule"], "N": int(point["samples"])}
        ends = {key: 100 * point[key] for key in ("low", "high")}
        found.append(row | {"accuracy": 100 * value} | ends)
    return found


def _points(stored: Stored) -> Rows:
    """The points of a curve: the stored ones, or curve.csv of a run."""
    if stored.run is None:
        return stored.json("best_of")["points"]
    names = ("samples", "mean", "exact", "low", "high")
    return [
        row | {name: float(row[name]) if row[name] else None for name in names}
        for row in stored.csv("curve")
    ]


def draw(found: Rows):
    """Printed curves left, ours right, N on a log axis."""
    figure = new_figure(PAGE, 3.2)
    left, right = figure.subplots(1, 2)
    for row in found:
        if row["where"] == "printed":
            published(left, [row["N"]], [row["accuracy"]], "", ms=6)
            place = (row["N"], row["accuracy"])
            style = {"textcoords": "offset points", "fontsize": 7, "ha": "right"}
            left.annotate(
                f"{row['rule']} {row['accuracy']:.1f}", place, (-6, -2), **style
            )
    for rule in ("process reward", "majority"):
        own = [r for r in found if (r["where"], r["rule"]) == ("Llama-2", rule)]
        look = PRINTED[rule]
        x, y = [r["N"] for r in own], [r["accuracy"] for r in own]
        left.plot(x, y, look.line, color="#8a8a8a", lw=1)
        published(left, x, y, "")
        place = (x[-1], y[-1])
        style = {"textcoords": "offset points", "fontsize": 7, "color": "#666666"}
        left.annotate(f"{rule} (Llama-2)", place, (6, -2), **style)
    left.set_xscale("log")
    left.set_xlim(1.5, 4000)
    left.set_ylim(44, 82)
    title(left, "printed")
    rules = dict.fromkeys(r["rule"] for r in found if r["where"] == "ours")
    for rule, look in zip(rules, LOOKS.values(), strict=False):
        look = LOOKS.get(rule, look)
        own = [r for r in found if (r["where"], r["rule"]) == ("ours", rule)]
        x = [r["N"] for r in own]
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        right.plot(
            x, [r["accuracy"] for r in own], label=rule.replace("_", " "), **style
        )
        ends = ([r[key] for r in own] for key in ("low", "high"))
        right.fill_between(x, *ends, color=look.color, alpha=0.1, lw=0)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:g}")
    title(right, "ours")
    for axes in (left, right):
        axes.set_xlabel("N, responses per question")
        axes.set_ylabel("accuracy, %")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def verdict(found: Rows) -> str:
    """At our largest N: the reward model's best of N against the majority vote."""
    ours = [row for row in found if row["where"] == "ours"]
    most = max(row["N"] for row in ours)
    last = {row["rule"]: row for row in ours if row["N"] == most}
    vote = next(row for rule, row in last.items() if rule.startswith("majority"))
    model = [r for rule, r in last.items() if "best" in rule and "reward" in rule]
    if not model:
        return "inconclusive: no reward model in this run"
    apart = model[0]["low"] > vote["high"] or model[0]["high"] < vote["low"]
    above = model[0]["accuracy"] > vote["accuracy"]
    word = ("supported" if above else "not supported") if apart else "inconclusive"
    return (
        f"{word} at our size: best of {most} {model[0]['accuracy']:.1f}%, majority "
        f"{vote['accuracy']:.1f}%"
    )


if __name__ == "__main__":
    main(__file__)
