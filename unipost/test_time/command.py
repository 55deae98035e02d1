"""`unipost best-of`: sample, score, choose; tables and a figure in a folder."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unipost.analysis.statistics import Interval
from unipost.config import dump_tree, to_tree
from unipost.formats import data_hash
from unipost.loading import adapter_base, load_model
from unipost.runs import RunError, environment, open_folder, write_atomic
from unipost.tables import markdown, show
from unipost.test_time.cost import cost_of
from unipost.test_time.curves import (
    Drawn,
    Measured,
    Point,
    expected_pass,
    measured,
    point,
)
from unipost.test_time.figure import figure
from unipost.test_time.sample import draw, drawn_of
from unipost.test_time.settings import BestOf
from unipost.tokenizer import load_tokenizer


def best_of(model: str, asked: BestOf, folder: Path) -> list[Point]:
    """Accuracy against N of every rule; writes samples.jsonl, curve.*, items.json.

    Samples that are there already, of the same settings, model and data, are used
    again. Raises RunError where the folder holds others.
    """
    config = config_of(model, asked)
    open_folder(folder, config)
    base = adapter_base(model)
    parts = [model] if base is None else [model, base]
    hashes = {"model": data_hash(parts), "data": data_hash(asked.path)}
    place = folder / "environment.json"
    if place.exists() and json.loads(place.read_text())["hashes"] != hashes:
        raise RunError(
            f"{folder}: was sampled from another state of {model} or {asked.path}; "
            "choose another --out or remove it"
        )
    values = environment(asked.seed, hashes)
    write_atomic(place, json.dumps(values, indent=1) + "\n")
    path = folder / "samples.jsonl"
    if not path.exists():
        lines = draw(load_model(model, asked.seed), asked)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(path, text)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    drawn = drawn_of(lines, asked)
    found = measured(drawn, asked.points, asked.trials, asked.seed)
    points = [point(x) for x in found]
    tokenizer = load_tokenizer(Path(base or model))
    told = items(found, drawn) | cost_of(model, tokenizer, lines, asked)
    write_atomic(folder / "items.json", json.dumps(told) + "\n")
    write_atomic(folder / "curve.csv", csv_of(points))
    write_atomic(folder / "curve.md", table(points) + "\n")
    partial = folder / ".curve.png.partial"
    figure(points, Path(asked.path).stem, len(drawn.answers)).savefig(
        partial, format="png", dpi=150
    )
    os.replace(partial, folder / "curve.png")
    return points


def items(found: Sequence[Measured], drawn: Drawn) -> dict[str, Any]:
    """{one: [accuracy of a single sample per item], rules: {rule: {N: [the same]}}}."""
    rules: dict[str, dict[str, list[float]]] = {}
    for measure in found:
        rules.setdefault(measure.rule, {})[str(measure.samples)] = _plain(measure.items)
    return {"one": _plain(expected_pass(drawn, 1)), "rules": rules}


def _plain(shares: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in shares]


def config_of(model: str, asked: BestOf) -> str:
    """The config.yaml of a run."""
    return dump_tree({"model": model, **to_tree(asked)})


def csv_of(points: Sequence[Point]) -> str:
    """One row per rule and N; accuracies are shares."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows(points)
    return text.getvalue()


def table(points: Sequence[Point]) -> str:
    """Markdown: accuracy in percent of every rule at every N, with its interval."""
    sizes = list(dict.fromkeys(p.samples for p in points))
    cells = {(p.rule, p.samples): _cell(p) for p in points}
    rules = list(dict.fromkeys(p.rule for p in points))
    rows = [[rule, *(cells[rule, size] for size in sizes)] for rule in rules]
    return markdown(["rule", *(f"N = {size}" for size in sizes)], rows)


def _cell(point: Point) -> str:
    mean = point.mean if point.exact is None else point.exact
    return show(Interval(100 * mean, 100 * point.low, 100 * point.high))
