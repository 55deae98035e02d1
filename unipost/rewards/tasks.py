"""What of a reward can be called in the worker process, and what need not be."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

from unipost.config import Bound
from unipost.rewards.sandbox import Task

LIBRARY = "unipost."
UNBOUNDED: dict[tuple[str, str], tuple[str, ...]] = {
    ("unipost.rewards.correctness", "math"): ("math_verify",)
}
"""The library's own functions that may take for ever -> modules that they import."""


def unbound(reward: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function and the options that a config has set on it."""
    if isinstance(reward, Bound):
        return reward.function, dict(reward.arguments)
    return reward, {}


def safe(target: Any) -> bool:
    """Whether it is the library's own and known to end, so that it needs no limit."""
    if not inspect.isfunction(target) and not inspect.isclass(target):
        return False
    return target.__module__.startswith(LIBRARY) and _path(target) not in UNBOUNDED


def function_task(function: Callable[..., Any], options: dict[str, Any]) -> Task:
    """The call of a function that a module holds. Raises ValueError for another."""
    if not inspect.isroutine(function) or not _importable(function):
        raise ValueError(_refusal(function, "function"))
    path = _path(function)
    return Task(path, _sent(path[1], options), UNBOUNDED.get(path, ()))


def scorer_task(scorer: Any) -> Task:
    """The call of a scorer whose class a module holds. Raises ValueError for another.

    Its settings go with it.
    """
    if not _importable(type(scorer)):
        raise ValueError(_refusal(type(scorer), "class"))
    return Task(scorer=_sent(type(scorer).__name__, scorer))


def _sent(name: str, settings: Any) -> bytes:
    try:
        return pickle.dumps(settings)
    except Exception as error:
        raise ValueError(
            f"reward: the settings of {name} cannot be sent to another process "
            f"({error}); write time_limit: null"
        ) from error


def _path(target: Any) -> tuple[str, str]:
    return target.__module__, target.__qualname__


def _importable(target: Any) -> bool:
    """Whether another process finds it by its module and name."""
    module, name = _path(target)
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is target and module != "__main__"


def _refusal(target: Any, kind: str) -> str:
    name = getattr(target, "__qualname__", repr(target))
    return (
        f"reward: {name} is no {kind} of a module, so no other process can call it "
        "and stop it; move it to a module of its own, or write time_limit: null"
    )
