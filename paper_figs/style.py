"""How the figures of papers are drawn: the style of unipost, and marks used by many.

Widths, fonts and looks are those of `unipost.figure_style`; a published value is a
hollow black diamond everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unipost.figure_style import (
    BAND,
    COLUMN,
    DIVERGENCES,
    FAINT,
    METHODS,
    PAGE,
    Look,
    look_of,
    looks_for,
    new_figure,
)

__all__ = [
    "BAND",
    "COLUMN",
    "DIVERGENCES",
    "FAINT",
    "HATCHES",
    "METHODS",
    "PAGE",
    "PUBLISHED",
    "Look",
    "bars",
    "error",
    "legend_below",
    "look_of",
    "looks_for",
    "new_figure",
    "published",
    "rest",
    "title",
]

PUBLISHED: Mapping[str, Any] = {
    "marker": "D",
    "color": "black",
    "mfc": "none",
    "mec": "black",
    "mew": 0.9,
    "ms": 4.2,
    "ls": "none",
    "zorder": 5,
}
HATCHES = dict(
    zip(
        "os^vDPX*<>phd8Hx",
        ["", "////", "....", "\\\\\\\\", "xxxx", "++++", "----", "**", "||||"]
        + ["oo", "//", "..", "xx", "||", "--", "/o"],
        strict=True,
    )
)
"""The fill of a bar by the marker of its look, for a print in grey."""


def published(axes, x, y, label: str = "published", **change) -> None:
    """What a paper has printed, as hollow black diamonds."""
    axes.plot(x, y, **{**PUBLISHED, "label": label, **change})


def bars(
    axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    looks: Mapping[str, Look],
    labels: Mapping[str, str] | None = None,
    values: str = "",
) -> None:
    """Groups of bars, one of every series in each, hatched for a print in grey.

    `values` is the format of the number above a bar; "" writes none.
    """
    wide = 0.8 / len(series)
    for i, (name, heights) in enumerate(series.items()):
        places = [g + (i - (len(series) - 1) / 2) * wide for g in range(len(groups))]
        known = [h == h for h in heights]
        shown = axes.bar(
            [x for x, ok in zip(places, known, strict=True) if ok],
            [h for h, ok in zip(heights, known, strict=True) if ok],
            wide * 0.92,
            color=looks[name].color,
            hatch=HATCHES[looks[name].marker],
            edgecolor="white",
            lw=0.4,
            label=(labels or {}).get(name, name),
        )
        if values:
            axes.bar_label(shown, fmt=values, padding=1.5, fontsize=7)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)


def error(axes, x, triple: Sequence[float], look: Look, **change) -> None:
    """A mean with its interval, triple = (mean, low, high), as a marker with a bar."""
    mean, low, high = triple
    style = {"color": look.color, "marker": look.marker, "ms": 4.5, "lw": 1.1}
    axes.errorbar(
        [x], [mean], [[mean - low], [high - mean]], **{**style, "ls": "none", **change}
    )


def rest(axes, value: float = 0.0, text: str = "", way: str = "h") -> None:
    """The line of nothing: no change, or the base."""
    draw = axes.axhline if way == "h" else axes.axvline
    draw(value, color=FAINT, lw=0.7, zorder=0.5)
    if text and way == "h":
        place = (1.0, value)
        axes.annotate(
            text,
            place,
            (-1, 1.5),
            ("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=FAINT,
        )


def title(axes, text: str) -> None:
    """A panel's title, at its left."""
    axes.set_title(text, loc="left")


def legend_below(figure, axes, columns: int = 3) -> None:
    """One legend under the panels, of what the given axes show."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
