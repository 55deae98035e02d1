"""Figures of a study's arms: gain and retention of each, with the comparisons made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import suite
from stored import Rows, Stored
from style import PAGE, looks_for, new_figure, rest, title


def rows(stored: Stored, study: str) -> Rows:
    """A row for each arm (gain, retention, KL, verdict) and for each comparison."""
    summary = stored.summary(study)
    found = []
    for arm in summary.arms:
        kls = [row["kl_reverse"] or 0.0 for row in arm.rows]
        row: dict[str, Any] = {"arm": arm.name, "title": arm.title, "against": ""}
        row |= {"expected": arm.expected, "verdict": arm.verdict}
        row |= {"kl": sum(kls) / len(kls)}
        found.append(row | _triple("gain", arm.gain) | _triple("kept", arm.retention))
    for each in summary.differences[1:]:
        row = {"arm": each.first.name, "against": each.second.name}
        row |= {"title": f"{each.first.title} minus {each.second.title}"}
        gaps = _triple("gain", each.target) | _triple("kept", each.retention)
        found.append(row | gaps)
    return found


def judged_rows(stored: Stored, study: str) -> Rows:
    """The rows of `rows` in panel "arms", then one for each claim of the study."""
    found: Rows = [{"panel": "arms"} | row for row in rows(stored, study)]
    return found + suite.claim_rows(stored.results(study))


def _triple(name: str, interval: Sequence[float] | None) -> dict[str, Any]:
    values = interval or (None, None, None)
    return {
        f"{name}_{k}": v for k, v in zip(("mean", "low", "high"), values, strict=True)
    }


def draw(found: Rows, gain: str, kept: str):
    """Gain and retention of every arm, sorted by gain."""
    arms = [row for row in found if row.get("panel", "arms") == "arms"]
    own = [row for row in arms if not row["against"]]
    figure = new_figure(PAGE, 0.75 + 0.19 * len(own))
    panels = figure.subplots(1, 2, sharey=True)
    control = [row["arm"] for row in own if row["expected"] == "fail"]
    looks = looks_for(sorted(row["arm"] for row in own), control)
    for axes, key, text in zip(panels, ("gain", "kept"), (gain, kept), strict=True):
        for y, row in enumerate(own):
            look = looks[row["arm"]]
            ends = [row[f"{key}_low"], row[f"{key}_high"]]
            axes.plot(ends, [y, y], color=look.color, lw=1.5)
            axes.plot(row[f"{key}_mean"], y, look.marker, color=look.color, ms=6)
        rest(axes, way="v")
        title(axes, text)
        axes.set_xlabel("points over the base")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(own)), [row["title"] for row in own])
    panels[0].set_ylim(len(own) - 0.5, -0.5)
    return figure


def learned(found: Rows) -> tuple[list[str], list[str], list[str]]:
    """Titles of the arms that improve and that do not; the verdicts of the controls."""
    own = [row for row in found if not row["against"]]
    learners = [row for row in own if row["expected"] == "learn"]
    held = [row["title"] for row in learners if row["verdict"] == "supported"]
    failed = [row["title"] for row in learners if row["verdict"] != "supported"]
    return held, failed, [row["verdict"] for row in own if row["expected"] == "fail"]
