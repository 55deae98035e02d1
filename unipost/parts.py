"""Parts: frozen dataclasses that are also JAX pytrees.

Every swappable piece of an objective is a part. Its numeric settings are pytree
leaves, so one part can hold a Python float, a traced value or a batch of values: a
sweep over beta or a clip bound compiles once and can be vmapped. Names, integers and
choices are static and take part in the jit cache key.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import jax
import jax.core
import numpy as np

Scalar = float | jax.Array
"""A numeric setting: a Python number or a (possibly traced, possibly batched) array."""

C = TypeVar("C", bound=type)


class Varying(ABC):
    """What stands for a number and has another value from step to step."""

    @abstractmethod
    def ends(self) -> tuple[Scalar, ...]:
        """Numbers between which all values lie, the last one first."""

    @abstractmethod
    def at(self, step: int | jax.Array) -> Scalar:
        """The value at 0-based `step`."""


_STATIC = (str, int, bool, Path, type(None))


def _is_static(hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return True
    if origin in (Union, UnionType, tuple):
        return all(_is_static(h) for h in get_args(hint) if h is not Ellipsis)
    return hint in _STATIC


@dataclass_transform(frozen_default=True)
def part(cls: C) -> C:
    """Make `cls` a frozen dataclass and register it as a pytree.

    Fields annotated `str`, `int`, `bool` or `Literal[...]` are static; all others
    (numbers, arrays, nested parts, None) are children. Rebuilding inside a JAX
    transformation skips `__post_init__`, so checks run once, where the part is made. A
    number that varies is checked at its ends, by making the part with each of them. A
    choice that `Literal` does not name is refused.
    """
    check = "__post_init__"
    own = _at_ends(vars(cls)[check]) if check in vars(cls) else None

    def __post_init__(self):
        _check_choices(self, choices)
        if own is not None:
            own(self)
        elif inherited is not None:
            inherited(self)

    inherited = getattr(cls, check, None) if own is None else None
    setattr(cls, check, __post_init__)
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    hints = get_type_hints(cls)
    choices = {f.name: _choices(hints[f.name]) for f in fields}
    static = [f.name for f in fields if _is_static(hints[f.name])]
    children = [f.name for f in fields if f.name not in static]

    def flatten_with_keys(obj):
        leaves = [(jax.tree_util.GetAttrKey(n), getattr(obj, n)) for n in children]
        return leaves, tuple(getattr(obj, n) for n in static)

    def flatten(obj):
        leaves = [getattr(obj, n) for n in children]
        return leaves, tuple(getattr(obj, n) for n in static)

    def unflatten(aux, leaves):
        obj = object.__new__(cls)
        for name, value in zip(static, aux, strict=True):
            object.__setattr__(obj, name, value)
        for name, value in zip(children, leaves, strict=True):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _choices(hint: Any) -> tuple[Any, ...]:
    """All values that a field may have, () where it is no choice between names."""
    origin = get_origin(hint)
    if origin is Literal:
        return get_args(hint)
    if origin in (Union, UnionType):
        each = [(None,) if h is type(None) else _choices(h) for h in get_args(hint)]
        return sum(each, ()) if all(each) else ()
    return ()


def _check_choices(self: Any, choices: dict[str, tuple[Any, ...]]) -> None:
    for name, known in choices.items():
        value = getattr(self, name)
        if known and value not in known:
            where = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()
            listed = ", ".join(map(str, known))
            raise ValueError(f"{where}.{name}: {value!r} is none of {listed}")


def _at_ends(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """`check`, and that of the part with the ends of its varying numbers.

    A schedule may end at 0 where the class lists the field in `vanishing`: a weight of
    which 0 alone would be refused as one that does nothing.
    """

    def __post_init__(self):
        check(self)
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        ends = {n: v.ends() for n, v in held.items() if isinstance(v, Varying)}
        for name in ends.keys() & set(getattr(self, "vanishing", ())):
            ends[name] = tuple(x for x in ends[name] if concrete(x) != 0.0)
        for k in range(max(map(len, ends.values()), default=0)):
            plain = {n: v[min(k, len(v) - 1)] for n, v in ends.items()}
            dataclasses.replace(self, **plain)

    return __post_init__


def concrete(value: Any) -> float | None:
    """`value` as a float when it is one known number, else None (traced, batched)."""
    if isinstance(value, jax.core.Tracer) or value is None:
        return None
    if isinstance(value, (int, float, np.number)):
        return float(value)
    return float(value) if getattr(value, "ndim", 1) == 0 else None


def require(where: str, value: Any, ok: bool | None, what: str) -> None:
    """Raise `ValueError("<where>: <value> ...")` when a known number is out of range.

    `ok` is evaluated by the caller on `concrete(value)`; traced values pass, because
    their range is not known while a function is being compiled.
    """
    other = dataclasses.is_dataclass(value) and not isinstance(value, Varying)
    if value is None or isinstance(value, str) or other:
        raise ValueError(f"{where}: {value!r} is not a number")
    known = concrete(value)
    if known is not None and (math.isnan(known) or not ok):
        raise ValueError(f"{where}: {known:g} {what}")


def in_range(
    where: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    what: str,
    infinite: bool = False,
) -> None:
    """Refuse a known number outside the open interval (low, high).

    `infinite` says that inf is meant as a value, "no bound".
    """
    known = concrete(value)
    inside = known is None or low < known < high or (infinite and known == math.inf)
    require(where, value, inside, what)
