"""What stands behind an objective: exact, gradient-equal, conditional, biased.

    exact        value and gradient are those of the quantity named
    gradient     the gradient is; the value reported is another number
    conditional  exact if what the line says holds
    biased       not the quantity one would want, and why
    surrogate    a loss of its own; nothing is claimed

The lines follow from the parts of the object, never from the name of a preset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from unipost import advantages, baselines, corrections, links, signals, weights
from unipost.aggregation import Constant, Scaled, SequenceMean, SequenceSum, TokenMean
from unipost.classical import PearsonChi2, ReverseKL
from unipost.components import SumThenNormalise
from unipost.explain.fit_status import Status, fit_status
from unipost.mixed_groups import HybridMean, Outcome, content
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.objectives import AnyObjective
from unipost.pair_links import PairLink
from unipost.parts import concrete
from unipost.penalties import Penalty
from unipost.vocabulary import Distillation, Gem


def status(objective: AnyObjective) -> tuple[Status, ...]:
    """The lines of an objective, those of a mixture term by term.

    Facts and their checks: docs of `unipost.penalties`; 2505.17508 and 2510.01555 for
    the estimators, 2309.16240 for f-DPO, 1707.06347 for the clip.
    """
    return tuple(_lines(objective))


def _lines(objective: AnyObjective) -> Iterator[Status]:
    if isinstance(objective, Mixture):
        for k, term in enumerate(objective.terms):
            for line in _lines(term):
                yield line._replace(about=f"term {k} {line.about}")
        pair = [isinstance(getattr(t, "link", None), PairLink) for t in objective.terms]
        if any(pair) and not all(pair):
            line = "of objectives with different optima: the optimum of neither"
            yield Status("surrogate", "sum", line)
    elif isinstance(objective, Objective):
        yield from fit_status(objective)
        if _policy_gradient(objective):
            yield from _signal(content(objective.signal))
            yield from _aggregation(objective)
        for correction in objective.corrections:
            yield from _correction(correction)
        if objective.penalty is not None:
            yield from penalty_status(objective.penalty, objective.signal.token_rewards)
        if objective.entropy_bonus is not None:
            line = "entropy of pi at every state, the states held fixed"
            yield Status("exact", "entropy", line)
    else:
        yield from _vocabulary(objective)


def _vocabulary(objective: Any) -> Iterator[Status]:
    match objective:
        case Gem(h="linear"):
            line = "that of beta times the cross-entropy of the tempered pi^(1/beta)"
            yield Status("gradient", "fit", line)
        case Gem():
            yield Status("surrogate", "fit", "the weights h make it no cross-entropy")
        case Distillation(divergence=f):
            name = type(f).__name__
            line = f"{name} of policy and teacher at every state, the states held fixed"
            yield Status("exact", "fit", line)


def _policy_gradient(objective: Objective) -> bool:
    """Whether the fit is an advantage times something of log pi."""
    given = (signals.Ones, signals.Preference, signals.Zeros, signals.Desirability)
    if isinstance(content(objective.signal), (*given, advantages.Exponential)):
        return False
    others = (links.Residual, links.Balance, links.Contrast, links.Gain)
    return not isinstance(objective.link, (PairLink, *others))


def _signal(signal: signals.Signal) -> Iterator[Status]:
    """What the baseline and the scale of an advantage do to the policy gradient."""
    match signal:
        case SumThenNormalise(advantage=inner):
            yield from _signal(inner)
        case signals.ZScore():
            line = "1/std weighs prompts: the gradient of no single objective"
            yield Status("biased", "advantage", line)
        case signals.BatchZScore() | advantages.Standardised():
            line = "1/std of the batch scales the step; no single objective"
            yield Status("biased", "advantage", line)
        case Outcome():
            line = "no baseline: r = 1 and -1, of higher variance"
            yield Status("exact", "advantage", line)
        case HybridMean():
            line = "another baseline on a prefix than on what the policy sampled"
            yield Status("biased", "advantage", line)
        case signals.Mean():
            line = "a row in its own mean: (1 - 1/G) times the policy gradient"
            yield Status("exact", "advantage", line)
        case signals.LeaveOneOut() | signals.Raw() | baselines.GreedyBaseline():
            line = "no baseline that sees the row: unbiased"
            yield Status("exact", "advantage", line)
        case advantages.GAE(lam=lam):
            line = "unbiased if the critic is exact" + (
                "" if concrete(lam) == 1.0 else ", or lam = 1"
            )
            yield Status("conditional", "advantage", f"{line}; whitened")
        case advantages.Returns():
            line = "whitened: 1/std of the batch scales the step"
            yield Status("biased", "advantage", line)
        case advantages.Shifted():
            line = "the shift has no effect on average on policy; off policy it tilts"
            yield Status("conditional", "advantage", line)
        case advantages.OptimalValue():
            line = "V* if the reference's samples are many"
            yield Status("conditional", "advantage", line)


def _aggregation(objective: Objective) -> Iterator[Status]:
    """Only a sum over tokens and a mean over rows is the gradient of E[r]."""
    rule = objective.aggregation
    while isinstance(rule, Scaled):
        rule = rule.aggregation
    if objective.level != "token":
        return
    match rule:
        case SequenceMean():
            line = "1/length: long responses count less, right or wrong"
            yield Status("biased", "aggregation", line)
        case TokenMean():
            line = "divided by a random number of tokens: length-biased"
            yield Status("biased", "aggregation", line)
        case SequenceSum():
            yield Status("exact", "aggregation", "the policy gradient's own sum")
        case Constant():
            line = "a constant times the policy gradient's sum"
            yield Status("exact", "aggregation", line)


def _correction(correction: corrections.Correction) -> Iterator[Status]:
    match correction:
        case corrections.SamplerCorrection(weight=weight, level=level):
            cap = concrete(getattr(weight, "cap", math.inf))
            whole = isinstance(weight, weights.Truncate) and cap == math.inf
            if level == "sequence" and whole:
                line = "the sequence's ratio old/behavior: unbiased"
                yield Status("exact", "correction", line)
                return
            found = [] if whole else ["cut off"]
            found += [] if level == "sequence" else ["per token"]
            line = f"old/behavior {' and '.join(found)}: biased, of bounded variance"
            if whole:
                line = "old/behavior per token: exact where one token differs"
            yield Status("biased", "correction", line)
        case corrections.GivenWeight():
            yield Status("conditional", "correction", "as good as the weights given")
        case corrections.StaleMask() | corrections.TopEntropy():
            line = "leaves tokens or rows out: the gradient of the rest"
            yield Status("biased", "correction", line)
        case corrections.EntropyWeight():
            line = "weighs rows by the policy's own entropy: other rows than the data's"
            yield Status("biased", "correction", line)
        case corrections.Confidence():
            line = "weighs pairs by how likely the policy would write them"
            yield Status("biased", "correction", f"{line}: other pairs than the data's")


FROZEN = "states held fixed"


def penalty_status(penalty: Penalty, token_rewards: bool = False) -> Iterator[Status]:
    """Value and gradient of a penalty on the policy's own samples."""
    kl = isinstance(penalty.divergence, ReverseKL)
    d = "KL(pi || ref)" if kl else f"{type(penalty.divergence).__name__}(pi || ref)"
    if penalty.estimator == "in_reward":
        unit = "with the rewards to come" if token_rewards else "of the sequence"
        line = f"that of {d} {unit}, through the advantage; on fresh samples"
        yield Status("exact", "penalty gradient", line)
        return
    name = penalty.estimator if penalty.gradient == "own" else penalty.gradient
    where = f"{d} of the sequence" if penalty.level == "sequence" else f"{d}, {FROZEN}"
    yield _penalty_gradient(penalty, name, d, where)
    value = {
        "k3": "unbiased on the policy's samples",
        "importance_k3": "unbiased, samples of old included",
        "exact": "no sampling",
        "k1": "unbiased on the policy's samples" if kl else "",
    }.get(penalty.estimator)
    if value and penalty.bound is None:
        yield Status("exact", "penalty value", f"{d}: {value}")
    else:
        why = "a bounded estimate" if penalty.bound is not None else "another number"
        yield Status("gradient", "penalty value", f"{why}, not {d}")


def _penalty_gradient(penalty: Penalty, name: str, d: str, where: str) -> Status:
    """Whose gradient the estimator `name` has."""
    stale = "" if name.startswith("importance") else "; on fresh samples"
    match name:
        case "k2" | "exact":
            return Status("exact", "penalty gradient", f"that of {where}{stale}")
        case "importance_k2" | "importance_k3":
            return _weighted_gradient(penalty, name, d)
        case "to_go":
            line = f"that of the sum over tokens of {d}, states moving with pi{stale}"
            return Status("exact", "penalty gradient", line)
        case "k3" if isinstance(penalty.divergence, ReverseKL):
            line = "that of the forward KL(ref || pi), not of KL(pi || ref)"
        case "k3":
            line = f"that of D_h with h' = f' - f/u, not of {d}"
        case "k1" if isinstance(penalty.divergence, ReverseKL):
            line = "0 on average: it regularises nothing"
        case "k1" if isinstance(penalty.divergence, PearsonChi2):
            return Status("exact", "penalty gradient", f"that of {where}{stale}")
        case "k1":
            line = f"that of E_ref[u f' - f], not of {d}"
        case "abs" if isinstance(penalty.divergence, ReverseKL):
            line = f"twice that of the total variation, not that of {d}"
        case _:
            line = f"that of E_ref|u f' - f|, not of {d}"
    return Status("biased", "penalty gradient", line)


def _weighted_gradient(penalty: Penalty, name: str, d: str) -> Status:
    """Whose gradient an importance-weighted estimator has, and on which samples."""
    if penalty.importance == "sequence_mean":
        line = f"a geometric mean is no importance ratio: not that of {d}"
        return Status("biased", "penalty gradient", line)
    if penalty.level == "sequence":
        line = f"that of {d} of the sequence"
    elif penalty.importance == "token":
        line = f"that of {d}, the states of {penalty.over} held fixed"
    elif name == "importance_k2":
        line = f"that of {d}, {FROZEN}"
    else:
        line = f"that of the sum over tokens of {d}, states moving with pi"
    samples = "samples of old included" if penalty.over == "old" else "on fresh samples"
    return Status("exact", "penalty gradient", f"{line}; {samples}")
