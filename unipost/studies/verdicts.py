"""The verdicts of a results file, computed from its outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unipost.config import build
from unipost.studies.claims import Claim
from unipost.studies.judge import Judged, judge
from unipost.studies.sample import Sample

CLOSE = 1e-4
"""Relative difference of numbers that are the same: other machines add otherwise."""


def with_verdicts(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results whose claims have `found`, as computed from their outcomes now."""
    found = found_of(results)
    claims = {
        name: claim | {"found": found[name]}
        for name, claim in (results.get("claims") or {}).items()
    }
    return {**results, "claims": claims}


def found_of(results: Mapping[str, Any], n_boot: int = 10_000) -> dict[str, Any]:
    """{claim: what was found}, plain. Raises ValueError naming the claim.

    Of each: verdict, text, effects (label, estimate, low, high, and the bounds claimed;
    the weakest first), level, p, holm, paired, seeds, items, unit, censored, note.
    """
    trees = results.get("claims") or {}
    if not trees:
        return {}
    claims = {name: _claim(name, tree) for name, tree in trees.items()}
    sample = Sample(results, n_boot)
    for name, claim in claims.items():
        try:
            claim.test.check(sample.frame)
        except ValueError as error:
            raise ValueError(f"claims.{name}.test: {error}") from error
    late = [n for n, tree in trees.items() if tree.get("registered") == "after the run"]
    made = judge(claims, sample, late)
    return {n: _plain(made[n]) | {"text": claims[n].test.text()} for n in claims}


def _claim(name: str, tree: Mapping[str, Any]) -> Claim:
    from unipost.choices import REGISTRIES
    from unipost.config import CHOICES

    CHOICES.update(REGISTRIES)
    own = {k: v for k, v in tree.items() if k not in ("registered", "found")}
    return build(Claim, own, f"claims.{name}")


def _plain(made: Judged) -> dict[str, Any]:
    """A verdict as JSON has it, numbers to six digits, None for one that is missing."""
    tree = made._asdict()
    tree["effects"] = [[label, *map(_number, rest)] for label, *rest in made.effects]
    return tree | {k: _number(tree[k]) for k in ("level", "p", "holm", "paired")}


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def differences(stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What of the verdicts differs from those stored, one line each."""
    told = []
    for name, now in found.items():
        before = stored.get(name, {}).get("found")
        if before is None:
            told.append(f"{name}: no verdict is stored; it is {now['verdict']}")
        elif before["verdict"] != now["verdict"]:
            told.append(
                f"{name}: {before['verdict']} is stored, it is {now['verdict']}"
            )
        elif not _close(before["effects"], now["effects"]):
            told.append(
                f"{name}: {before['effects'][0][1:]} is stored, it is "
                f"{now['effects'][0][1:]}"
            )
    return told


def _close(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether the numbers of effects are the same; their labels do not count."""
    numbers = [[x for effect in some for x in effect[1:]] for some in (one, other)]
    if len(numbers[0]) != len(numbers[1]):
        return False
    return all(
        a == b
        if a is None or b is None
        else math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)
        for a, b in zip(*numbers, strict=True)
    )
