"""Solutions with a label on every step, from files.

| layout | columns |
|---|---|
| lists | prompt, steps, labels (TRL: prompt, completions, labels) |
| PRM800K, as published | question.problem, label.steps[].completions[].rating |
| Math-Shepherd, as published | input with a mark after every step, label with + or - |

A label is 1 or true (right), -1 or false (wrong), 0 (neutral) or null (not labelled).
Of a PRM800K record the path that its labeller took is one solution; every completion
beside the path is one more, of which the last step alone is labelled, so that each
rating counts once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unipost.chat import Turn
from unipost.formats import DataError, read_records, summary
from unipost.row_values import text_of, value_of

SHEPHERD_MARK, SHEPHERD_START = "\u043a\u0438", "Step 1:"
NAMES = ("prompt", "steps", "labels")
TRL_STEPS = "completions"
Parts = tuple[str | list[Turn], list[str], list[float]]


@dataclass(frozen=True)
class Solution:
    """A prompt (text or messages), steps of text, a label per step (NaN: none)."""

    prompt: str | list[Turn]
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    place: str = field(default="", compare=False)


def read_solutions(
    path: str | Path, columns: Mapping[str, str], on_bad_row: str = "raise"
) -> list[Solution]:
    """The solutions of a file, in order. `columns` renames prompt, steps and labels.

    Raises DataError with file, line and reason for a bad row, or skips it with a
    warning; raises where nothing is left.
    """
    for name in columns:
        if name not in NAMES:
            listed = ", ".join(NAMES)
            raise DataError(f"{path}: columns: unknown '{name}' (steps have {listed})")
    found: list[Solution] = []
    bad, records = [], list(read_records(path))
    for record in records:
        try:
            if record.problem:
                raise DataError(record.problem)
            found += _solutions(record.row, columns, record.place)
        except DataError as error:
            bad.append(f"{record.place}: {error}")
    if bad and (on_bad_row == "raise" or not found):
        raise DataError(summary(bad, len(records)))
    if not found:
        raise DataError(f"{path}: no rows with a labelled step")
    if bad:
        warnings.warn(f"skipped {summary(bad, len(records))}", stacklevel=2)
    return found


def _solutions(
    row: dict[str, Any], columns: Mapping[str, str], place: str
) -> Iterator[Solution]:
    """Those of one row, by its layout, without those that have no label."""
    question, label = row.get("question"), row.get("label")
    parts: Iterable[Parts]
    if isinstance(question, dict) and isinstance(label, dict) and not columns:
        try:
            parts = list(_prm800k(question, label))
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"'label' is not as PRM800K has it: {error!r}") from error
    elif isinstance(row.get("input"), str) and isinstance(label, str) and not columns:
        parts = [_shepherd(row["input"], label)]
    else:
        parts = [_lists(row, columns)]
    for prompt, steps, labels in parts:
        if any(math.isfinite(x) for x in labels):
            yield Solution(prompt, tuple(steps), tuple(labels), place)


def _lists(row: dict[str, Any], columns: Mapping[str, str]) -> Parts:
    usual = "steps" if "steps" in row or TRL_STEPS not in row else TRL_STEPS
    names = [columns.get("prompt", "prompt"), columns.get("steps", usual)]
    prompt = value_of(row, names[0])
    column = columns.get("labels", "labels")
    steps, labels = row.get(names[1]), row.get(column)
    for name, value in ((names[1], steps), (column, labels)):
        if not isinstance(value, list) or not value:
            listed = ", ".join(row)
            raise DataError(f"'{name}' is no list of steps (columns: {listed})")
    assert steps is not None and labels is not None
    if len(steps) != len(labels):
        raise DataError(f"{len(steps)} steps, but {len(labels)} labels")
    for i, step in enumerate(steps, start=1):
        if not isinstance(step, str) or not step.strip():
            raise DataError(f"step {i} of '{names[1]}' is {step!r}; expected text")
    if not isinstance(prompt, list):
        prompt = text_of(names[0], prompt)
    return prompt, steps, [_label(x) for x in labels]


def _label(value: Any) -> float:
    """1, 0, -1, or NaN for null; true is right and false is wrong."""
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if not isinstance(value, int | float) or value not in (-1, 0, 1):
        raise DataError(f"label {value!r}; expected 1, 0, -1, true, false or null")
    return float(value)


def _prm800k(question: dict[str, Any], label: dict[str, Any]) -> Iterator[Parts]:
    """The path of a record and the completions beside it."""
    problem, steps = question.get("problem"), label.get("steps")
    if not isinstance(problem, str) or not isinstance(steps, list):
        raise DataError("no question.problem and label.steps, as PRM800K has them")
    before: list[str] = []
    labels: list[float] = []
    for step in steps:
        completions, chosen = step["completions"] or [], step["chosen_completion"]
        for i, each in enumerate(completions):
            if i != chosen:
                unknown = [math.nan] * len(before)
                own = [*unknown, _label(each.get("rating"))]
                yield problem, [*before, each["text"]], own
        human = step.get("human_completion")
        taken = human if chosen is None else completions[chosen]
        if taken is None:  # the labeller gave up here
            break
        before.append(taken["text"] if isinstance(taken, dict) else str(taken))
        # what a labeller wrote instead is right, and has no rating
        rating = 1.0 if chosen is None else _label(taken.get("rating"))
        labels.append(rating)
    if before:
        yield problem, before, labels


def _shepherd(text: str, marked: str) -> Parts:
    """A question, then steps that each end with the mark, + or - in `marked`."""
    steps, labels, place = [], [], 0
    for piece in text.split(SHEPHERD_MARK)[:-1]:
        place += len(piece)
        sign = marked[place : place + 1]
        if sign not in ("+", "-"):
            raise DataError(f"no + or - after step {len(steps) + 1} of 'label'")
        place += 1
        steps.append(piece.strip())
        labels.append(1.0 if sign == "+" else -1.0)
    start = steps[0].find(SHEPHERD_START) if steps else -1
    if start < 0:
        raise DataError(f"'input' has no {SHEPHERD_START!r} before its first mark")
    prompt, steps[0] = steps[0][:start].rstrip(), steps[0][start:]
    return prompt, steps, labels
