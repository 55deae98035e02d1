"""Which checkpoints of a run stay: the newest by count, and the best by a number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Best:
    """Also keep the checkpoints at which a number was best.

    metric  a number of evaluation.jsonl: TASK/greedy, kl_reverse, held_out/loss, ...
    mode    whether more is better (max) or less (min)
    keep    how many of them stay
    """

    metric: str
    mode: Literal["max", "min"]
    keep: int = 1

    def __post_init__(self):
        if self.keep < 1:
            raise ValueError(f"checkpoints.best.keep: {self.keep}; write 1 or more")


def best_first(numbers: Mapping[int, float], best: Best) -> list[int]:
    """Steps from the best to the worst number; of equal ones the earlier first.

    A number that is not finite is none.
    """
    sign = -1.0 if best.mode == "max" else 1.0
    finite = {step: x for step, x in numbers.items() if math.isfinite(x)}
    return sorted(finite, key=lambda step: (sign * finite[step], step))


def kept_steps(
    steps: Sequence[int], numbers: Mapping[int, float], keep: int, best: Best | None
) -> set[int]:
    """Those of `steps` that stay: the newest `keep`, and the best of those measured."""
    kept = set(sorted(steps)[-keep:])
    if best is None:
        return kept
    there = {step: numbers[step] for step in steps if step in numbers}
    return kept | set(best_first(there, best)[: best.keep])


@dataclass(frozen=True)
class Policy:
    """`kept_steps` as Orbax asks for it; `numbers` grows as the run goes on."""

    numbers: Mapping[int, float]
    keep: int
    best: Best | None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any = None
    ) -> Sequence[bool]:
        """One answer for each checkpoint, in order."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = kept_steps(steps, self.numbers, self.keep, self.best)
        return [step in kept for step in steps]


def check_best(
    best: Best,
    every: int,
    steps: int,
    tasks: Collection[str],
    measured: Mapping[str, int | None],
) -> None:
    """Refuse a best number that no save before the last one can have.

    `measured` has `evaluation` and `held_out`, as far as the run has them, with how
    often they are measured; `tasks` are those of the evaluation. Raises ValueError.
    """
    group, slash, _ = best.metric.partition("/")
    part = "held_out" if group == "held_out" else "evaluation"
    where = f"checkpoints.best.metric: {best.metric!r}"
    if part not in measured:
        raise ValueError(f"{where} is never measured; write {part}, or leave best out")
    if part == "evaluation" and slash and group not in tasks:
        raise ValueError(
            f"{where} is of no task; write one of {', '.join(tasks)}, as in TASK/greedy"
        )
    often = measured[part]
    if often is None or math.lcm(often, every) >= steps:
        raise ValueError(
            f"{where} is measured at no save before the last ({part}.every "
            f"{often or 'null'}, checkpoints.every {every}, steps {steps}); write "
            f"{part}.every: {every}"
        )
