"""Reading results.json: whole, or refused in one line that names file and key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from unipost.studies.outcomes import expanded

Results = Mapping[str, Any]

# What results.json must hold: "*" stands for every key, [kind] for a list of it.
_NUMBER = (int, float)
_OUTCOMES = (list, str)
_SCORES = {"tasks": {"*": {"greedy": _OUTCOMES}}}
_SHAPE = {
    "study": str,
    "claim": str,
    "seeds": [int],
    "rule": {"task": str, "metric": str, "above": _NUMBER},
    "tasks": {"*": {"items": int, "role": str, "title": str}},
    "base": _SCORES,
    "arms": {"*": {"title": str, "expected": str, "runs": [{"seed": int, **_SCORES}]}},
}
_KINDS = {str: "text", dict: "a mapping", list: "a list", _OUTCOMES: "a list or text"}
_REPEAT = "repeat the run that writes it"


def load_results(path: str | Path) -> Results:
    """The results.json of a study: the file, or the run directory that holds it.

    Raises FileNotFoundError or ValueError, one line naming the file and the key.
    """
    file = Path(path)
    file = file / "results.json" if file.is_dir() else file
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: no such file; name the directory of a finished `unipost run`"
        )
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        _check_origin(results)
        _check_shape(results, _SHAPE, "")
        results = expanded(results)
        check_results(results)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not whole JSON ({error}); {_REPEAT}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return results


def check_results(results: Any) -> None:
    """Raise ValueError `key: problem` unless all arms have all seeds, tasks, items."""
    _check_shape(results, _SHAPE, "")
    _among(results["rule"]["task"], results["tasks"], "rule.task")
    _check_scores(results, results["base"], "base")
    for name, arm in results["arms"].items():
        where = f"arms.{name}"
        _among(arm["expected"], ("learn", "fail"), f"{where}.expected")
        found, wanted = [run["seed"] for run in arm["runs"]], list(results["seeds"])
        if found != wanted:
            _fail(f"{where}.runs", f"seeds {found}, the study's are {wanted}")
        for i, run in enumerate(arm["runs"]):
            _check_scores(results, run, f"{where}.runs[{i}]")
    for i, entry in enumerate(results.get("comparisons") or []):
        if not isinstance(entry, Sequence) or len(entry) != 3:
            _fail(f"comparisons[{i}]", 'write ["arm", "other arm", "label"]')
        for name in entry[:2]:
            _among(name, results["arms"], f"comparisons[{i}]")


def _check_origin(results: Any) -> None:
    """Refuse the claims of a script, which has no outcomes of arms to decide from."""
    if isinstance(results, dict) and "claims" in results and "arms" not in results:
        made = results.get("command", "the script that wrote it")
        raise ValueError(f"claims, but no arms; they are decided by {made}")


def _fail(key: str, problem: str) -> NoReturn:
    raise ValueError(f"{key.lstrip('.') or 'top level'}: {problem}")


def _among(name: Any, options: Iterable[str], where: str) -> None:
    if name not in options:
        _fail(where, f"{name!r} is not one of {', '.join(options)}")


def _check_shape(node: Any, shape: Any, where: str) -> None:
    kind = type(shape) if isinstance(shape, dict | list) else shape
    if not isinstance(node, kind):
        wanted = _KINDS.get(kind, "a number")
        _fail(where, f"{json.dumps(node, default=str)[:20]} is not {wanted}; {_REPEAT}")
    if kind in (dict, list) and not node:
        _fail(where, "empty; there is nothing to report")
    if isinstance(shape, dict):
        for key, inner in shape.items():
            for name in node if key == "*" else (key,):
                if name not in node:
                    _fail(f"{where}.{name}", f"missing; {_REPEAT}")
                _check_shape(node[name], inner, f"{where}.{name}")
    elif isinstance(shape, list):
        for i, inner in enumerate(node):
            _check_shape(inner, shape[0], f"{where}[{i}]")


def _check_scores(results: Results, node: Any, where: str) -> None:
    """Every task's scores are shares, one for each item, with the rule's metric."""
    rule = results["rule"]
    for task, about in results["tasks"].items():
        key = f"{where}.tasks.{task}"
        if task not in node["tasks"]:
            _fail(key, f"missing; {_REPEAT}")
        metrics = measured(node["tasks"][task])
        if task == rule["task"]:
            _among(rule["metric"], metrics, f"{key}: rule.metric")
        for metric, values in metrics.items():
            scores = np.asarray(values, float)
            if scores.shape != (about["items"],):
                _fail(f"{key}.{metric}", f"{scores.size} of {about['items']} items")
            if not ((scores >= 0) & (scores <= 1)).all():
                _fail(f"{key}.{metric}", "a score is not in 0 to 1")


def measured(task: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """The scores of one task by the metric's name: greedy, sampled, pass@k."""
    named = {name: task[name] for name in ("greedy", "sampled") if task.get(name)}
    passes = task.get("pass_at") or {}
    return named | {f"pass@{k}": values for k, values in passes.items()}
