"""Options of a family of functions that share one signature: read, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from unipost.parts import concrete


def read(
    where: str, chosen: str, target: Callable, given: Mapping[str, Any], defaults: dict
) -> dict[str, Any]:
    """Those of `given` that `target` takes, by name.

    Raises ValueError for another one that differs from its default: `where` names the
    caller and `chosen` the choice, as "mode gpg".
    """
    takes = [name for name in signature(target).parameters if name in defaults]
    for name, default in defaults.items():
        value = given[name]
        same = value is default or (default is not None and concrete(value) == default)
        if name not in takes and not same:
            raise ValueError(
                f"{where}.{name}: {chosen} does not read it; leave it out "
                f"(it reads {', '.join(takes) or 'no option'})"
            )
    return {name: given[name] for name in takes}
