"""Type hints read at run time: what a callable takes, and plain values by their type.

Floor of `unipost.config`. Every refusal is a ConfigError at a dotted key `where`.
"""

import collections.abc
import dataclasses
import difflib
import functools
import inspect
import math
import operator
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from unipost.tree import ConfigError

MISSING = dataclasses.MISSING
Takes = dict[str, tuple[Any, Any]]  # argument -> (type, default or MISSING)

_PLAIN = {
    int: "a whole number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "nothing",
}
PLAIN = frozenset(_PLAIN)


def fail(where: str, problem: str) -> NoReturn:
    """Raise ConfigError at a key; the file is filled in by the caller of `build`."""
    raise ConfigError("", where, problem)


def at(where: str, key: Any) -> str:
    """The dotted key one level down."""
    return f"{where}.{key}" if where else str(key)


def show(node: Any) -> str:
    """A node as messages name it."""
    if isinstance(node, dict | list):
        return "a mapping" if isinstance(node, dict) else "a list"
    return "nothing" if node is None else repr(node)


def unknown(word: Any, options: Iterable[str], listed: str) -> str:
    """`unknown 'betta'; did you mean 'beta'? (listed)`."""
    close = difflib.get_close_matches(str(word), list(options), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown '{word}'{hint} ({listed})"


def takes_text(label: str, takes: Iterable[str]) -> str:
    """`dpo takes beta, divergence`."""
    return f"{label} takes {', '.join(takes) or 'nothing'}"


def takes(target: Any) -> Takes:
    """What a dataclass, class or function takes by keyword, with types and defaults."""
    if dataclasses.is_dataclass(target):
        hints = get_type_hints(target)
        return {
            field.name: (hints[field.name], _default(field))
            for field in dataclasses.fields(target)
            if field.init
        }
    empty, found = inspect.Parameter.empty, {}
    for p in inspect.signature(target, eval_str=True).parameters.values():
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            hint = Any if p.annotation is empty else p.annotation
            found[p.name] = (hint, MISSING if p.default is empty else p.default)
    return found


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def returns(target: Any, otherwise: Any) -> Any:
    """What calling `target` makes: the class, or the annotated return type."""
    if isinstance(target, type):
        return target
    returned = inspect.signature(target, eval_str=True).return_annotation
    return otherwise if returned is inspect.Signature.empty else returned


def item_kinds(kind: Any, count: int) -> list[Any]:
    """The types of the items of a tuple or list type that holds `count` of them."""
    args = get_args(kind)
    if len(args) == 1 and (get_origin(kind) is list) or args[-1:] == (Ellipsis,):
        return [args[0]] * count
    return list(args) if args else [Any] * count


def value_kind(kind: Any) -> Any:
    """The type of the values of a mapping type."""
    return (get_args(kind) or (Any, Any))[1]


def is_mapping(kind: Any) -> bool:
    """Whether a hint is dict, dict[...] or Mapping[...]."""
    return (get_origin(kind) or kind) in (dict, collections.abc.Mapping)


def is_union(kind: Any) -> bool:
    """Whether a hint is `X | Y` or Optional[X]."""
    return get_origin(kind) in (Union, types.UnionType)


def without_none(kind: Any) -> Any:
    """A union without None; any other hint as it is."""
    if not is_union(kind):
        return kind
    members = [m for m in get_args(kind) if m is not type(None)]
    return functools.reduce(operator.or_, members)


def takes_functions(kind: Any) -> bool:
    """Whether a hint is Callable[...], or a union with one."""
    members = get_args(kind) if is_union(kind) else (kind,)
    return any(get_origin(m) is collections.abc.Callable for m in members)


def member(kind: Any, value: Any) -> Any:
    """The member of a union that holds `value`; any other hint as it is."""
    if not is_union(kind):
        return kind
    for arg in get_args(kind):
        origin = get_origin(arg) or arg
        if isinstance(origin, type) and isinstance(value, origin):
            return arg
    return type(value)


def number(node: Any, where: str, infinite: bool = False) -> float:
    """A float from a number or its text, `1e-6` included; never NaN."""
    try:
        if isinstance(node, bool) or not isinstance(node, int | float | str):
            raise ValueError
        value = float(node)
    except (ValueError, OverflowError):
        fail(where, f"expected a number, got {show(node)}")
    if math.isnan(value) or (math.isinf(value) and not infinite):
        fail(where, f"expected a finite number, got {show(node)}")
    return value


def plain(kind: Any, node: Any, where: str) -> Any:
    """An int, bool, text, path or None; `1e3` is a whole number, `true` is not."""
    if kind is int and isinstance(node, float) and node.is_integer():
        return int(node)
    if kind is Path and isinstance(node, str):
        return Path(node)
    if not isinstance(node, kind) or (kind is int and isinstance(node, bool)):
        fail(where, f"expected {_PLAIN[kind]}, got {show(node)}")
    return node
