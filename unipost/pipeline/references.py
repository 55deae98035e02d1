"""References between stages: a text `{stage}` stands for what that stage makes.

The references of a file make a graph. It is checked before anything runs: every name
is a stage, stages stand after what they read, and each is read by another or is a
result.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from unipost.tree import ConfigError

_REFERENCE = re.compile(r"\{([^{}]*)\}")
Edges = Mapping[str, Mapping[str, str]]
"""Stage -> {dotted key in it: the stage that the key refers to}."""


def references(tree: Any, where: str = "") -> dict[str, str]:
    """{dotted key: stage} of every text in the tree that is `{stage}` as a whole."""
    return {key: name for key, name in _found(tree, where)}


def _found(tree: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        match = isinstance(tree, str) and _REFERENCE.fullmatch(tree)
        if match:
            yield where, match[1]
        return
    for key, node in items:
        yield from _found(node, f"{where}.{key}" if where else str(key))


def substitute(tree: Any, place: Callable[[str], str]) -> Any:
    """The tree with every `{stage}` replaced by `place(stage)`."""
    if isinstance(tree, dict):
        return {key: substitute(node, place) for key, node in tree.items()}
    if isinstance(tree, list | tuple):
        return [substitute(node, place) for node in tree]
    match = isinstance(tree, str) and _REFERENCE.fullmatch(tree)
    return place(match[1]) if match else tree


def check_unquoted(tree: Any, stages: Collection[str], where: str) -> None:
    """Refuse {stage} without quotes, which YAML reads as a mapping."""
    if isinstance(tree, dict):
        name = next(iter(tree), None)
        if len(tree) == 1 and tree[name] is None and name in stages:
            raise ConfigError("", where, f'write it in quotes: "{{{name}}}"')
        for key, node in tree.items():
            check_unquoted(node, stages, f"{where}.{key}")
    elif isinstance(tree, list):
        for i, node in enumerate(tree):
            check_unquoted(node, stages, f"{where}.{i}")


def check_edges(edges: Edges) -> None:
    """Refuse an unknown stage, a cycle, and a reference to a later stage.

    The order of `edges` is that of the file, in which stages run.
    """
    names = list(edges)
    for stage, read in edges.items():
        for key, other in read.items():
            if other not in edges:
                near = difflib.get_close_matches(other, names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                known = ", ".join(names)
                problem = f"no stage {other!r}{hint} (the stages are {known})"
                raise ConfigError("", f"stages.{stage}.{key}", problem)
    for stage, read in edges.items():
        for key, other in read.items():
            if names.index(other) < names.index(stage):
                continue
            circle = _path(edges, other, stage)
            if circle:
                problem = f"a cycle: {' reads '.join([stage, *circle])}"
            else:
                problem = f"{other!r} comes later; write it before {stage!r}"
            raise ConfigError("", f"stages.{stage}.{key}", problem)


def _path(edges: Edges, start: str, end: str) -> list[str]:
    """The stages from `start` to `end` along references; empty where none lead there.

    Breadth first, so the shortest circle is the one told.
    """
    paths, seen = [[start]], {start}
    for path in paths:
        if path[-1] == end:
            return path
        for other in edges[path[-1]].values():
            if other not in seen:
                seen.add(other)
                paths.append([*path, other])
    return []


def check_used(edges: Edges, results: Collection[str]) -> None:
    """Refuse a stage that no other reads, unless it is the last one or a result."""
    used = {other for read in edges.values() for other in read.values()}
    last = list(edges)[-1]
    for stage in edges:
        if stage not in used and stage != last and stage not in results:
            problem = (
                f'no stage reads it; write "{{{stage}}}" where it is meant, or '
                f"results: [{stage}]"
            )
            raise ConfigError("", f"stages.{stage}", problem)


def readers(edges: Edges, stage: str) -> list[str]:
    """The stages that read `stage`, directly or through others, in order."""
    found = {stage}
    for name, read in edges.items():  # in order, so one pass reaches all
        if found & {*read.values()}:
            found.add(name)
    return [name for name in edges if name in found - {stage}]
