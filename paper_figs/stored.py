"""What the figures read: published tables, stored results, a run directory instead."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
DRAWS = 2_000
"""Bootstrap replicates of the intervals drawn; reports have 10,000."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Stored:
    """Where a figure's numbers come from.

    run  a run directory (or its results file) in place of the stored results; None:
         what is committed in `data/`
    """

    run: Path | None = None

    def published(self, name: str, table: str) -> dict[str, Any]:
        """One table of data/published/NAME.json: columns, rows, unit, item, read."""
        return _json(DATA / "published" / f"{name}.json")["tables"][table]

    def json(self, name: str) -> Any:
        """data/NAME.json, or the run's results.json or summary.json."""
        return _json(self._file(name, ("results.json", "summary.json"), ".json"))

    def csv(self, name: str) -> Rows:
        """data/NAME.csv, or the run's table.csv, curve.csv or summary.csv."""
        files = ("table.csv", "curve.csv", "summary.csv")
        with self._file(name, files, ".csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def results(self, name: str):
        """Checked results of a study, by `unipost.report.load_results`."""
        return _results(self._file(name, ("results.json",), ".json"))

    def summary(self, name: str):
        """The `unipost.report.Summary` of a study's results, by DRAWS replicates."""
        return _summary(self._file(name, ("results.json",), ".json"))

    def _file(self, name: str, there: Sequence[str], suffix: str) -> Path:
        if self.run is None:
            return DATA / f"{name}{suffix}"
        if self.run.is_file():
            return self.run
        for file in there:
            if (self.run / file).exists():
                return self.run / file
        raise FileNotFoundError(f"{self.run}: holds no {' nor '.join(there)}")


@functools.lru_cache
def _results(path: Path):
    from unipost.report import load_results

    return load_results(path)


@functools.lru_cache
def _summary(path: Path):
    from unipost.report import load_results, summarise

    return summarise(load_results(path), DRAWS)


def _json(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; run the study that makes it")
    return json.loads(path.read_text())


def cells(table: Mapping[str, Any]) -> Rows:
    """A published table as rows: the name, then its columns."""
    columns = table["columns"]
    return [
        {"row": name, **dict(zip(columns, values, strict=True))}
        for name, values in table["rows"].items()
    ]


def csv_text(rows: Rows) -> str:
    """CSV of the rows; numbers to six significant digits, nothing where one is none."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _shown(v) for k, v in row.items()} for row in rows)
    return text.getvalue()


def _shown(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def typed(text: str) -> Rows:
    """Rows of CSV text, as `csv_text` wrote them: numbers, None for nothing."""
    rows = csv.DictReader(io.StringIO(text))
    return [{key: _value(cell) for key, cell in row.items()} for row in rows]


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None


def same(one: str, other: str, relative: float = 1e-4) -> bool:
    """Whether two CSV texts say the same, numbers to a relative difference."""
    tables = [list(csv.reader(io.StringIO(text))) for text in (one, other)]
    if [len(r) for r in tables[0]] != [len(r) for r in tables[1]]:
        return False
    pairs = (
        pair for rows in zip(*tables, strict=True) for pair in zip(*rows, strict=True)
    )
    return all(a == b or _near(a, b, relative) for a, b in pairs)


def _near(a: str, b: str, relative: float) -> bool:
    try:
        x, y = float(a), float(b)
    except ValueError:
        return False
    return abs(x - y) <= relative * max(abs(x), abs(y)) + 1e-9
