"""The figures of a study, from its `Summary`.

    accuracy      gain of every arm over the base
    forgetting    what the other skills lost against the KL to the base
    coefficient   weight on grad log pi against the probability of the token

An arm has one look in all of them, its method's where it is known; the one that must
fail is grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unipost.figure_style import (
    BAND,
    FAINT,
    PAGE,
    RC,
    Look,
    looks_for,
    new_figure,
    save,
)
from unipost.tables import NUMBERS, numbers_of, provenance, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from unipost.report import Arm, Results, Summary

_INTERVAL = "95% intervals over seeds and items, for this one base"
_FEWEST = 10  # tokens below which a bin's mean coefficient is not drawn


def _looks(summary: Summary) -> dict[str, Look]:
    """Each arm's look: its method's, or by its place in the study's file.

    So no result changes them.
    """
    arms = summary.results["arms"]
    return looks_for(arms, [name for name in arms if arms[name]["expected"] == "fail"])


def make_figures(
    study: Results | Summary, folder: str | Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Draw accuracy, forgetting and coefficient into `folder`; return the files.

    From results or from their summary, if that is at hand. A figure for which the
    study has no numbers is left out. `formats` as matplotlib names them: png (150
    dpi), pdf. Every file appears whole or not at all.
    """
    from matplotlib import rc_context

    from unipost.report import Summary, summarise

    summary = study if isinstance(study, Summary) else summarise(study)
    folder, files = Path(folder), []
    with rc_context(RC):
        for name, draw in FIGURES.items():
            figure = draw(summary)
            if figure is not None:
                files += save(figure, folder / name, formats)
    return files


def _figure(summary: Summary, title: str, note: str, height: float) -> Figure:
    figure = new_figure(PAGE, height)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, weight="bold")
    figure.supxlabel(
        f"{note}\n{provenance(summary)}", x=0.01, ha="left", fontsize=7, color=FAINT
    )
    return figure


def accuracy_figure(summary: Summary) -> Figure:
    """Accuracy of each arm by the rule's metric, base as a line; sorted by gain."""
    rule, looks = summary.results["rule"], _looks(summary)
    arms = summary.arms[::-1]
    title = f"Accuracy on {summary.results['tasks'][rule['task']]['title']}"
    note = f"Bars: {_INTERVAL}. Filled: improves over the base by the rule."
    figure = _figure(summary, title, note, 1.7 + 0.3 * len(arms))
    axes = figure.add_subplot()
    axes.axvspan(summary.base.low, summary.base.high, color=BAND, lw=0)
    axes.axvline(summary.base.mean, color=FAINT, lw=1)
    place, above = (summary.base.mean, 1.0), ("data", "axes fraction")
    axes.annotate("base", place, (0, 2), above, "offset points", ha="center")
    for y, arm in enumerate(arms):
        color, marker, _ = looks[arm.name]
        face = color if arm.verdict == "supported" else "white"
        axes.plot(arm.target[1:], (y, y), color=color, lw=2, solid_capstyle="butt")
        axes.plot(arm.target.mean, y, marker, color=color, mfc=face, ms=7)
        gain = show(arm.gain, "+")
        axes.annotate(gain, (1.02, y), xycoords=("axes fraction", "data"), va="center")
    axes.set_yticks(range(len(arms)), [arm.title for arm in arms])
    axes.set_ylim(-0.6, len(arms) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{rule['metric']} accuracy, %")
    axes.annotate("gain, points", (1.02, 1.0), (0, 2), "axes fraction", "offset points")
    return figure


def forgetting_figure(summary: Summary) -> Figure | None:
    """Mean change of the retention tasks against either KL; None without both."""
    panels = []
    for key in ("kl_reverse", "kl_forward"):
        arms = [
            a for a in summary.arms if a.retention and None not in numbers_of(a, key)
        ]
        panels += [(key, arms)] if arms else []
    if not panels:
        return None
    title = "Change of the other skills against the KL to the base"
    note = f"Faint: seeds. Vertical bars: {_INTERVAL}; horizontal: range over seeds."
    figure = _figure(summary, title, note, 1.4 + 2.8 * len(panels))
    grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    figure.supylabel("retention: change in greedy accuracy, points", fontsize=7.5)
    looks = _looks(summary)
    for axes, (key, arms) in zip(grid, panels, strict=True):
        axes.axhline(0, color=FAINT, lw=1)
        for arm in arms:
            _forgetting_point(axes, arm, key, looks[arm.name])
        axes.margins(x=0.15, y=0.1)
        _log_if_wide(axes, [value for arm in arms for value in numbers_of(arm, key)])
        axes.set_xlabel(f"{NUMBERS[key][0]}, nats per response")
    for axes, (key, arms) in zip(grid, panels, strict=True):
        _label_points(figure, axes, arms, key, looks)
    return figure


def _log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator

    if 0 < 10 * min(values) < max(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()


def _mean(arm: Arm, key: str) -> float:
    values = numbers_of(arm, key)
    return sum(values) / len(values)


def _ends(arm: Arm, key: str) -> tuple[float, float]:
    values = numbers_of(arm, key)
    return min(values), max(values)


def _forgetting_point(axes: Axes, arm: Arm, key: str, look: Look) -> None:
    """Seeds, faint, and their mean: KL with its range, retention with its interval."""
    x, ends = _mean(arm, key), _ends(arm, key)
    y, low, high = arm.retention or (math.nan,) * 3
    color, marker, _ = look
    seeds = numbers_of(arm, key), numbers_of(arm, "retention")
    axes.plot(*seeds, marker, color=color, ms=3.5, alpha=0.4)
    axes.plot((x, x), (low, high), color=color, lw=1, alpha=0.6)
    axes.plot(ends, (y, y), color=color, lw=1, alpha=0.6)
    axes.plot(x, y, marker, color=color, ms=7, mec="white", mew=0.5)


def _label_points(figure: Figure, axes: Axes, arms, key: str, looks) -> None:
    """Write each title near its point, where it covers no title, point nor bar."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # the layout, hence where points are in pixels
    pixel, place = figure.dpi / 72, axes.transData.transform
    taken = []
    for arm in arms:
        x, y, (left, right) = _mean(arm, key), arm.retention, _ends(arm, key)
        tall = Bbox([place((x, y.low)), place((x, y.high))])
        wide = Bbox([place((left, y.mean)), place((right, y.mean))])
        dot = Bbox([place((x, y.mean))] * 2).padded(5)
        taken += [tall.padded(2), wide.padded(2), dot]
    for arm in sorted(arms, key=lambda arm: -arm.retention.mean):
        line = {"arrowstyle": "-", "color": looks[arm.name][0], "lw": 0.8}
        point = _mean(arm, key), arm.retention.mean
        note = axes.annotate(arm.title, point, (0, 0), "data", "offset points", line)
        note.set(in_layout=False, va="center", fontsize=7)
        box = note.get_window_extent()
        tried = []
        for dx, dy in _offsets(box.width / pixel):
            moved = box.translated(dx * pixel, dy * pixel)
            cost = sum(_overlap(moved, other) for other in taken)
            cost += moved.width * moved.height - _overlap(moved, axes.bbox)
            tried.append((round(cost), len(tried), (dx, dy), moved))
        _, _, offset, box = min(tried)
        note.set_position(offset)
        taken.append(box)


def _offsets(width: float):
    """Places for the left end of a text of this width, in points, nearest first."""
    for radius in (7, 12, 18, 26, 36, 48, 62):
        for turn in (0, 4, 1, 7, 3, 5, 2, 6):
            dx, dy = math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)
            yield radius * dx - width * (1 - round(dx, 1)) / 2, radius * dy


def _overlap(a, b) -> float:
    """Area that two boxes share, in pixels."""
    wide = min(a.x1, b.x1) - max(a.x0, b.x0)
    return max(wide, 0.0) * max(min(a.y1, b.y1) - max(a.y0, b.y0), 0.0)


def coefficient_figure(summary: Summary) -> Figure | None:
    """Mean weight on grad log pi by token probability, all seeds; None without any."""
    arms = summary.results["arms"]
    curves = {a.name: _curve(a.name, arms[a.name]["runs"]) for a in summary.arms}
    curves = {name: curve for name, curve in curves.items() if len(curve[0])}
    if not curves:
        return None
    looks = _looks(summary)
    title = "Gradient coefficient by token probability"
    note = f"Mean over the tokens of all seeds; bins of at least {_FEWEST} tokens."
    figure = _figure(summary, title, note, 4.0)
    axes = figure.add_subplot()
    axes.axhline(0, color=FAINT, lw=1)
    for name, (p, value) in sorted(curves.items(), key=lambda item: -item[1][1][-1]):
        color, marker, line = looks[name]
        title = arms[name]["title"]
        axes.plot(p, value, marker + line, color=color, ms=4, lw=1.5, label=title)
    _log_if_wide(axes, np.concatenate([p for p, _ in curves.values()]).tolist())
    sizes = [float(abs(value).max()) for _, value in curves.values()]
    small = min((size for size in sizes if size > 0), default=1.0)
    if max(sizes) > 30 * small:
        small = max(small, 1e-3 * max(sizes))
        axes.set_yscale("symlog", linthresh=small)
        axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.08)
    axes.set_xlabel("probability of the token under the policy")
    least = min(value.min() for _, value in curves.values())
    axes.set_ylabel(f"mean {'size of the ' * bool(least >= 0)}gradient coefficient")
    figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    return figure


def _curve(name: str, runs: Sequence[Mapping[str, Any]]):
    """(bin centres, mean coefficient) over the tokens of all seeds."""
    found = [run["coefficient"] for run in runs if run.get("coefficient")]
    if not found:
        return np.zeros(0), np.zeros(0)
    if any(each["probability"] != found[0]["probability"] for each in found):
        raise ValueError(f"arms.{name}: coefficient.probability differs between seeds")
    value = np.array([each["value"] for each in found], float)
    count = np.where(np.isnan(value), 0.0, [each["count"] for each in found])
    total, weighed = count.sum(0), (count * np.nan_to_num(value)).sum(0)
    kept = total >= _FEWEST
    return np.array(found[0]["probability"])[kept], weighed[kept] / total[kept]


FIGURES = {
    "accuracy": accuracy_figure,
    "forgetting": forgetting_figure,
    "coefficient": coefficient_figure,
}
