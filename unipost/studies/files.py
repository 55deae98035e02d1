"""Study files: `common` laid under every arm, arms multiplied by a grid."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unipost.config import build
from unipost.studies.frame import MEMBER
from unipost.studies.settings import Study
from unipost.sweep.grid import combinations, plain, value_text
from unipost.tree import COMMAND_LINE, ConfigError, load_tree, merge


def is_study(tree: Mapping[str, Any]) -> bool:
    """Whether a file describes a study (it has arms) or one experiment."""
    return "arms" in tree


def load_study(file: str | Path, overrides: Iterable[str] = ()) -> Study:
    """A study from its file; every arm is laid over `common`. Raises ConfigError."""
    tree, written = load_tree(file, overrides), load_tree(file)
    common, arms = tree.pop("common", {}), tree.get("arms")
    if not isinstance(common, dict) or not isinstance(arms, dict):
        raise ConfigError(str(file), "arms", "write a mapping, and common another")
    fields = {field.name for field in dataclasses.fields(Study)}
    known_keys = {*written, *fields, "common", "grid"}
    for here, known in ((tree, known_keys), (arms, written.get("arms", {}))):
        for key in here.keys() - known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            where = key if here is tree else f"arms.{key}"
            own = written if here is tree else known
            problem = f"unknown {key!r}{hint} (the file has {', '.join(own)})"
            raise ConfigError(COMMAND_LINE, where, problem)
    grid = tree.pop("grid", {})
    tree["arms"] = {
        name: node
        for arm, own in arms.items()
        for name, node in _members(str(file), arm, merge(common, own or {}), grid)
    }
    return build(Study, tree, file=str(file))


def _members(
    file: str, arm: str, node: Any, grid: Any
) -> Iterable[tuple[str, dict[str, Any]]]:
    """(name, settings) of an arm for each combination of its grid."""
    if not isinstance(node, dict):
        raise ConfigError(file, f"arms.{arm}", "write a mapping")
    node = dict(node)
    own = node.pop("grid", grid)
    if MEMBER in arm:
        problem = f"{MEMBER} stands before the settings of a grid; write another name"
        raise ConfigError(file, f"arms.{arm}", problem)
    if own in ({}, None):
        yield arm, node
        return
    try:
        points = combinations(own)
    except ValueError as error:
        raise ConfigError(
            file, f"arms.{arm}" if own is not grid else "", str(error)
        ) from error
    for point in points:
        made = node
        for key, value in point.values.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            made = merge(made, value)
        told = ",".join(short(value) for value in point.values.values())
        title = f"{node.get('title', arm)}, {told}"
        yield f"{arm}{MEMBER}{plain(told)}", made | {"title": title}


def short(value: Any) -> str:
    """A value as the name of an arm shows it: numbers in the shorter of two forms."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value_text(value)
    decimal, digits = f"{value:.6g}", f"{value:e}".partition("e")
    mantissa = digits[0].rstrip("0").rstrip(".")
    power = f"{mantissa}e{int(digits[2])}"
    return power if len(power) < len(decimal) else decimal
