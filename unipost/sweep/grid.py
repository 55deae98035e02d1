"""Grids: dotted keys with lists of values, their combinations, and names of these."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Values = dict[str, Any]
"""{dotted key of the experiment: its value there, as YAML would have it}."""

BASE = "base"
"""The name of the combination that changes nothing."""
LONGEST = 120
"""Characters of a name; file systems take 255 bytes."""


class Combination(NamedTuple):
    """One point of a sweep: its name, which is its folder's too, and what it sets."""

    name: str
    values: Values


def combinations(grid: Any) -> list[Combination]:
    """The points of a grid {key: [values]}, a product, or of a list of such grids.

    Keys in the order of the file, the last one changing fastest; a value that is no
    list stands for a list of it. A mapping without `name` continues a key, and what is
    written later takes the place of what stood there: {a: {b: [1, 2]}} is
    {a.b: [1, 2]}. Raises ValueError `key: problem`.
    """
    grids = grid if isinstance(grid, list) else [grid]
    if not grids:
        raise ValueError("grid: empty; write {key: [values]}, or leave it out")
    flat = [_flat(one, "") for one in grids]
    points = [point for one in flat for point in _product(one)]
    keys = dict.fromkeys(key for one in flat for key in one)
    shown = short_keys(list(keys))
    return _named([(_name(point, shown), point) for point in points])


def _flat(node: Any, where: str) -> dict[str, list[Any]]:
    """{dotted key: values} of one grid."""
    if not isinstance(node, dict):
        at = f"grid.{where}" if where else "grid"
        raise ValueError(f"{at}: {node!r} is no mapping; write {{key: [values]}}")
    found: dict[str, list[Any]] = {}
    for key, values in node.items():
        whole = f"{where}.{key}" if where else key
        if isinstance(values, dict) and "name" not in values:
            found |= _flat(values, whole)
            continue
        listed = values if isinstance(values, list) else [values]
        if not listed:
            raise ValueError(f"grid.{whole}: no values; write at least one")
        for i, value in enumerate(listed):
            if value in listed[:i]:
                raise ValueError(f"grid.{whole}: {value!r} is there twice")
        found[whole] = listed
    return found


def _product(grid: Mapping[str, list[Any]]) -> Iterable[Values]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Every dotted key by its last parts, as many as tell it from the others."""
    shown = {}
    for key in keys:
        parts = key.split(".")
        others = [k.split(".") for k in keys if k != key]
        count = 1
        while any(other[-count:] == parts[-count:] for other in others):
            count += 1
        shown[key] = ".".join(parts[-count:])
    return shown


def _name(values: Values, shown: Mapping[str, str]) -> str:
    pairs = (f"{shown[key]}={value_text(value)}" for key, value in values.items())
    return ",".join(pairs) or BASE


def value_text(value: Any) -> str:
    """A value as a name shows it: `0.1`, `reverse_kl`, `alpha(alpha=0.5)`."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        rest = {k: v for k, v in value.items() if k != "name"}
        inside = "+".join(f"{k}={value_text(v)}" for k, v in rest.items())
        named = str(value.get("name", ""))
        return f"{named}({inside})" if inside else named
    if isinstance(value, list):
        return f"[{'+'.join(map(value_text, value))}]"
    return str(value)


def _named(points: list[tuple[str, Values]]) -> list[Combination]:
    """Names as folders: characters that every shell leaves alone, none given twice."""
    found, names = [], [plain(name) for name, _ in points]
    for name, (_, values) in zip(names, points, strict=True):
        if len(name) > LONGEST or names.count(name) > 1:
            text = json.dumps(values, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            name = f"{name[: LONGEST - 9]}-{digest}"
        found.append(Combination(name, values))
    return found


def plain(name: str) -> str:
    """`divergence=alpha(alpha=0.5)` becomes `divergence=alpha-alpha=0.5`."""
    name = re.sub(r"(?<=[A-Za-z0-9])[\[(]", "-", name)
    return re.sub(r"[^A-Za-z0-9._=,+-]", "_", re.sub(r"[\[\]()]", "", name))
