"""Functions of optax by name, and their arguments checked against the signature."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import optax
import optax.contrib

Plain = bool | int | float | str | tuple[float, ...] | None
"""What an argument may be in a config."""


@jax.tree_util.register_static
class Settings(dict[str, Plain]):
    """A mapping that is part of the jit cache key: its values are not traced."""

    def __hash__(self):
        return hash(tuple(sorted(self.items())))


def function_of(where: str, name: str, known: Iterable[str]) -> Callable[..., Any]:
    """The function of optax, or of optax.contrib. Raises ValueError for others."""
    if name not in known:
        raise ValueError(f"{where}: {unknown(name, known, 'one of')}")
    return getattr(optax, name, None) or getattr(optax.contrib, name)


def unknown(word: str, options: Iterable[str], listed: str) -> str:
    """`unknown 'lam'; did you mean 'lamb'? (one of ...)`."""
    near = difflib.get_close_matches(word, list(options), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {word!r}{hint} ({listed} {', '.join(options) or 'nothing'})"


def takes(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function by name."""
    return dict(inspect.signature(function).parameters)


def check_arguments(
    where: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    reserved: Mapping[str, str],
) -> None:
    """Refuse arguments that `function` does not take, or that are written elsewhere.

    `reserved` gives the way to write an argument that is no business of `arguments`.
    Raises ValueError naming the argument, with the nearest that there is.
    """
    parameters = takes(function)
    free = [name for name in parameters if name not in reserved]
    for name, value in arguments.items():
        if name in reserved and name in parameters:
            raise ValueError(f"{where}.{name}: {reserved[name]}")
        if name not in free:
            listed = f"{function.__name__} takes"
            raise ValueError(f"{where}.{name}: {unknown(name, free, listed)}")
        _check_kind(f"{where}.{name}", value, parameters[name].default)
    for name in free:
        needed = parameters[name].default is inspect.Parameter.empty
        if needed and name not in arguments:
            raise ValueError(f"{where}: {function.__name__} needs {name!r}; write it")


def _check_kind(where: str, value: Any, default: Any) -> None:
    """Refuse text or a truth value for a number, and a number for a truth value."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{where}: {value!r}; write true or false")
    elif isinstance(default, int | float) and isinstance(value, bool | str):
        raise ValueError(f"{where}: {value!r} is not a number")
