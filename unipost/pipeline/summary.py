"""What a pipeline found: a row for every stage, and its comparisons.

Accuracies are in percent with 95% intervals over seeds and items
(`unipost.evaluate`); differences are in points, paired by seed and item.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipost.analysis.statistics import (
    Interval,
    bootstrap_mean,
    paired_difference,
    verdict,
)
from unipost.pipeline.record import Run
from unipost.runs import write_atomic
from unipost.tables import NUMBERS, markdown, show

_SHOWN = ("kl_reverse", "kl_forward", "entropy", "margin")


def write_summary(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Write summary.json and summary.md from the stages' own files; the summary.

    Equal bytes for equal runs: wall times stay in each stage's done.json.
    """
    stages = {name: _row(own) for name, own in _by_stage(runs).items()}
    found: dict[str, Any] = {"stages": stages}
    if runs[0].pipeline.comparisons:
        found["comparisons"] = _comparisons(runs)
    write_atomic(folder / "summary.json", json.dumps(found, indent=1) + "\n")
    write_atomic(folder / "summary.md", summary_text(found) + "\n")
    return found


def summary_text(summary: Mapping[str, Any]) -> str:
    """The table of stages, and a line for every comparison."""
    rows = summary["stages"]
    scores = list(dict.fromkeys(k for row in rows.values() for k in row["scores"]))
    means = list(dict.fromkeys(k for row in rows.values() for k in row["means"]))
    lines = [
        [
            name,
            _done(row["numbers"]),
            *(show(_percent(row["scores"].get(key))) for key in scores),
            *(_mean(key, row["means"].get(key)) for key in means),
        ]
        for name, row in rows.items()
    ]
    heads = ["stage", "done", *scores, *(NUMBERS.get(k, (k,))[0] for k in means)]
    told = [
        f"{c['label']}: {c['first']} minus {c['second']}, {c['metric']}: "
        f"{show(_percent(c['difference']), '+')} points"
        for c in summary.get("comparisons", ())
    ]
    return "\n".join([markdown(heads, lines), *([""] if told else []), *told])


def _by_stage(runs: Sequence[Run]) -> dict[str, list[Run]]:
    stages: dict[str, list[Run]] = {}
    for run in runs:
        stages.setdefault(run.name, []).append(run)
    return stages


def _row(runs: Sequence[Run]) -> dict[str, Any]:
    """One stage over its seeds: what it did, accuracies, and means of the rest."""
    numbers = [run.numbers() for run in runs]
    row: dict[str, Any] = {
        "kind": runs[0].stage.kind,
        "seeds": [run.seed for run in runs if run.seed is not None],
        "numbers": {k: float(np.mean([n[k] for n in numbers])) for k in numbers[0]},
        "scores": {},
        "means": {},
    }
    reports, evaluation = [_report(run) for run in runs], runs[0].pipeline.evaluation
    if evaluation is None or None in reports:
        return row | {"means": _own(runs)}
    for task, first in reports[0]["tasks"].items():
        for metric in first["outcomes"]:
            table = [r["tasks"][task]["outcomes"][metric] for r in reports]
            row["scores"][f"{task}/{metric}"] = list(bootstrap_mean(table))
        # of tasks that may only be forgotten the accuracy says enough
        aside = evaluation.tasks[task].role == "retention"
        for key in () if aside else sorted(first.keys() - {"outcomes"}):
            values = [r["tasks"][task][key] for r in reports]
            row["means"][f"{task}/{key}"] = float(np.mean(values))
    for key in _SHOWN:
        values = [r["distance"][key] for r in reports if key in r["distance"]]
        if len(values) == len(reports):
            row["means"][key] = float(np.mean(values))
    return row


def _report(run: Run) -> Any:
    path = run.folder / "report.json"
    if run.pipeline.evaluation is None or not path.exists():
        return None
    return json.loads(path.read_text())


def _own(runs: Sequence[Run]) -> dict[str, float]:
    """The last line of the stages' own evaluations, where the pipeline has none."""
    lasts = []
    for run in runs:
        path = run.folder / "evaluation.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        lasts.append(json.loads(lines[-1]) if lines else {})
    keys = [key for key in lasts[0] if key != "step"]
    return {key: float(np.mean([last[key] for last in lasts])) for key in keys}


def _comparisons(runs: Sequence[Run]) -> list[dict[str, Any]]:
    pipeline, stages = runs[0].pipeline, _by_stage(runs)
    rule = pipeline.rule
    assert rule is not None  # checked where the pipeline was made
    found = []
    for first, second, label in pipeline.comparisons:
        one, other = (_outcomes(stages[n], rule) for n in (first, second))
        # a stage that ran once stands against every seed of the other
        one, other = np.broadcast_arrays(one, other)
        interval = paired_difference(one, other)
        found.append(
            {
                "label": label,
                "first": first,
                "second": second,
                "metric": f"{rule.task}/{rule.metric}",
                "difference": list(interval),
                "verdict": verdict(interval.low, interval.high, rule.above),
            }
        )
    return found


def _outcomes(runs: Sequence[Run], rule: Any) -> np.ndarray:
    """Outcomes [seeds, items] of a stage."""
    tasks = [_report(run)["tasks"][rule.task]["outcomes"] for run in runs]
    return np.array([task[rule.metric] for task in tasks])


def _percent(values: Sequence[float] | None) -> Interval | None:
    return None if values is None else Interval(*(100 * x for x in values))


def _mean(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    digits = NUMBERS[key][1] if key in NUMBERS else ".3g"
    return f"{value:{digits}}"


def _done(numbers: Mapping[str, float]) -> str:
    """`60 steps`, or `kept 812 of 4096`; "-" where nothing was made."""
    if "steps" in numbers:
        return f"{numbers['steps']:.0f} steps"
    if "kept" in numbers:
        return f"kept {numbers['kept']:.0f} of {numbers['sampled']:.0f}"
    return "-"
