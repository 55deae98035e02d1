"""Claims of scripts that measure without a study: their rows, and how they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stored import Rows

WORDS = ("supported", "not supported", "inconclusive")


def claim_rows(tree: Mapping[str, Any]) -> Rows:
    """A row for each claim of stored results: verdict, number, interval."""
    found = []
    for name, claim in tree["claims"].items():
        _, mean, low, high = claim["found"]["effects"][0][:4]
        row = {"what": "claim", "arm": name, "at": claim["found"]["verdict"]}
        found.append(row | {"mean": mean, "low": low, "high": high})
    return found


def told(found: Rows) -> str:
    """How many claims are what, then each with its number."""
    claims = [row for row in found if row["what"] == "claim"]
    verdicts = [row["at"] for row in claims]
    counts = [f"{verdicts.count(w)} {w}" for w in WORDS if w in verdicts]
    return "; ".join([", ".join(counts), *(_line(row) for row in claims)])


def _line(row: Mapping[str, Any]) -> str:
    ends = ""
    if isinstance(row["low"], int | float):
        ends = f" [{row['low']:.3g}, {row['high']:.3g}]"
    return f"{row['arm']}: {row['at']}, {row['mean']:.3g}{ends}"
