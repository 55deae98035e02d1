"""Weights left bit-unchanged by GRPO and SFT, in float32 and in bfloat16."""

import numpy as np
from claims import claim_rows, told
from drawing import About, main
from stored import DRAWS, Rows, Stored
from style import FAINT, PAGE, look_of, new_figure, rest, title

from unipost.analysis.statistics import bootstrap_mean

ABOUT = About(
    title="Sparse updates and the format of the weights",
    paper="2509.04259",
    item="Section 6: sparse updates of RL",
    claim="With a small learning rate most weights are left bit-unchanged in bfloat16, "
    "by GRPO and by SFT, and nearly none in float32; the accuracy of GRPO is the same "
    "within two points.",
    data=("bf16_weights.json",),
    command="python -m experiments.papers.bf16_weights",
    differs="The paper says that float32 performs the same without sparsity; rates and "
    "thresholds are ours. A model of 0.15M parameters, weights rounded after every "
    "step of AdamW, gradients, moments and products in float32; 80 steps of 128 "
    "responses on chains of four numbers, three seeds.",
)
FORMATS = {"float32": ("-", "full"), "bfloat16": ("--", "none")}
METHODS = {"grpo": "GRPO", "sft": "SFT"}
MARGIN = 2.0


def _percent(tree, own, what: str) -> np.ndarray:
    """[seeds] of a share of weights, [seeds, items] of accuracy."""
    if what == "accuracy":
        return 100 * np.asarray(own["correct"], float) / tree["samples"]
    return np.asarray(own[what], float)


def _row(arm: str, rate: float, what: str, table: np.ndarray) -> dict:
    mean, low, high = bootstrap_mean(table, DRAWS)
    row = {"arm": arm, "at": rate, "what": what}
    return row | {"mean": mean, "low": low, "high": high}


def rows(stored: Stored) -> Rows:
    """Shares and accuracy of every arm, what bfloat16 changes of it, the claims."""
    tree = stored.json("bf16_weights")
    runs, found = tree["runs"], []
    for name, own in runs.items():
        arm, rate = name.partition("@")[0], own["rate"]
        for what in ("unchanged", "copied", "accuracy"):
            if what == "accuracy" or what in own:
                found.append(_row(arm, rate, what, _percent(tree, own, what)))
        method, _, form = arm.partition("/")
        if form == "float32":
            trained = runs[name.replace(form, "bfloat16")]["correct"]
            for what, right in (("difference", trained), ("copy", own["copy_correct"])):
                gap = np.subtract(right, own["correct"]) * 100 / tree["samples"]
                found.append(_row(method, rate, what, gap))
    return found + claim_rows(tree)


def _lines(axes, found: Rows, what: str, shift: float = 1.0, forms=FORMATS) -> None:
    """`what` of every method and format against the rate, with intervals."""
    places = {("grpo", "float32"): -1.5, ("grpo", "bfloat16"): -0.5}
    places |= {("sft", "float32"): 0.5, ("sft", "bfloat16"): 1.5}
    for method, name in METHODS.items():
        look = look_of(method)
        for form in forms:
            line, fill = FORMATS[form]
            own = [r for r in found if r["what"] == what]
            own = [r for r in own if r["arm"] == f"{method}/{form}"]
            x = [r["at"] * shift ** places[method, form] for r in own]
            y = [r["mean"] for r in own]
            ends = [[r["mean"] - r["low"] for r in own]]
            ends.append([r["high"] - r["mean"] for r in own])
            style = {"color": look.color, "marker": look.marker, "ls": line, "ms": 5}
            label = f"{name}, {form}"
            axes.errorbar(x, y, ends, fillstyle=fill, label=label, **style)


def _differences(axes, found: Rows) -> None:
    axes.axhspan(-MARGIN, MARGIN, color="#eeeeee", zorder=0)
    rest(axes)
    kinds = {"copy": (0.9, "full", "trained in float32, then rounded")}
    kinds["difference"] = (1.11, "none", "trained in bfloat16")
    for what, (side, fill, label) in kinds.items():
        style = {"ls": "none", "ms": 5, "fillstyle": fill}
        axes.plot([], [], "o", color=FAINT, label=label, **style)
        for shift, method in zip((0.97, 1.03), METHODS, strict=True):
            own = [r for r in found if (r["what"], r["arm"]) == (what, method)]
            look = look_of(method)
            x, y = [r["at"] * side * shift for r in own], [r["mean"] for r in own]
            ends = [[r["mean"] - r["low"] for r in own]]
            ends.append([r["high"] - r["mean"] for r in own])
            mark = {"color": look.color, "marker": look.marker}
            axes.errorbar(x, y, ends, **mark, **style)
    axes.set_ylim(-14, 9)
    axes.legend(loc="upper left")


def draw(found: Rows):
    """Weights unchanged, as they are and in a bfloat16 copy, then accuracies."""
    figure = new_figure(PAGE, 4.6)
    (same, copied), (accuracy, gap) = figure.subplots(2, 2)
    _lines(same, found, "unchanged")
    title(same, "weights bit-unchanged")
    _lines(copied, found, "copied")
    title(copied, "the same, both compared in bfloat16")
    _lines(accuracy, found, "accuracy", 1.06)
    base = next(r["mean"] for r in found if r["arm"] == "base")
    accuracy.axhline(base, color=FAINT, ls=":", lw=1, label="base")
    title(accuracy, "accuracy")
    _differences(gap, found)
    title(gap, "accuracy − that in float32")
    for axes in (same, copied, accuracy):
        axes.set_ylabel("%")
    for axes in (same, copied):
        axes.set_ylim(-4, 104)
    gap.set_ylabel("points")
    for axes in (same, copied, accuracy, gap):
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def verdict(found: Rows) -> str:
    """The claims of the script, as stored."""
    return told(found)


if __name__ == "__main__":
    main(__file__)
