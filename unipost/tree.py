"""YAML files and `key=value` overrides, merged into one plain tree.

A tree is mappings, lists, text, numbers, booleans and None. The rules of merging:

- a mapping without `name` is laid over what is there, key by key;
- naming a part (text, or a mapping with `name`) drops the arguments it had before;
- a mapping of positions, {"0": ...}, is laid over the items of a list;
- everything else replaces.

Scalars follow YAML 1.2, with `1e-6` a float and `yes`, `no`, `on`, `off` text. A key
given twice is refused. `extends: other.yaml` starts from another file.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Layer = tuple[str, dict[str, Any]]
COMMAND_LINE = "command line"


class ConfigError(ValueError):
    """What is wrong in a config, in one line: file, key, problem."""

    def __init__(self, file: str, where: str, problem: str):
        super().__init__(file, where, problem)
        self.file, self.where, self.problem = file, where, problem

    def __str__(self) -> str:
        parts = (self.file, self.where, self.problem)
        return " ".join(": ".join(part for part in parts if part).split())


def load_tree(file: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The tree of a YAML file, its bases and `key.path=value` overrides, in order.

    Raises ConfigError with file and line or key.
    """
    return merge_layers(load_layers(file, overrides))


def load_layers(file: str | Path, overrides: Iterable[str] = ()) -> list[Layer]:
    """The trees to merge, lowest first, each with the name of where it was written."""
    written = [(COMMAND_LINE, parse_override(o)) for o in overrides]
    return _files(Path(file), ()) + written


def merge_layers(layers: Iterable[Layer]) -> dict[str, Any]:
    """One tree from layers; at the root `name` is a key like any other."""
    tree: dict[str, Any] = {}
    for _, layer in layers:
        for key, node in layer.items():
            tree[key] = merge(tree.get(key), node)
    return tree


def merge(old: Any, new: Any) -> Any:
    """`new` laid over `old` by the rules of this module; neither is changed."""
    if not isinstance(new, dict) or "name" in new:
        return new
    if isinstance(old, str):
        old = {"name": old}
    if isinstance(old, list) and new and all(_place(key, old) for key in new):
        return [
            merge(x, new[str(i)]) if str(i) in new else x for i, x in enumerate(old)
        ]
    if not isinstance(old, dict):
        return new
    return old | {key: merge(old.get(key), node) for key, node in new.items()}


def _place(key: str, items: list[Any]) -> bool:
    """Whether a key is a position in a list, written without leading zeros."""
    return key.isdecimal() and key == str(int(key)) and int(key) < len(items)


def source(layers: list[Layer], where: str) -> str:
    """The name of the last layer that reaches deepest towards the key `where`.

    A key that no layer begins to write is the business of the file asked for.
    """
    deepest = max(reversed(layers), key=lambda layer: _depth(layer[1], where))
    files = [name for name, _ in layers if name != COMMAND_LINE]
    return deepest[0] if _depth(deepest[1], where) else files[-1]


def dump_tree(tree: Any) -> str:
    """YAML text that reads back as the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _depth(tree: Any, where: str) -> int:
    depth = 0
    for key in where.split("."):
        if not isinstance(tree, dict) or key not in tree:
            break
        tree, depth = tree[key], depth + 1
    return depth


def _files(file: Path, above: tuple[Path, ...]) -> list[Layer]:
    name = os.path.normpath(file)
    tree = _parse(name, _text(file, above))
    if not isinstance(tree, dict):
        raise ConfigError(name, "", "expected a mapping of keys to values")
    if "extends" not in tree:
        return [(name, tree)]
    base = tree.pop("extends")
    if not isinstance(base, str):
        raise ConfigError(name, "extends", f"expected a file name, got {base!r}")
    seen = (*above, file.resolve())
    if (file.parent / base).resolve() in seen:
        raise ConfigError(name, "extends", f"'{base}' leads back to this file")
    return [*_files(file.parent / base, seen), (name, tree)]


def _text(file: Path, above: tuple[Path, ...]) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        asked = f" (extended by {above[-1].name})" if above else ""
        problem = f"cannot be read: {error.strerror}{asked}"
        raise ConfigError(os.path.normpath(file), "", problem) from error
    except UnicodeDecodeError as error:
        raise ConfigError(os.path.normpath(file), "", "is not UTF-8 text") from error


def parse_override(text: str) -> dict[str, Any]:
    """The tree of one `key.path=value`; the value is YAML. Raises ConfigError."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        problem = f"'{text}' is not key=value (for example objective.beta=0.1)"
        raise ConfigError(COMMAND_LINE, "", problem)
    node = _parse(COMMAND_LINE, value, path)
    for key in reversed(keys):
        node = {key: node}
    return node


def _parse(file: str, text: str, where: str = "") -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}" if mark and not where else where
        raise ConfigError(file, line, f"not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(file, where, f"not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with YAML 1.2 scalars and no repeated keys."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = f"the key {key!r} is not text; put it in quotes"
            elif key in seen:
                problem = f"'{key}' is given twice"
            else:
                seen.add(key)
                continue
            raise yaml.MarkedYAMLError(
                problem=problem, problem_mark=key_node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, quoting what the loader above would not read as text."""

    yaml_implicit_resolvers = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    "float": (rf"{_FLOAT}|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)", list("-+.0123456789")),
}
for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
        )
