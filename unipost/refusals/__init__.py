"""Combinations without meaning, refused where an objective is made.

Each rule looks at one objective (or at one score of it) and returns one line, or None:
where, what, and what to write instead. The rules are data, so that docs and tests can
list them; `unipost.refusals.examples` holds one of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from unipost.refusals.objectives import FIT_RULES
from unipost.refusals.pairs import PAIR_RULES
from unipost.refusals.scores import SCORE_RULES

if TYPE_CHECKING:
    from unipost.objective import Objective

OBJECTIVE_RULES: tuple[Callable[[Objective], str | None], ...] = (
    *PAIR_RULES,
    *FIT_RULES,
)


def refusals(objective: Objective) -> Iterator[tuple[str, str]]:
    """(name of the rule, one line) for every reason that `objective` has no meaning."""
    for rule in OBJECTIVE_RULES:
        if reason := rule(objective):
            yield rule.__name__, reason
    for prefix, score in (("", objective), ("off_policy.", objective.off_policy)):
        for rule in SCORE_RULES if score is not None else ():
            if score is not None and (reason := rule(score)):
                yield rule.__name__, prefix + reason


def check(objective: Objective) -> None:
    """Raise ValueError with the first refusal that is not waived."""
    found = list(refusals(objective))
    for name, reason in found:
        if name not in objective.waived:
            raise ValueError(f"objective.{reason}")
    for name in objective.waived:
        if name not in {rule for rule, _ in found}:
            raise ValueError(
                f"objective.waived: {name} refuses nothing here; leave it out"
            )
