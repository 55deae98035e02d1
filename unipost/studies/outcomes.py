"""Outcomes of a study as results.json holds them, and compactly as they are written.

A task of a run or of a point of its curve:

    {greedy: [0 or 1 per item], sampled: [share of correct samples],
     pass_at: {k: [...]}, length, length_wrong, style}

On disk an outcome is text: `bits:` with eight items in two hexadecimal digits, or
`counts:` with the number of correct samples as one digit in base 36; anything else is a
list, its numbers with six digits. Files written before this have lists throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unipost.evaluate import pass_at_k
from unipost.studies.frame import (
    BASE,
    OF_TASK,
    Frame,
    Matched,
    families,
    kept_groups,
    number_names,
)

Results = Mapping[str, Any]
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def compact(results: Results) -> dict[str, Any]:
    """Results as they are written: outcomes as text, numbers with six digits."""
    sizes = {name: task.get("samples") or 0 for name, task in results["tasks"].items()}
    return _each_point(results, lambda tasks: _packed(tasks, sizes), _rounded)


def expanded(results: Results) -> dict[str, Any]:
    """Results as they are read: `compact` undone, with pass@k of the tasks' `pass_at`.

    Raises ValueError naming the task whose text is not whole.
    """
    return _each_point(results, lambda tasks: _unpacked(tasks, results["tasks"]), _same)


def _each_point(results: Results, change, rest) -> dict[str, Any]:
    """A copy: `change` of the tasks of base, runs and points, `rest` of the rest."""

    def point(node: Mapping[str, Any]) -> dict[str, Any]:
        own = {k: rest(v) for k, v in node.items() if k not in ("tasks", "curve")}
        own["tasks"] = change(node["tasks"])
        if "curve" in node:
            own["curve"] = [point(p) for p in node["curve"]]
        return own

    arms = {
        name: arm | {"runs": [point(run) for run in arm["runs"]]}
        for name, arm in results["arms"].items()
    }
    kept = {k: rest(v) if k == "claims" else v for k, v in results.items()}
    return kept | {"base": point(results["base"]), "arms": arms}


def _same(value: Any) -> Any:
    return value


def _rounded(value: Any) -> Any:
    """A tree with its floats at six significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value


def _packed(tasks: Mapping[str, Any], samples: Mapping[str, int]) -> dict[str, Any]:
    out = {}
    for name, task in tasks.items():
        own = {k: _rounded(v) for k, v in task.items() if k != "pass_at"}
        own["greedy"] = _bits(task["greedy"])
        if task.get("sampled") is not None:
            own["sampled"] = _counts(task["sampled"], samples.get(name, 0))
        out[name] = own
    return out


def _bits(values: Sequence[float]) -> Any:
    if not all(v in (0, 1) for v in values):
        return _rounded([*values])
    return "bits:" + np.packbits(np.array(values, bool)).tobytes().hex()


def _counts(shares: Sequence[float], samples: int) -> Any:
    counts = [round(share * samples) for share in shares]
    exact = all(c / samples == s for c, s in zip(counts, shares, strict=True))
    if not exact or samples >= len(_DIGITS):
        return counts if exact else [*shares]
    return "counts:" + "".join(_DIGITS[c] for c in counts)


def _unpacked(tasks: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for name, task in tasks.items():
        own, known = dict(task), about.get(name, {})
        own["greedy"] = _read(task["greedy"], known, name)
        samples = known.get("samples") or 0
        if task.get("sampled") is not None and samples:
            counts = np.array(_read(task["sampled"], known, name))
            if np.issubdtype(counts.dtype, np.integer):
                own["sampled"] = (counts / samples).tolist()
                ks = known.get("pass_at") or ()
                passes = {str(k): pass_at_k(samples, counts, k).tolist() for k in ks}
                own["pass_at"] = passes
        out[name] = own
    return out


def _read(value: Any, about: Mapping[str, Any], task: str) -> Any:
    """A list from the text of an outcome; lists as they are."""
    if not isinstance(value, str):
        return value
    kind, _, text = value.partition(":")
    items = about.get("items", 0)
    try:
        if kind == "bits":
            packed = np.frombuffer(bytes.fromhex(text), np.uint8)
            found = np.unpackbits(packed).tolist()
            whole = len(packed) == -(-items // 8)
            found = found[:items]
        else:
            found = [int(digit, 36) for digit in text]
            whole = kind == "counts" and len(found) == items
    except ValueError:
        whole, found = False, []
    if not whole:
        raise ValueError(
            f"tasks.{task}: {value[:12]!r} is no outcome of {items} items; repeat the "
            "run that writes it"
        )
    return found


def frame_of(results: Results) -> Frame:
    """What claims about these results can name."""
    tasks, rule = results["tasks"], results["rule"]
    roles = {name: task["role"] for name, task in tasks.items()}
    matched, groups = results.get("matched"), results.get("groups") or {}
    found = number_names({task: True for task in tasks}, True, (), ())
    runs = [run for arm in results["arms"].values() for run in arm["runs"]]
    points = [results["base"], *runs, *(p for r in runs for p in r.get("curve") or ())]
    more = {k for p in points for k, v in p.items() if isinstance(v, int | float)}
    return Frame(
        families=families(results["arms"]),
        tasks={name: task.get("samples") or 0 for name, task in tasks.items()},
        groups=groups,
        kept=kept_groups(groups, roles),
        target=(rule["task"], rule["metric"]),
        curve=tuple(results.get("curve") or ()),
        numbers=found | more,
        matched=None if matched is None else Matched(**matched),
    )


def point_of(results: Results, arm: str, run: int, step: int | None) -> Results:
    """What was measured of one run at a step: 0 is the base, None the end.

    Raises ValueError where nothing was.
    """
    if arm == BASE or step == 0:
        return results["base"]
    own = results["arms"][arm]["runs"][run]
    if step is None:
        return own
    if step == own.get("steps"):
        return own
    for point in own.get("curve") or ():
        if point["step"] == step:
            return point
    raise ValueError(f"arms.{arm}.runs[{run}].curve: has no step {step}")


def scores_of(
    results: Results,
    arm: str,
    task: str,
    metric: str,
    steps: Sequence[int | None] = (None,),
) -> np.ndarray:
    """Shares [runs, steps, items] of a task; pass@k from the counts, for any k."""
    samples = results["tasks"][task].get("samples") or 0

    def one(run: int, step: int | None) -> np.ndarray:
        found = point_of(results, arm, run, step)["tasks"][task]
        if not metric.startswith("pass@"):
            return np.array(found[metric], float)
        counts = np.rint(samples * np.array(found["sampled"], float))
        return pass_at_k(samples, counts, int(metric.removeprefix("pass@")))

    runs = range(len(results["seeds"]))
    return np.stack([np.stack([one(run, step) for step in steps]) for run in runs])


def number_of(
    results: Results, arm: str, run: int, name: str, step: int | None = None
) -> float:
    """A number that a run reports at a step; NaN where it was not measured."""
    point = point_of(results, arm, run, step)
    task, _, key = name.rpartition("/")
    if key in OF_TASK and task in point["tasks"]:
        value = point["tasks"][task].get(key)
    else:
        value = point.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
