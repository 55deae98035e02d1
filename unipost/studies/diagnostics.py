"""Numbers of the parameters at a point of a study's curve, beside the outcomes.

A diagnostic is a function of `Seen`, with its settings as arguments that have defaults;
`unipost.part` is not needed, its name in a config is that of `DIAGNOSTICS` or a dotted
path. What it gives has its name, followed by the settings written in the file:
`{name: task_kl, task: order}` is `task_kl_order` as `what` of a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unipost.analysis.weights import weight_distance
from unipost.distances import state_distances
from unipost.evaluation import Evaluation, Evaluator, Report, task_rows
from unipost.model import Params
from unipost.studies.frame import DISTANCES


@dataclass(frozen=True)
class Seen:
    """What a diagnostic looks at: `params` against those of the base.

    report  the evaluation at this point; its `distance` is that to the base
    """

    params: Params
    base: Params
    evaluator: Evaluator
    report: Report


Diagnostic = Callable[[Seen], float]
"""A number of the parameters, as a function of `Seen`."""


def weight_l1(seen: Seen) -> float:
    """sum |theta - theta_base| over all weights."""
    return weight_distance(seen.base, seen.params).l1


def weight_l2(seen: Seen) -> float:
    """sqrt(sum (theta - theta_base)^2) over all weights."""
    return weight_distance(seen.base, seen.params).l2


def weight_relative(seen: Seen) -> float:
    """`weight_l2` over the L2 norm of the base."""
    return weight_distance(seen.base, seen.params).relative


def weight_spectral(seen: Seen) -> float:
    """The largest singular value of theta - theta_base in any matrix."""
    return weight_distance(seen.base, seen.params).spectral


def weight_unchanged(seen: Seen) -> float:
    """Percent of weights with the same value as in the base."""
    return 100 * weight_distance(seen.base, seen.params).unchanged


def kl_reverse(seen: Seen) -> float:
    """KL(policy || base) per response on the task of `evaluation.distance`, nats."""
    return seen.report.distance["kl_reverse"]


def kl_forward(seen: Seen) -> float:
    """KL(base || policy) per response on the task of `evaluation.distance`, nats."""
    return seen.report.distance["kl_forward"]


def entropy(seen: Seen) -> float:
    """Mean token entropy of the policy on its own responses there, nats."""
    return seen.report.distance["entropy"]


def task_kl(
    seen: Seen, task: str = "", of: Literal["policy", "base"] = "policy"
) -> float:
    """KL from the sampler to the other model per response to the prompts of a task.

    of  policy: KL(policy || base) on responses of the policy; base: KL(base || policy)
        on those of the base. Exact per state, summed along one response per item.
    """
    evaluator = seen.evaluator
    sampler = seen.params if of == "policy" else seen.base
    rows = task_rows(evaluator.decoder, sampler, evaluator.tasks[task])
    policies = evaluator.decoder.policy, seen.params, seen.base
    found = state_distances(*policies, rows)
    return float((found.reverse if of == "policy" else found.forward).mean())


DIAGNOSTICS: dict[str, Diagnostic] = {
    "weight_l1": weight_l1,
    "weight_l2": weight_l2,
    "weight_relative": weight_relative,
    "weight_spectral": weight_spectral,
    "weight_unchanged": weight_unchanged,
    "kl_reverse": kl_reverse,
    "kl_forward": kl_forward,
    "entropy": entropy,
    "task_kl": task_kl,
}
"""Diagnostics by the names that a config gives them; others can be added."""


def named(diagnostics: Sequence[Any]) -> dict[str, Diagnostic]:
    """{name in the results: diagnostic}. Raises ValueError for one given twice."""
    found: dict[str, Diagnostic] = {}
    for diagnostic in diagnostics:
        arguments = dict(getattr(diagnostic, "arguments", ()))
        function = getattr(diagnostic, "function", diagnostic)
        known = {made: name for name, made in DIAGNOSTICS.items()}
        name = known.get(function, getattr(function, "__name__", str(function)))
        name = "_".join([name, *(str(value) for value in arguments.values())])
        if name in found:
            raise ValueError(f"diagnostics: {name!r} is there twice; write it once")
        found[name] = diagnostic
    return found


def check(diagnostics: Sequence[Any], evaluation: Evaluation) -> None:
    """Raises ValueError for diagnostics that the evaluation does not allow."""
    for name, diagnostic in named(diagnostics).items():
        arguments = dict(getattr(diagnostic, "arguments", ()))
        if name in DISTANCES and evaluation.distance is None:
            raise ValueError(
                f"diagnostics: {name} is measured on the task of evaluation.distance; "
                "write one"
            )
        task = arguments.get("task", "" if diagnostic is task_kl else None)
        if task is not None and task not in evaluation.tasks:
            raise ValueError(
                f"diagnostics: {name}: task {task!r} is none; write one of "
                f"{', '.join(evaluation.tasks)}"
            )
