"""Bias and spread of each estimator of the KL, as a value and as a gradient."""

import statistics

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, Look, new_figure, title

ABOUT = About(
    title="Estimators of the KL: value and gradient",
    paper="2510.01555",
    item="k1, k2, k3 and where they stand",
    claim="k1 and k3 are unbiased as values and k2 is not; as a loss k2 and k1 in the "
    "reward have the gradient of the KL, k1 none and k3 that of the other KL.",
    data=("estimators.json",),
    command="python experiments/papers/estimators.py",
    differs="Exact, by enumeration of 40 random problems at each distance; lines are "
    "medians, bands the range over problems. Biases below 1e-9 are rounding and drawn "
    "there.",
)
LOOKS = {
    "k1": Look("#444444", "o", ":"),
    "k2": Look("#d55e00", "s", "-"),
    "k3": Look("#08519c", "^", "--"),
    "importance_k3": Look("#56b4e9", "v", "-."),
    "in_reward": Look("#117733", "D", "-"),
    "in_reward_baseline": Look("#999933", "P", ":"),
}
PANELS = {
    "value_bias": "|bias| of the value, of D",
    "value_spread": "spread of the value, of D",
    "gradient_bias": "|bias| of the gradient",
    "gradient_spread": "spread of the gradient",
}
FLOOR = 1e-9


def rows(stored: Stored) -> Rows:
    """A row for each estimator of the KL, distance and number; then the claims."""
    tree = stored.json("estimators")
    found = []
    for row in tree["rows"]:
        if row["divergence"] != "reverse_kl":
            continue
        for key in PANELS:
            values = [abs(v) for v in row.get(key) or () if v is not None and v == v]
            if values:
                each = {"estimator": row["estimator"], "distance": row["distance"]}
                each |= {"what": key, "median": statistics.median(values)}
                found.append(each | {"low": min(values), "high": max(values)})
    for name, claim in tree["claims"].items():
        row = {"estimator": name, "what": "claim", "verdict": claim["verdict"]}
        found.append(row)
    return found


def draw(found: Rows):
    """Four panels against the distance of the policy, both axes logarithmic."""
    figure = new_figure(PAGE, 4.2)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (key, text) in zip(panels.flat, PANELS.items(), strict=True):
        for name, look in LOOKS.items():
            own = [r for r in found if (r["what"], r["estimator"]) == (key, name)]
            own.sort(key=lambda r: r["distance"])
            if not own:
                continue
            x = [r["distance"] for r in own]
            low, mid, high = (
                [max(r[k], FLOOR) for r in own] for k in ("low", "median", "high")
            )
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            axes.fill_between(x, low, high, color=look.color, alpha=0.1, lw=0)
            axes.plot(x, mid, label=name.replace("_", " "), **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        if "spread" in key:
            axes.set_ylim(0.1, 1e6)
        title(axes, text)
    for axes in panels[1]:
        axes.set_xlabel("KL(policy‖reference), nats")
    handles, labels = panels[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure


def verdict(found: Rows) -> str:
    """The bounds of the experiment, each over all problems."""
    claims = {r["estimator"]: r["verdict"] for r in found if r["what"] == "claim"}
    counts = [*claims.values()]
    words = ("supported", "not supported", "inconclusive")
    head = ", ".join(f"{counts.count(w)} {w}" for w in words if w in counts)
    return "; ".join([head, *(f"{name}: {word}" for name, word in claims.items())])


if __name__ == "__main__":
    main(__file__)
