"""The tables of a study, from its `Summary`, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipost.analysis.statistics import Interval
    from unipost.report import Arm, Summary

# What a run reports next to its tasks, each possibly null: its column and digits.
NUMBERS = {
    "kl_reverse": ("KL(policy‖base)", ".3f"),
    "kl_forward": ("KL(base‖policy)", ".3f"),
    "entropy": ("entropy", ".2f"),
    "length": ("length", ".1f"),
    "style": ("style %", ".1f"),
    "margin": ("margin", ".2f"),
    "tokens": ("tokens trained on", ",.0f"),
    "train_seconds": ("seconds", ".1f"),
    "steps": ("steps", ".0f"),
}
# how the means over the steps of a run are named
OVER = "train/"
FREE = ("", ".3g")


def table(summary: Summary) -> str:
    """Markdown: accuracy, gain, retention, KL to the base and verdict of each arm.

    Means with 95% intervals; KL in nats, the mean over seeds.
    """
    heads = ["arm", "accuracy %", "gain, points", "retention, points"]
    rows = [["base", show(summary.base), "", "", "", ""]]
    for arm in summary.arms:
        shown = [show(arm.target), show(arm.gain, "+"), show(arm.retention, "+")]
        kl = spread(arm, "kl_reverse").split()[0]
        rows.append([arm.title, *shown, kl, arm.verdict])
    return markdown([*heads, NUMBERS["kl_reverse"][0], "improves"], rows)


def details(summary: Summary) -> str:
    """Markdown: each retention task's change, KL with its range over seeds, the rest.

    Columns that no arm reports are left out.
    """
    tasks = list(summary.arms[0].changes)
    over = {
        k for a in summary.arms for row in a.rows for k in row if k.startswith(OVER)
    }
    keys = [*NUMBERS, *sorted(over)]
    kept = [key for key in keys if any(spread(a, key) != "-" for a in summary.arms)]
    base = [number(key, summary.base_row.get(key)) for key in kept]
    rows = [["base", *[""] * len(tasks), *base]]
    for arm in summary.arms:
        changes = [show(arm.changes[task], "+") for task in tasks]
        rows.append([arm.title, *changes, *(spread(arm, key) for key in kept)])
    named = [f"{task}, points" for task in tasks]
    return markdown(["arm", *named, *(_head(key) for key in kept)], rows)


def csv_table(summary: Summary) -> str:
    """CSV, one row per arm and seed and one for the base; accuracies in percent."""
    rows: list[Mapping[str, Any]] = [{"arm": "base", **summary.base_row}]
    for arm in summary.arms:
        rows += [{"arm": arm.name, "title": arm.title, **row} for row in arm.rows]
    names = dict.fromkeys(["arm", "title", "seed", *(key for r in rows for key in r)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def show(interval: Interval | None, sign: str = "") -> str:
    """`41.2 [39.8, 42.6]`; sign "+" writes the sign of the mean."""
    if interval is None:
        return "-"
    mean, low, high = (round(x, 1) + 0.0 for x in interval)
    if math.isnan(low):
        return f"{mean:{sign}.1f} [-]"
    return f"{mean:{sign}.1f} [{low:.1f}, {high:.1f}]"


def spread(arm: Arm, key: str) -> str:
    """Mean of a number over the seeds, KL with its range; "-" if a seed lacks it."""
    values = numbers_of(arm, key)
    if None in values:
        return "-"
    mean = number(key, sum(values) / len(values))
    if not key.startswith("kl_") or len(values) == 1:
        return mean
    return f"{mean} ({number(key, min(values))}-{number(key, max(values))})"


def provenance(summary: Summary) -> str:
    """Study, seeds, items, git hash and wall time, in one line."""
    results = summary.results
    items = ", ".join(f"{t['items']} {name}" for name, t in results["tasks"].items())
    seeds = ", ".join(map(str, results["seeds"]))
    seconds = results.get("wall_seconds")
    wall = "" if seconds is None else f" · {seconds:.0f} s"
    git = results.get("git") or "unknown"
    return f"{results['study']} · seeds {seeds} · items: {items} · git {git}{wall}"


def numbers_of(arm: Arm, key: str) -> list[Any]:
    """A number of every seed of an arm, None where a seed has none."""
    return [row.get(key) for row in arm.rows]


def _head(key: str) -> str:
    return NUMBERS[key][0] if key in NUMBERS else key.removeprefix(OVER)


def number(key: str, value: float | None) -> str:
    """A number as its column shows it, `-` where there is none."""
    if value is None:
        return "-"
    return f"{100 * value if key == 'style' else value:{NUMBERS.get(key, FREE)[1]}}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are also aligned as plain text."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    text = []
    for first, *rest in lines:
        right = [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        text.append(f"| {' | '.join([first.ljust(widths[0]), *right])} |")
    return "\n".join(text)
