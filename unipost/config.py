"""A tree of plain data built into frozen objects, and back. The config is the object.

A node is built by the type it is for: a dataclass takes a mapping of its fields; a
type in CHOICES takes a name, or a mapping of `name` and arguments. A name is a key of
the registry, or the dotted path `module:attribute` of a part of your own; `trl.dpo` is
short for `unipost.trl:dpo`.

    objective: {name: grpo, kl: 0.1, link: {low: 0.3}, divergence: mine:MyDivergence}

A preset is a function. Arguments that it does not take but that are fields of what it
returns are set on the result; a mapping without `name` edits the part that is there,
and a mapping of positions the items of a list: {"0": {cap: 3}}.
"""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import math
import operator
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from unipost import hints
from unipost.hints import MISSING, Takes, at, fail, show, takes_text, unknown
from unipost.tree import ConfigError as ConfigError
from unipost.tree import dump_tree as dump_tree
from unipost.tree import load_layers, merge_layers, source
from unipost.tree import load_tree as load_tree

Registry = Mapping[str, Callable[..., Any]]

CHOICES: dict[Any, Registry] = {}
"""The registry of every type whose parts have names: {Divergence: DIVERGENCES, ...}.

A key with Callable[...] in it is for functions used as values, such as rewards.
"""


SCALAR = "scalar"
"""The key of CHOICES for what may stand in place of a mathematical scalar."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """A plain function with some keyword arguments set; equal when both parts are."""

    function: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args, **dict(self.arguments))


def load(kind: Any, file: str | Path, overrides: Iterable[str] = ()) -> Any:
    """The object that a YAML file and `key.path=value` overrides describe.

    Raises ConfigError, one line that names the file (or the command line) and the key.
    """
    layers = load_layers(file, overrides)
    try:
        return build(kind, merge_layers(layers))
    except ConfigError as error:
        written_in = source(layers, error.where)
        raise ConfigError(written_in, error.where, error.problem) from error.__cause__


def build(
    kind: Any, node: Any, where: str = "", file: str = "", default: Any = MISSING
) -> Any:
    """Build `node` as a `kind`: a type hint, or a registry of choices.

    `where` is the dotted key of the node and `file` its source, for messages. A
    mapping without `name` edits `default` if that is a part. Raises ConfigError.
    """
    try:
        return _build(kind, node, where, default)
    except ConfigError as error:
        raise ConfigError(file, error.where, error.problem) from error.__cause__


def to_tree(value: Any, kind: Any = None, where: str = "") -> Any:
    """Plain data with every field, defaults included: build(kind, tree) == value.

    `kind` is the type the value is for, type(value) unless given. Parts in a registry
    are written by name, others by dotted path. Raises ConfigError for a value that no
    YAML describes.
    """
    kind = type(value) if kind is None else _narrowed(kind, value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        pairs = zip(hints.item_kinds(kind, len(value)), value, strict=True)
        return [to_tree(v, k, at(where, i)) for i, (k, v) in enumerate(pairs)]
    if isinstance(value, Mapping):
        item = hints.value_kind(kind)
        return {str(key): to_tree(v, item, at(where, key)) for key, v in value.items()}
    if kind is Any:
        fail(where, f"its type is Any, so {value!r} cannot be built again from YAML")
    if isinstance(value, Bound):
        name = {"name": _name(value.function, kind, where)}
        return name | to_tree(dict(value.arguments))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = kind in CHOICES or type(value) is not kind
        tree = {"name": _name(type(value), kind, where)} if named else {}
        for field, (hint, _) in hints.takes(type(value)).items():
            tree[field] = to_tree(getattr(value, field), hint, at(where, field))
        return tree
    if inspect.isfunction(value):
        return _name(value, kind, where)
    fail(where, f"{value!r} cannot be written as YAML")


def _narrowed(kind: Any, value: Any) -> Any:
    """The member of a union that holds `value`, or all of a union with a registry."""
    if type(value) in CHOICES.get(SCALAR, {}).values():
        return SCALAR
    whole = hints.without_none(kind)
    return whole if whole in CHOICES else hints.member(kind, value)


def _name(target: Any, kind: Any, where: str) -> str:
    for name, choice in CHOICES.get(kind, {}).items():
        if choice is target:
            return name
    if "<" in target.__qualname__:
        fail(where, f"{target.__qualname__} has no path; define it in a module")
    return f"{target.__module__}:{target.__qualname__}"


def _build(kind: Any, node: Any, where: str, default: Any = MISSING) -> Any:
    origin = get_origin(kind) or kind
    if isinstance(kind, Mapping):
        return _part(object, kind, node, where, default)
    if kind in CHOICES:
        return _part(kind, CHOICES[kind], node, where, default)
    if kind is Any:
        return node
    if hints.is_union(kind):
        return _union(get_args(kind), node, where, default)
    if origin is Literal:
        return _literal(get_args(kind), node, where)
    if kind is float:
        # Infinity is meant where the default is infinite; elsewhere it is a slip.
        infinite = isinstance(default, float) and math.isinf(default)
        return hints.number(node, where, infinite)
    if kind in hints.PLAIN:
        return hints.plain(kind, node, where)
    if origin in (tuple, list):
        return origin(_items(kind, node, where, default))
    if hints.is_mapping(kind):
        if not isinstance(node, dict):
            fail(where, f"expected a mapping, got {show(node)}")
        item = hints.value_kind(kind)
        return {key: _build(item, v, at(where, key)) for key, v in node.items()}
    return _part(kind, {}, node, where, default)


def _literal(options: tuple, node: Any, where: str) -> Any:
    for option in options:
        if node == option and type(node) is type(option):
            return option
    names = [str(option) for option in options]
    fail(where, unknown(node, names, f"one of {', '.join(names)}"))


def _items(kind: Any, node: Any, where: str, default: Any) -> list[Any]:
    if isinstance(node, dict) and node and isinstance(default, list | tuple):
        return _edited_items(kind, node, where, list(default))
    if not isinstance(node, list | tuple):
        fail(where, f"expected a list, got {show(node)}")
    kinds = hints.item_kinds(kind, len(node))
    if len(kinds) != len(node):
        fail(where, f"expected a list of {len(kinds)}, got {len(node)}")
    pairs = enumerate(zip(kinds, node, strict=True))
    return [_build(kind, item, at(where, i)) for i, (kind, item) in pairs]


def _edited_items(kind: Any, node: dict, where: str, items: list[Any]) -> list[Any]:
    """The items of a default with some built anew, each by its position from 0."""
    kinds = hints.item_kinds(kind, len(items))
    for key, edit in node.items():
        if not key.isdecimal():
            fail(where, "expected a list, got a mapping")
        place = int(key)
        if place >= len(items):
            fail(at(where, key), "no such item; write the whole list")
        items[place] = _build(kinds[place], edit, at(where, key), items[place])
    return items


def _union(members: tuple, node: Any, where: str, default: Any) -> Any:
    if node is None and type(None) in members:
        return None
    members = tuple(m for m in members if m is not type(None))
    whole = functools.reduce(operator.or_, members)
    if whole in CHOICES:
        return _part(whole, CHOICES[whole], node, where, default)
    if members[0] in CHOICES and len({id(CHOICES.get(m)) for m in members}) == 1:
        return _part(whole, CHOICES[members[0]], node, where, default)
    # A member that YAML cannot hold (an array) leaves the others: float | Array is a
    # mathematical scalar, whose own part decides whether it may be infinite.
    kinds = [m for m in members if _expressible(m)] or members
    if float in kinds and len(kinds) < len(members) and isinstance(node, dict):
        return _part(SCALAR, CHOICES.get(SCALAR, {}), node, where, default)
    if float in kinds and len(kinds) < len(members):
        return hints.number(node, where, infinite=True)
    errors = []
    for kind in kinds:
        try:
            return _build(kind, node, where, default)
        except ConfigError as error:
            errors.append(error)
    deepest = max(errors, key=lambda error: len(error.where))
    if len(errors) == 1 or deepest.where != where:
        raise deepest
    fail(where, ", or ".join(error.problem for error in errors))


def _expressible(kind: Any) -> bool:
    known = kind in CHOICES or kind in hints.PLAIN or kind in (float, Any)
    return known or get_origin(kind) is not None or dataclasses.is_dataclass(kind)


def _part(base: Any, choices: Registry, node: Any, where: str, default: Any) -> Any:
    """A part by its fields, as an edit of the default, or by name."""
    concrete = dataclasses.is_dataclass(base) and not choices
    fields = hints.takes(base) if concrete else {}
    listed = takes_text(_label(base), fields) if concrete else _listed(choices)
    if isinstance(node, dict) and ("name" not in node or "name" in fields):
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            return _edit(default, _label(type(default)), node, where)
        if concrete:
            return _call(base, _label(base), node, where, base)
        for key in node:
            if key in choices:
                fail(where, f"write {{name: {key}, ...}}, not {{{key}: ...}}")
        fail(where, f"needs a 'name' ({listed})")
    arguments = dict(node) if isinstance(node, dict) else {"name": node}
    name = arguments.pop("name")
    if not isinstance(name, str) or (concrete and ":" not in name):
        what = "mapping" if concrete else "name, or a mapping with 'name'"
        fail(where, f"expected a {what}, got {show(name)} ({listed})")
    return _named(base, name, _find(name, choices, where), arguments, where)


def _named(base: Any, name: str, target: Any, arguments: dict, where: str) -> Any:
    """What a named class, preset, function or object gives as a `base`."""
    functions = hints.takes_functions(base)
    if functions and inspect.isfunction(target):
        return _bind(target, name, arguments, where)
    plain = isinstance(base, type | types.UnionType) and not functions
    wanted = base if plain else object
    if isinstance(target, type):
        fits = issubclass(target, wanted)
    else:
        fits = callable(target) or isinstance(target, wanted)
    if not fits:
        fail(where, f"'{name}' is not a {_type(wanted)}")
    if dataclasses.is_dataclass(type(target)) and isinstance(target, wanted):
        return _edit(target, name, arguments, where)
    part = _call(target, name, arguments, where, base)
    if not isinstance(part, wanted):
        made = type(part).__name__
        fail(where, f"'{name}' makes a {made}, not a {_type(wanted)}")
    return part


def _find(name: str, choices: Registry, where: str) -> Any:
    if name in choices:
        return choices[name]
    package, dot, member = name.partition(".")
    if ":" in name:
        module, _, attribute = name.partition(":")
    elif dot and importlib.util.find_spec(f"unipost.{package}") is not None:
        module, attribute = f"unipost.{package}", member
    else:
        fail(where, unknown(name, choices, _listed(choices)))
    # The folder the user works in is importable however Python was started.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
    except Exception as error:
        problem = f"cannot import '{module}': {type(error).__name__}: {error}"
        raise ConfigError("", where, problem) from error
    for step in attribute.split("."):
        if not hasattr(found, step):
            names = [n for n in vars(found) if not n.startswith("_")]
            fail(where, unknown(step, names, f"not in module {module}"))
        found = getattr(found, step)
    return found


def _call(target: Any, label: str, arguments: dict, where: str, base: Any) -> Any:
    """Call a class or preset; arguments that it does not take edit what it returns."""
    takes = hints.takes(target)
    edits = {key: node for key, node in arguments.items() if key not in takes}
    missing = [k for k, v in takes.items() if v[1] is MISSING and k not in arguments]
    made = hints.returns(target, base)
    # Typos are found before anything is made, where the type made is known by then.
    if missing or isinstance(target, type) or dataclasses.is_dataclass(made):
        _refuse_unknown(edits, takes, made, label, where)
    for key in missing:
        fail(where, f"missing '{key}' ({takes_text(label, takes)})")
    built = {
        key: _build(takes[key][0], node, at(where, key), takes[key][1])
        for key, node in arguments.items()
        if key in takes
    }
    part = _guarded(target, built, where)
    _refuse_unknown(edits, takes, type(part), label, where)
    if not edits:
        return part
    final = _edit(part, label, edits, where)
    for key, value in built.items():
        if takes[key][1] is MISSING or value == takes[key][1]:
            continue
        rest = {k: v for k, v in built.items() if k != key}
        try:
            without = _edit(_guarded(target, rest, where), label, edits, where)
        except ConfigError:  # it takes the argument to make sense at all
            continue
        if without == final:
            problem = f"has no effect beside {', '.join(edits)}; drop one of them"
            fail(at(where, key), problem)
    return final


def _refuse_unknown(keys: Any, takes: Takes, made: Any, label: str, where: str) -> None:
    fields = hints.takes(made) if dataclasses.is_dataclass(made) else {}
    more = [field for field in fields if field not in takes]
    listed = takes_text(label, takes)
    if more:
        listed += f"; fields of {_label(made)}: {', '.join(more)}"
    for key in keys:
        if key not in more:
            fail(at(where, key), unknown(key, [*takes, *more], listed))


def _edit(part: Any, label: str, node: dict, where: str) -> Any:
    """The part with some fields built anew; a nested mapping edits the field's part."""
    takes = hints.takes(type(part))
    changes = {}
    for key, value in node.items():
        if key not in takes:
            fail(at(where, key), unknown(key, takes, takes_text(label, takes)))
        current = getattr(part, key)
        changes[key] = _build(takes[key][0], value, at(where, key), current)
    return _guarded(lambda **new: dataclasses.replace(part, **new), changes, where)


def _bind(function: Any, label: str, arguments: dict, where: str) -> Any:
    """A function used as a value: itself, or with its optional arguments set."""
    takes = {k: v for k, v in hints.takes(function).items() if v[1] is not MISSING}
    built = []
    for key, node in arguments.items():
        if key not in takes:
            fail(at(where, key), unknown(key, takes, takes_text(label, takes)))
        built.append((key, _build(takes[key][0], node, at(where, key), takes[key][1])))
    return Bound(function, tuple(built)) if built else function


def _guarded(target: Callable[..., Any], arguments: dict, where: str) -> Any:
    try:
        return target(**arguments)
    except ValueError as error:
        raise ConfigError("", where, str(error)) from error


def _label(kind: Any) -> str:
    for registry in CHOICES.values():
        for name, choice in registry.items():
            if choice is kind:
                return name
    return getattr(kind, "__name__", str(kind))


def _type(kind: Any) -> str:
    """The name of a class, as messages say what something should be."""
    if hints.is_union(kind):
        return " | ".join(map(_type, get_args(kind)))
    return getattr(kind, "__name__", str(kind))


def _listed(choices: Registry) -> str:
    names = f"one of {', '.join(choices)}; or " if choices else ""
    return f"{names}your own as module:name"
