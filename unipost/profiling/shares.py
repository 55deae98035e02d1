"""What a run spent its time on, from its timing.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unipost.profiling.phases import AHEAD

_OTHER = ("step", "seconds", "compile_seconds", "tokens")


def shares(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Each phase's share of the wall time of the steps, the largest first.

    Steps that compiled anything are left out as long as others are there. `other` is
    what no phase covers. What went on beside the loop comes last, its shares being of
    the same wall time and no part of the sum. Empty where no phase was measured.
    """
    found = [x for x in lines if x.keys() - {*_OTHER}]
    steady = [x for x in found if not x["compile_seconds"]] or found
    whole = sum(x["seconds"] for x in steady)
    sums: dict[str, float] = {}
    for line in steady:
        for name in line.keys() - {*_OTHER}:
            sums[name] = sums.get(name, 0.0) + line[name]
    if not sums or not whole:
        return {}
    inside = sum(x for name, x in sums.items() if not name.startswith(AHEAD))
    sums["other"] = max(0.0, whole - inside)
    order = sorted(sums, key=lambda name: (name.startswith(AHEAD), -sums[name]))
    return {name: sums[name] / whole for name in order}


def shares_text(timing: Path) -> str:
    """`time: generate 61%, update 30%, ...`, of a run's timing.jsonl; "" without any.

    What takes less than half a percent is not said.
    """
    if not timing.exists():
        return ""
    found = shares(json.loads(line) for line in timing.read_text().splitlines())
    said = [
        f"{'beside it ' * name.startswith(AHEAD)}{name.removeprefix(AHEAD)} {x:.0%}"
        for name, x in found.items()
        if x >= 0.005
    ]
    return f"time: {', '.join(said)}" if said else ""
