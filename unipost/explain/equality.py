"""Which presets an objective is, found by comparing objects, never by name.

Presets are called with arguments fitted to the object: an argument is read off the
setting that it changes. Two objects are equal when their normal forms are.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

from unipost.classical import ReverseKL
from unipost.divergence import Divergence
from unipost.explain.canonical import Notion, Tree, tree
from unipost.explain.spelling import number_text
from unipost.links import Matching
from unipost.objective import Objective
from unipost.objectives import AnyObjective, terms
from unipost.parts import concrete
from unipost.presets import PRESETS

Kind = Literal["equal", "equal in gradient", "differs"]
Arguments = dict[str, Any]
KINDS: tuple[tuple[Notion, Kind], ...] = (
    ("value", "equal"),
    ("gradient", "equal in gradient"),
)
# how many presets have their arguments fitted: always, and while none is equal
CLOSEST, FARTHEST = 6, 16
MOST = 4  # differences that are printed
PROBE = 0.6180339887  # for an argument whose default is None
# settings that matter on some batches only, and on which they do not
SOFT = {
    "clamp": "",
    "empty": "no row is empty",
    "alone": "every group has two scored rows",
}


class Equality(NamedTuple):
    """What `equals` found about one preset.

    kind        equal; equal in gradient, with another value; or differs
    preset      its name
    arguments   those that are not the defaults
    where       the condition under which it holds; "" for none
    differences (setting, its value in the preset, its value here), for kind differs
    """

    kind: Kind
    preset: str
    arguments: Arguments
    where: str = ""
    differences: tuple[tuple[str, str, str], ...] = ()

    def call(self) -> str:
        """The preset as one would write it."""
        given = ", ".join(f"{k}={shown(v)}" for k, v in self.arguments.items())
        return f"{self.preset}({given})"

    def __str__(self) -> str:
        where = f", where {self.where}" if self.where else ""
        if self.kind != "differs":
            return f"{self.kind}: {self.call()}{where}"
        first = [f"{k} {a} -> {b}" for k, a, b in self.differences[:MOST]]
        more = len(self.differences) - MOST
        rest = [f"and {more} more"] if more > 0 else []
        return f"{self.call()} differs in: {', '.join(first + rest)}"


def equals(objective: AnyObjective) -> tuple[Equality, ...]:
    """Every preset that `objective` is in value, then those it is in gradient alone.

    The nearest preset with what differs, as the only entry, where there is none.
    """
    found: list[Equality] = []
    for notion, kind in KINDS:
        done = {x.preset for x in found}
        for name, arguments, distance in _nearest(objective, notion):
            if distance == 0 and name not in done:
                where = _condition(objective, PRESETS[name](**arguments), notion)
                given = _not_default(name, arguments)
                found.append(Equality(kind, name, given, where))
    if found:
        return tuple(found)
    name, arguments, _ = _nearest(objective, "value")[0]
    preset = PRESETS[name](**arguments)
    changes = tuple(differences(preset, objective))
    given = _not_default(name, arguments)
    return (Equality("differs", name, given, "", changes),)


def shown(value: Any) -> str:
    """A setting in a line: a number, a name, or a part with its settings."""
    known = concrete(value) if not _text(value) else None
    if known is not None:
        return number_text(known)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return f"{type(value).__name__}({', '.join(map(shown, fields.values()))})"
    return str(value)


def differences(one: Any, other: Any) -> Iterator[tuple[str, str, str]]:
    """(setting, its value in `one`, in `other`); a part of another class as a whole."""
    yield from _differences(one, other, "")


def _differences(one: Any, other: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _differences(a, b, f"{path}.{k}")
    elif type(one) is type(other) and dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            if field.name != "waived":
                name = f"{path}.{field.name}" if path else field.name
                pair = getattr(one, field.name), getattr(other, field.name)
                yield from _differences(*pair, name)
    elif not _same(one, other):
        yield path or "object", shown(one), shown(other)


def _same(a: Any, b: Any) -> bool:
    x, y = (None if _text(v) else concrete(v) for v in (a, b))
    if x is not None and y is not None:
        return math.isclose(x, y, rel_tol=1e-9)
    if hasattr(a, "ndim") or hasattr(b, "ndim"):
        return a is b
    return a == b


def _distance(one: Tree, other: Tree) -> int:
    """How many settings differ, `SOFT` left out.

    A part of another class counts once, one that is missing with all its settings: no
    penalty is farther away than another penalty.
    """
    keys = [k for k in (one | other) if not _soft(k)]
    wrong = {k for k in keys if not _same(one.get(k, _ABSENT), other.get(k, _ABSENT))}
    both = {k for k in wrong if None not in (one.get(k), other.get(k))}
    return sum(not _inside(k, both) for k in wrong)


_ABSENT = "absent"


def _soft(path: str) -> bool:
    return path.rpartition(".")[2] in SOFT


def _inside(path: str, wrong: set[str]) -> bool:
    """Whether a part that holds this setting is another one already."""
    steps = path.split(".")
    return any(".".join(steps[:k]) in wrong for k in range(1, len(steps)))


def _nearest(
    objective: AnyObjective, notion: Notion
) -> list[tuple[str, Arguments, int]]:
    """(preset, fitted arguments, distance), nearest first."""
    target = tree(objective, notion)
    pool = list({repr(part): part for part in _parts(objective)}.values())
    starts = []
    for name, make in PRESETS.items():
        arguments = _start(make, pool)
        if _not_default(name, arguments):
            distance = _distance_of(make, arguments, target, notion)
        else:
            distance = _distance(_default_tree(name, notion), target)
        if distance is not None:
            starts.append((distance, name, arguments))
    starts.sort(key=lambda found: found[0])
    fitted = []
    for k, (distance, name, arguments) in enumerate(starts[:FARTHEST]):
        if k >= CLOSEST and any(distance == 0 for _, _, distance in fitted):
            break
        best = _fit(PRESETS[name], arguments, distance, target, pool, notion)
        fitted.append((name, *best))
    return sorted(fitted, key=lambda found: (found[2], len(_not_default(*found[:2]))))


def _parts(value: Any) -> Iterator[Any]:
    """Every part inside an objective, itself left out."""
    children = value if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        children = [getattr(value, f.name) for f in dataclasses.fields(value)]
    for child in children:
        if dataclasses.is_dataclass(child):
            yield child
        yield from _parts(child)


@functools.cache
def _default_tree(name: str, notion: Notion) -> Tree:
    return tree(PRESETS[name](), notion)


@functools.cache
def _signature(make: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(make, eval_str=True).parameters)


def _start(make: Callable, pool: list[Any]) -> Arguments:
    """The defaults, and something for every argument without one."""
    found = {}
    for name, parameter in _signature(make).items():
        if parameter.default is not parameter.empty:
            found[name] = parameter.default
        elif parameter.annotation is Divergence:
            own = [x.divergence for x in pool if isinstance(x, Matching)]
            found[name] = own[0] if own else ReverseKL()
        else:
            found[name] = 1.0
    free = [name for name, value in found.items() if value is None]
    if free and _made(make, found) is None:  # one of them is needed
        for name in free:
            if _made(make, found | {name: 1.0}) is not None:
                return found | {name: 1.0}
    return found


def _made(make: Callable, arguments: Arguments) -> AnyObjective | None:
    try:
        return make(**arguments)
    except ValueError:
        return None


def _distance_of(
    make, arguments: Arguments, target: Tree, notion: Notion
) -> int | None:
    made = _made(make, arguments)
    return None if made is None else _distance(tree(made, notion), target)


def _fit(make, arguments: Arguments, distance: int, target: Tree, pool, notion: Notion):
    """Arguments changed one at a time while that brings the object nearer."""
    improved = True
    while improved and distance:
        improved = False
        for name in arguments:
            for value in _candidates(make, name, arguments, target, pool, notion):
                for changed in _changes(make, arguments, name, value):
                    found = _distance_of(make, changed, target, notion)
                    if found is not None and found < distance:
                        arguments, distance, improved = changed, found, True
    return arguments, distance


def _changes(make: Callable, arguments: Arguments, name: str, value: Any):
    """One argument changed; if that is refused, another one left out as well."""
    changed = arguments | {name: value}
    if _made(make, changed) is not None:
        return [changed]
    parameters = _signature(make)
    free = [k for k in arguments if k != name and parameters[k].default is None]
    return [changed | {k: None} for k in free]


def _candidates(make, name, arguments: Arguments, target: Tree, pool, notion: Notion):
    """Values of an argument worth trying, by its type."""
    hint = _signature(make)[name].annotation
    members = get_args(hint) or (hint,)
    if all(isinstance(m, str) for m in members):
        return list(members)
    if hint is int:
        return [0, 1]
    types = tuple(m for m in members if isinstance(m, type) and m not in (int, float))
    found = [x for x in pool if isinstance(x, types)] if types else []
    if type(None) in members:
        found.append(None)
    if float in members:
        found += _read_off(make, name, arguments, target, notion)
    return found


def _read_off(make, name, arguments: Arguments, target: Tree, notion: Notion):
    """Numbers for an argument, from the settings of the target that it changes."""
    value = arguments[name]
    start = PROBE if concrete(value) is None else float(value)
    if start == 0.0 or math.isinf(start):
        start = PROBE
    near, far = (_made(make, arguments | {name: start * x}) for x in (1.0, 0.95))
    if near is None or far is None:
        return []
    one, other = tree(near, notion), tree(far, notion)
    found = []
    for path, y in one.items():
        wanted = target.get(path)
        numbers = isinstance(y, float) and isinstance(wanted, float)
        if not numbers or _same(y, other.get(path, _ABSENT)):
            continue
        if y and wanted:  # proportional to the setting, or to its inverse
            found += [start * wanted / y, start * y / wanted]
    return [x for x in found if not math.isnan(x)]


def _not_default(name: str, arguments: Arguments) -> Arguments:
    defaults = {k: p.default for k, p in _signature(PRESETS[name]).items()}
    return {k: v for k, v in arguments.items() if not _same(v, defaults[k])}


def _condition(objective: AnyObjective, preset: AnyObjective, notion: Notion) -> str:
    """What the comparison has left open: `SOFT` settings, total variation's kink."""
    one, other = tree(objective, notion), tree(preset, notion)
    keys = [k for k in (one | other) if _soft(k)]
    differ = [k for k in keys if not _same(one.get(k, _ABSENT), other.get(k, _ABSENT))]
    found = []
    for key in differ:
        bounds = [concrete(t.get(key)) for t in (one, other) if not _text(t.get(key))]
        finite = [b for b in bounds if b is not None and math.isfinite(b)]
        least = f"|log u| <= {number_text(min(finite))}" if finite else "no clamp binds"
        found.append(SOFT[key.rpartition(".")[2]] or least)
    pairs = zip(terms(objective), terms(preset), strict=True)
    for kinds in ([_matching(x) for x in pair] for pair in pairs):
        if notion == "gradient" and kinds.count(True) == 1:
            found.append("r = beta log(pi/ref) < 1/2")
    return " and ".join(dict.fromkeys(found))


def _text(value: Any) -> bool:
    return isinstance(value, str | bool)


def _matching(term: Any) -> bool:
    return isinstance(term, Objective) and isinstance(term.link, Matching)
