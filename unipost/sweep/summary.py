"""What a sweep found: a row for every combination, from the files of its runs.

Means over the seeds with 95% bootstrap intervals over them (`unipost.evaluate`), and
differences to the first combination, paired by seed. The numbers are those of the last
evaluation and the means over the steps of the metrics that the sweep names. Of one seed
there is no interval.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unipost.analysis.statistics import Interval, bootstrap_mean, paired_difference
from unipost.runs import write_atomic
from unipost.sweep.grid import value_text
from unipost.sweep.record import Folders
from unipost.sweep.settings import Run, Sweep
from unipost.tables import OVER, markdown

Numbers = dict[str, float]


def write_summary(sweep: Sweep, folders: Folders) -> str:
    """Write sweep.json, summary.csv and summary.md; the text of the last.

    Equal bytes for equal runs: wall times stay in the runs' own timing.jsonl.
    """
    found = summarise(sweep, folders)
    text = summary_text(found)
    write_atomic(folders.root / "sweep.json", json.dumps(found, indent=1) + "\n")
    write_atomic(folders.root / "summary.csv", csv_table(found))
    write_atomic(folders.root / "summary.md", text + "\n")
    return text


def summarise(sweep: Sweep, folders: Folders) -> dict[str, Any]:
    """The contents of sweep.json."""
    values: dict[str, dict[int, Numbers]] = {x.name: {} for x in sweep.combinations}
    failed = {}
    for run in sweep.runs:
        if folders.finished(run):
            values[run.combination.name][run.seed] = run_numbers(sweep, run, folders)
        else:
            failed[run.name] = folders.failure(run) or "not finished"
    first = sweep.combinations[0].name
    return {
        "claim": sweep.settings.claim,
        "seeds": list(sweep.seeds),
        "first": first,
        "combinations": {
            point.name: {
                "values": point.values,
                "runs": {str(k): v for k, v in values[point.name].items()},
                "means": _means([*values[point.name].values()]),
                "differences": _differences(values[point.name], values[first])
                if point.name != first
                else {},
            }
            for point in sweep.combinations
        },
        "skipped": {point.name: reason for point, reason in sweep.skipped},
        "failed": failed,
    }


def run_numbers(sweep: Sweep, run: Run, folders: Folders) -> Numbers:
    """The last evaluation of a run, and its means over the steps as `train/NAME`."""
    found = {k: v for k, v in folders.evaluation(run).items() if k != "step"}
    wanted = sweep.settings.metrics
    if wanted:
        text = (folders.of(run) / "metrics.jsonl").read_text()
        steps = [json.loads(line) for line in text.splitlines()]
        for name in wanted:
            values = [step[name] for step in steps if name in step]
            if not values:
                known = ", ".join(sorted(k for k in steps[-1] if k != "step"))
                raise ValueError(
                    f"metrics: {run.name} has no {name!r}; write some of {known}"
                )
            finite = [x for x in values if _is_finite(x)]
            found[OVER + name] = float(np.mean(finite)) if finite else math.nan
    return {k: v for k, v in found.items() if _is_finite(v)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _means(runs: Sequence[Numbers]) -> dict[str, list[float | None]]:
    """{number: [mean, low, high]} over seeds, of numbers that all of them have."""
    shared = [k for k in (runs[0] if runs else {}) if all(k in run for run in runs)]
    return {k: _plain(bootstrap_mean([run[k] for run in runs])) for k in shared}


def _differences(runs: Mapping[int, Numbers], first: Mapping[int, Numbers]):
    """{number: [mean, low, high]} of the differences on the seeds that both have."""
    seeds = [seed for seed in runs if seed in first]
    pairs = [(runs[seed], first[seed]) for seed in seeds]
    found = {}
    for key in pairs[0][0] if pairs else ():
        if all(key in a and key in b for a, b in pairs):
            one, other = ([pair[i][key] for pair in pairs] for i in (0, 1))
            found[key] = _plain(paired_difference(one, other))
    return found


def _plain(interval: Interval) -> list[float | None]:
    return [x if math.isfinite(x) else None for x in interval]


def summary_text(found: Mapping[str, Any]) -> str:
    """The claim, the table of means, that of differences, and what is not in them."""
    rows = found["combinations"]
    keys = dict.fromkeys(k for row in rows.values() for k in row["means"])
    heads = list(keys)
    means = [
        [name, str(len(row["runs"])), *(_shown(row["means"].get(k), "") for k in keys)]
        for name, row in rows.items()
    ]
    parts = [found["claim"], markdown(["combination", "seeds", *heads], means)]
    others = {name: row for name, row in rows.items() if row["differences"]}
    if others:
        minus = [
            [name, *(_shown(row["differences"].get(k), "+") for k in keys)]
            for name, row in others.items()
        ]
        head = f"minus {found['first']}"
        parts.append(markdown([head, *heads], minus))
    parts.append(
        f"Means over seeds {found['seeds']} with 95% intervals of a bootstrap over "
        "them; differences are paired by seed. Intervals are not corrected for their "
        "number."
    )
    parts += [f"Left out: {name}: {why}" for name, why in found["skipped"].items()]
    parts += [f"Failed: {name}: {why}" for name, why in found["failed"].items()]
    return "\n\n".join(parts)


def _shown(interval: Sequence[float | None] | None, sign: str) -> str:
    """`0.412 [0.398, 0.426]`; "-" where there is none."""
    if interval is None or interval[0] is None:
        return "-"
    mean, low, high = interval
    if low is None or high is None:
        return f"{mean:{sign}.3g} [-]"
    return f"{mean:{sign}.3g} [{low:.3g}, {high:.3g}]"


def csv_table(found: Mapping[str, Any]) -> str:
    """CSV, a row per combination: its values, and each number's mean and interval.

    NAME, NAME low, NAME high; with `minus first` behind it the paired difference.
    """
    rows = []
    for name, point in found["combinations"].items():
        row: dict[str, Any] = {"combination": name}
        row |= {key: value_text(x) for key, x in point["values"].items()}
        row["seeds"] = len(point["runs"])
        for kind, suffix in (("means", ""), ("differences", " minus first")):
            for key, interval in point[kind].items():
                ends = zip(("", " low", " high"), interval, strict=True)
                row |= {f"{key}{suffix}{end}": value for end, value in ends}
        rows.append(row)
    names = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
