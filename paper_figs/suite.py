"""Figures of studies with claims: panels declared in a few lines, drawn from results.

The panels of a figure are Dots (a number of every arm), Lines (it against steps),
Points (two numbers against each other) and Printed (what the paper prints for these
arms). Every number is a mean over runs with a 95% interval over seeds and items.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.ticker import MaxNLocator
from stored import DRAWS, Rows, Stored
from style import PAGE, Look, looks_for, new_figure, published, rest, title


@dataclass(frozen=True)
class Dots:
    """`what` of every arm, at one time: final, matched or a step."""

    what: str
    text: str
    at: Any = "final"
    unit: str = "points"


@dataclass(frozen=True)
class Lines:
    """`what` against the steps of the curve."""

    what: str
    text: str
    unit: str = "%"


@dataclass(frozen=True)
class Points:
    """One number against another, a point for every arm."""

    x: str
    y: str
    text: str
    at: Any = "final"
    units: tuple[str, str] = ("nats", "points")


@dataclass(frozen=True)
class Printed:
    """Printed values of a table: {arm of ours: row of the table}, one column."""

    file: str
    table: str
    column: str
    arms: Mapping[str, str]
    text: str
    unit: str = "%"
    minus: str = ""


@dataclass(frozen=True)
class PassAt:
    """pass@k of a task against k, after all steps."""

    task: str
    ks: Sequence[int]
    text: str
    unit: str = "%"


Panel = Dots | Lines | Points | Printed | PassAt


@dataclass(frozen=True)
class Figure:
    """A study's figure: panels, arms in order (empty: all), and what it claims.

    claims  names of the study's claims that it shows; empty: all
    """

    study: str
    panels: Sequence[Panel]
    arms: Sequence[str] = ()
    claims: Sequence[str] = ()
    columns: int = 3
    height: float = 2.4
    looks: Mapping[str, Look] = field(default_factory=dict)


def sampled(results: Mapping[str, Any]):
    """The results' `unipost.studies.sample.Sample`, made once."""
    return _sample(_Key(results))


@functools.lru_cache
def _sample(key: Any):
    from unipost.studies.sample import Sample

    return Sample(key.value, DRAWS)


class _Key:
    """Results as a key of the cache, by identity."""

    def __init__(self, value):
        self.value = value

    def __hash__(self):
        return id(self.value)

    def __eq__(self, other):
        return isinstance(other, _Key) and self.value is other.value


def rows(figure: Figure, stored: Stored) -> Rows:
    """The numbers of all panels, then one row for each claim with its verdict."""
    results = stored.results(figure.study)
    sample = sampled(results)
    arms = figure.arms or tuple(
        dict.fromkeys(a.partition("@")[0] for a in results["arms"])
    )
    found: Rows = []
    for number, panel in enumerate(figure.panels):
        for arm in arms:
            found += _measured(number, panel, arm, results, sample, stored)
    return found + claim_rows(results, figure.claims)


def _measured(number: int, panel: Panel, arm: str, results, sample, stored) -> Rows:
    head = {"panel": number, "arm": arm, "title": _title(results, arm)}
    if isinstance(panel, Printed):
        if arm not in panel.arms:
            return []
        table = stored.published(panel.file, panel.table)
        place = table["columns"].index(panel.column)
        value = table["rows"][panel.arms[arm]][place]
        value -= table["rows"][panel.minus][place] if panel.minus else 0
        return [head | {"what": panel.column, "at": "printed", "mean": value}]
    if isinstance(panel, Lines):
        steps = sample.steps(sample.frame.members(arm)[0])
        last = results["arms"][sample.frame.members(arm)[0]]["steps"]
        at = [("base", 0) if s == 0 else (s or "final", s or last) for s in steps]
        return [
            head
            | {"what": panel.what, "at": step}
            | triple(sample, arm, panel.what, when)
            for when, step in at
        ]
    if isinstance(panel, PassAt):
        named = [(k, f"{panel.task}/pass@{k}") for k in panel.ks]
        return [
            head | {"what": what, "at": k} | triple(sample, arm, what, "final")
            for k, what in named
        ]
    if isinstance(panel, Points):
        return [
            head | {"what": what, "at": panel.at} | triple(sample, arm, what, panel.at)
            for what in (panel.x, panel.y)
        ]
    at = panel.at
    return [head | {"what": panel.what, "at": at} | triple(sample, arm, panel.what, at)]


def _title(results: Mapping[str, Any], arm: str) -> str:
    if arm == "base":
        return "base"
    about = results["arms"].get(arm)
    if about is None:
        member = next(a for a in results["arms"] if a.partition("@")[0] == arm)
        return results["arms"][member]["title"].rpartition(",")[0] or arm
    return about["title"]


def triple(sample, arm: str, what: str, at: Any) -> dict[str, Any]:
    """{mean, low, high} of a number of an arm; at "base" the base's."""
    from unipost.analysis.statistics import percentiles

    name, when = ("base", "final") if at == "base" else (arm, at)
    draws = sample.mean(name, what, when)
    low, high = percentiles(draws[1:])
    return {"mean": float(draws[0]), "low": float(low), "high": float(high)}


def claim_rows(results: Mapping[str, Any], chosen: Sequence[str] = ()) -> Rows:
    """A row for each claim: verdict, its weakest effect, what is printed.

    The verdict stored with the results; of results without one it is decided here.
    """
    claims = results.get("claims") or {}
    found = {name: about.get("found") for name, about in claims.items()}
    if None in found.values():
        found = _decided(_Key(results))
    out = []
    for name, about in claims.items():
        if chosen and name not in chosen:
            continue
        label, mean, low, high, *_ = found[name]["effects"][0]
        row = {"panel": "claim", "arm": name, "title": about["says"], "what": label}
        row |= {"at": found[name]["verdict"], "mean": mean, "low": low, "high": high}
        out.append(row | {"printed": about.get("published", "")})
    return out


@functools.lru_cache
def _decided(key: _Key):
    from unipost.studies.verdicts import found_of

    return found_of(key.value)


def draw(figure: Figure, found: Rows):
    """The panels side by side; dots share their rows of arms."""
    count = len(figure.panels)
    columns = min(figure.columns, count)
    lines = -(-count // columns)
    made = new_figure(PAGE, figure.height * lines + 0.25)
    grid = made.subplots(lines, columns, squeeze=False)
    there = dict.fromkeys(r["arm"] for r in found if r["panel"] != "claim")
    arms = [arm for arm in figure.arms or there if arm in there]
    looks = {**looks_for(arms), **figure.looks}
    named = {r["arm"]: r["title"] for r in found if r["panel"] != "claim"}
    dots = []
    for number, (axes, panel) in enumerate(zip(grid.flat, figure.panels, strict=False)):
        own = [row for row in found if row["panel"] == number]
        title(axes, panel.text)
        if isinstance(panel, Dots | Printed):
            _dots(axes, panel, own, arms, looks)
            first = not dots or number % columns == 0
            axes.set_yticks(range(len(arms)), [named[a] if first else "" for a in arms])
            dots.append(axes)
        elif isinstance(panel, Lines | PassAt):
            _lines(axes, panel, own, looks)
        else:
            _points(axes, panel, own, looks)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    if not dots:
        handles, labels = grid.flat[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=4)
    return made


def _dots(axes, panel: Dots | Printed, own: Rows, arms: Sequence[str], looks) -> None:
    for row in own:
        y, look = arms.index(row["arm"]), looks[row["arm"]]
        if isinstance(panel, Printed):
            published(axes, [row["mean"]], [y], "", ms=5)
            continue
        if row["mean"] != row["mean"]:
            place = (0.02, y)
            where = ("axes fraction", "data")
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            style = {"xycoords": where, "fontsize": 7, "va": "center", "bbox": box}
            axes.annotate("never reached", place, **style)
            continue
        axes.plot([row["low"], row["high"]], [y, y], color=look.color, lw=1.5)
        axes.plot(row["mean"], y, look.marker, color=look.color, ms=5)
    low, high = axes.get_xlim()
    if low < 0 < high or panel.unit == "points":
        rest(axes, way="v")
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(panel.unit)


def _lines(axes, panel: Lines | PassAt, own: Rows, looks) -> None:
    for arm in dict.fromkeys(row["arm"] for row in own):
        line = [row for row in own if row["arm"] == arm and row["mean"] == row["mean"]]
        look, x = looks[arm], [row["at"] for row in line]
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        ends = [[row[key] for row in line] for key in ("low", "high")]
        axes.fill_between(x, *ends, color=look.color, alpha=0.12, lw=0)
        label = line[0]["title"] if line else arm
        axes.plot(x, [row["mean"] for row in line], label=label, **style)
    axes.set_xlabel("k" if isinstance(panel, PassAt) else "steps")
    if isinstance(panel, PassAt):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylabel(panel.unit)


def _points(axes, panel: Points, own: Rows, looks) -> None:
    for arm in dict.fromkeys(row["arm"] for row in own):
        x, y = [row for row in own if row["arm"] == arm]
        look = looks[arm]
        axes.plot([x["low"], x["high"]], [y["mean"]] * 2, color=look.color, lw=0.8)
        axes.plot([x["mean"]] * 2, [y["low"], y["high"]], color=look.color, lw=0.8)
        mark = {"color": look.color, "ms": 5.5, "ls": "none", "label": x["title"]}
        axes.plot(x["mean"], y["mean"], look.marker, **mark)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(panel.units[0])
    axes.set_ylabel(panel.units[1])


def verdict(found: Rows) -> str:
    """Every claim of the study with its verdict and its weakest effect."""
    claims = [row for row in found if row["panel"] == "claim"]
    counts = [row["at"] for row in claims]
    words = ("supported", "not supported", "inconclusive")
    head = ", ".join(f"{counts.count(w)} {w}" for w in words if w in counts)
    return "; ".join([head or "no claims", *(_told(row) for row in claims)])


def _told(row: Mapping[str, Any]) -> str:
    if row["mean"] is None or row["mean"] != row["mean"]:
        return f"{row['arm']}: {row['at']}"
    ends = ", ".join(
        "-" if x is None else f"{x:.3g}" for x in (row["low"], row["high"])
    )
    return f"{row['arm']}: {row['at']}, {row['mean']:.3g} [{ends}]"
