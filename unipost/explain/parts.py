"""Weights, treatments, corrections, reference points, signals, aggregations, penalties.

Each as a `Said`: an expression where there is one, and what no formula says. A part of
one's own is its name and the first line of its docstring.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from unipost import (
    advantages,
    aggregation,
    baselines,
    corrections,
    mixed_groups,
    signals,
    weights,
)
from unipost.components import SumThenNormalise
from unipost.explain.divergences import of_divergence
from unipost.explain.expression import Expression, formula, of_part, text
from unipost.explain.links import Definition, first_line
from unipost.parts import concrete
from unipost.penalties import Penalty
from unipost.ratios import GeometricClip, LengthDesensitised, Ratio, SequenceToken
from unipost.reference_points import MismatchedMean, ReferencePoint
from unipost.weights import Weight


class Said(NamedTuple):
    """An expression or None, a note, and what the symbols stand for."""

    expression: Expression | None
    note: str = ""
    where: tuple[Definition, ...] = ()


def own(part: Any) -> Said:
    """A part without a formula: its name and the first line of its docstring."""
    line = first_line(part)
    return Said(None, f"{type(part).__name__}{': ' if line else ''}{line}")


def derived(part: Any) -> bool:
    """Whether a part is a subclass of another one, which may do something else."""
    return not inspect.isabstract(type(part).__mro__[1])


LEVELS = {
    "token": "x",
    "sequence": "prod_t(x)",
    "sequence_mean": "prod_t(x)**(1/n)",
}


def of_ratio(anchor: str, level: str) -> Expression:
    """policy/anchor on the units of a level."""
    short = {"reference": "ref", "self": "sg(pi)"}.get(anchor, anchor)
    token = formula("pi" if anchor == "none" else f"pi/{short}")
    return formula(LEVELS[level], x=token)


def of_weight(weight: Weight, v: Expression, anchor: str = "") -> Said:
    """A weight of the ratio `v`; a bare probability (anchor none) is at most 1."""
    if derived(weight):
        return own(weight)
    match weight:
        case weights.Truncate(floor=floor, cap=cap):
            source = "min(max(v**power, floor), cap)"
            source = "min(v**power, cap)" if concrete(floor) == 0.0 else source
            if anchor == "none" and (concrete(cap) or 0.0) >= 1.0:
                source = "v**power"
            return Said(of_part(source, weight, v=v))
        case weights.Mask(floor=floor) | weights.Keep(floor=floor):
            source = "v*" if isinstance(weight, weights.Mask) else ""
            if concrete(floor) != 0.0:
                source += "indicator(v >= floor)*"
            return Said(of_part(source + "indicator(v <= cap)", weight, v=v))
        case weights.NegativeTruncate():
            return Said(of_part("min(v, cap) if A < 0 else 1", weight, v=v))
        case weights.Bernoulli():
            return Said(
                formula("v*(1 - v)" if anchor == "none" else "v*max(1 - v, 0)", v=v)
            )
        case weights.GammaWeight():
            up, down = (f"v**k_{s}*exp(rate_{s}*(1 - v))" for s in ("pos", "neg"))
            return Said(of_part(f"{up} if A >= 0 else {down}", weight, v=v))
    return own(weight)


def of_treatment(ratio: Ratio) -> Said:
    """log u_t after the treatment."""
    if derived(ratio):
        return own(ratio)
    match ratio:
        case GeometricClip():
            source = "min(log(u_t), high) if A > 0 else max(log(u_t), -low)"
            return Said(of_part(source, ratio))
        case LengthDesensitised():
            source = "log(u_t) if t <= n_min else share*log(u_t)"
            return Said(of_part(source, ratio), "n_min the shorter length of the pair")
        case SequenceToken():
            return Said(formula("sg(mean_t(log(u_t))) + log(u_t) - sg(log(u_t))"))
    return own(ratio)


def of_correction(correction: corrections.Correction) -> Said:
    """The detached weight c of the loss."""
    if derived(correction):
        return own(correction)
    match correction:
        case corrections.SamplerCorrection(weight=weight, level=level):
            ratio = formula(LEVELS[level], x=formula("old/behavior"))
            return of_weight(weight, ratio)
        case corrections.GivenWeight():
            return Said(formula("importance"), "computed elsewhere")
        case corrections.StaleMask(over=over):
            drift = f"mean_t(log({over}/pi))"
            source = f"1 - indicator(A < 0)*indicator({drift} > threshold)"
            return Said(of_part(source, correction))
        case corrections.TopEntropy(share=share, of=of):
            kept = text(formula("100*share", share=share))
            where = "; 1 on all others" if of == "off_policy" else ""
            where = f" of flagged tokens{where}" if where else ""
            note = f"the {kept} % highest entropies{where}"
            return Said(formula("indicator(H >= H_q)"), note)
        case corrections.EntropyWeight(rows=rows):
            source = "scale*exp(slope*mean_t(H))"
            source += " if A > 0 else 1" if rows == "positive" else ""
            return Said(of_part(source, correction), "H the entropy of pi at a token")
        case corrections.Confidence():
            return Said(formula("exp(mean_t(log(pi) - log(sum_v(pi_v**2))))"))
    return own(correction)


def of_point(point: ReferencePoint) -> Said:
    """The reference point z_0, in units of log u."""
    if isinstance(point, MismatchedMean):
        note = "over mismatched pairs of prompt and response"
        return Said(formula("max(0, mean_B(log(u)))"), note)
    return own(point)


GROUP_MEAN = "r - mean_G(r)"
# over the group G; B is the logical batch, s runs over the tokens to come
SIGNALS: dict[type[signals.Signal], tuple[str, str]] = {
    signals.Ones: ("1", "demonstrations"),
    signals.Zeros: ("0", "no signal"),
    signals.Chosen: ("1", "on the chosen responses; the rejected ones are left out"),
    signals.Desirability: ("desirable if r > 0 else -undesirable", "labels"),
    signals.Raw: ("r", ""),
    signals.Mean: (GROUP_MEAN, ""),
    signals.LeaveOneOut: ("r - mean_others(r)", ""),
    signals.ZScore: ("(r - mean_G(r))/(std_G(r) + eps)", ""),
    advantages.Given: ("advantage", "computed elsewhere"),
    advantages.GAE: (
        "whiten(sum_k((gamma*lam)**k*delta_k))",
        "delta_t = r_t + gamma V_next - V_t of the critic",
    ),
    advantages.Returns: ("whiten(sum_k(gamma**k*r_k))", "k tokens ahead"),
    advantages.OptimalValue: ("r - tau*log(mean_ref(exp(r/tau)))", ""),
    baselines.LengthWeighted: ("r - sum_G(n*r)/sum_G(n)", "n the lengths"),
    mixed_groups.Outcome: ("1 if r > above else -1", "unscored 0"),
    baselines.GreedyBaseline: ("r - b", "b the reward of the greedy response"),
}


def of_signal(signal: signals.Signal) -> Said:
    """The signal A in terms of the reward r."""
    if isinstance(signal, signals.Preference) and not isinstance(
        signal, signals.Chosen
    ):
        return Said(None, "a pair: w chosen (the larger reward), l rejected")
    if derived(signal) and type(signal) not in SIGNALS:
        return own(signal)
    match signal:
        case signals.BatchZScore(center=center):
            mean = "mean_G(r)" if center == "group" else "mean_B(r)"
            found = Said(of_part(f"(r - {mean})/(std_B(r) + eps)", signal))
        case advantages.Exponential(advantage=inner):
            found = _wrapped("min(exp(A_0/tau), cap)", signal, inner)
        case advantages.Shifted(advantage=inner):
            found = _wrapped("A_0 - by", signal, inner)
        case advantages.Standardised(advantage=inner):
            found = _wrapped("(A_0 - mean_B(A_0))/(std_B(A_0) + eps)", signal, inner)
        case SumThenNormalise(advantage=inner):
            said, reward = of_signal(inner), _summed(signal)
            where = said.where if reward is None else (*said.where, ("r", reward))
            return said._replace(where=where)
        case baselines.Whitened(signal=inner):
            found = _wrapped("whiten(A_0)", signal, inner)
        case mixed_groups.OwnRows() | mixed_groups.DemonstrationRows():
            return _selected(signal)
        case mixed_groups.SwitchedRows():
            return _selected(signal)
        case mixed_groups.HybridMean():
            found = Said(
                formula("(r - mean_own(r))/n if flagged else r - mean_own(r)"),
                "mean_own over the own rows, n the rows that continue a prefix",
            )
        case _ if type(signal) in SIGNALS:
            source, note = SIGNALS[type(signal)]
            found = Said(of_part(source, signal), note)
        case _:
            found = own(signal)
    return found._replace(note="; ".join(filter(None, [found.note, *_details(signal)])))


def _wrapped(source: str, signal: signals.Signal, inner: signals.Signal) -> Said:
    said = of_signal(inner)
    if said.expression is None:
        return Said(of_part(source, signal), f"A_0 {said.note}")
    where = (*said.where, ("A_0", said.expression))
    return Said(of_part(source, signal), said.note, where)


ROWS = {
    mixed_groups.OwnRows: ("own rows", " of groups that pass"),
    mixed_groups.DemonstrationRows: ("demonstrations", " of groups that fail"),
    mixed_groups.SwitchedRows: (
        "own rows of groups that pass",
        ", else demonstrations",
    ),
}


def _selected(signal: mixed_groups.Selection) -> Said:
    """The signal of the rows that are left, and which these are."""
    said, (rows, groups) = of_signal(signal.signal), ROWS[type(signal)]
    gate, words = signal.gate, [f"on {rows}"]
    if gate is not None:
        above = text(formula("x", x=gate.above))
        words[0] += f"{groups}: more than {gate.most} own rows with r > {above}"
    reads = signal.signal.needs & {"rewards", "components"}
    if reads and getattr(signal, "over", "union") == "union":
        words.append("G with the demonstrations")
    elif reads:
        words.append("G the own rows")
    note = "" if isinstance(signal.signal, signals.Ones) else said.note
    return said._replace(note="; ".join(filter(None, [note, *words])))


def _summed(signal: SumThenNormalise) -> Expression | None:
    """The reward of several, where there are several or it is clipped."""
    if signal.weights is signal.clip is None:
        return None
    names = [f"w{k}*r_{k}" for k in range(1, 1 + len(signal.weights or ()))]
    values = {f"w{k}": w for k, w in enumerate(signal.weights or (), 1)}
    total = formula(" + ".join(names) or "r_0", **values)
    if signal.clip is None:
        return total
    low, high = signal.clip
    return formula("clip(x, low, high)", x=total, low=low, high=high)


def _details(signal: signals.Signal) -> list[str]:
    """What the formula leaves open: ddof, step rewards, a group of one."""
    found = []
    if (ddof := getattr(signal, "ddof", None)) is not None:
        found.append(f"ddof {ddof}")
    if getattr(signal, "supervision", "") == "process":
        found.append("step rewards, summed over the steps to come")
    if getattr(signal, "continuation", "own") == "hybrid":
        found.append("the continuation r - mean of the n, r itself where n = 1")
    if getattr(signal, "alone", "zero") == "reward":
        found.append("r itself in a group of one")
    return found


def of_aggregation(rule: aggregation.Aggregation, unit: str) -> Said:
    """The loss L from the loss of a unit: "token", "row" or "pair"."""
    counted = "empty rows count" if getattr(rule, "empty", "") == "counted" else ""
    match rule:
        case aggregation.Scaled(aggregation=inner, factor=factor):
            said = of_aggregation(inner, unit)
            if said.expression is None:
                return said
            return said._replace(expression=formula("c*x", c=factor, x=said.expression))
        case aggregation.SequenceMean() if unit != "token":
            index, what = ("p", "pairs") if unit == "pair" else ("i", "rows")
            return Said(formula(f"mean_{index}(loss)"), f"mean over {what}")
        case aggregation.TokenMean() if unit == "token":
            return Said(formula("mean_it(loss)"), "mean over the batch's tokens")
        case aggregation.TokenMean() if unit == "row":
            return Said(formula("sum_i(n_i*loss)/sum_i(n_i)"), "rows by their length")
        case aggregation.SequenceMean(eps=eps):
            inner = "mean_t(loss)" if concrete(eps) == 0 else "sum_t(loss)/(n_i + eps)"
            note = (
                f"mean over rows of their token means{'; ' if counted else ''}{counted}"
            )
            return Said(of_part(f"mean_i({inner})", rule), note)
        case aggregation.SequenceSum():
            note = f"mean over rows of the sum over tokens{'; ' if counted else ''}"
            return Said(formula("mean_i(sum_t(loss))"), note + counted)
        case aggregation.Constant(over="nothing"):
            return Said(of_part("sum_it(loss)/length", rule), "grows with the batch")
        case aggregation.Constant(over=over):
            note = "empty rows count" if over == "all_rows" else "length a constant"
            return Said(of_part("mean_i(sum_t(loss))/length", rule), note)
    return own(rule)


# the value of each estimator; `k2`, `k3`, ... are the formulas of the divergence
ESTIMATORS = {
    "k1": "slope",
    "abs": "abs(slope)",
    "k2": "k2",
    "k3": "k3",
    "importance_k2": "sg(rho)*k2",
    "importance_k3": "rho*k3",
    "exact": "sum_a(ref_a*f)",
}
# and their derivatives in log pi
DERIVATIVES = {
    "k1": "curve",
    "abs": "sign(slope)*curve",
    "k2": "slope",
    "k3": "k3_slope",
    "importance_k2": "rho*slope",
    "importance_k3": "rho*slope",
    "to_go": "slope + sum_later(k3)",
}

# where rho is the row's, each token's log pi moves it for all tokens
OF_THE_ROW = {
    "sequence": "rho*(slope - k3 + sum_t(k3))",
    "sequence_mean": "rho*(slope - k3 + sum_t(k3)/length)",
}


def penalty_value(penalty: Penalty) -> Expression:
    """weight * estimator, as it is added to the loss; of in_reward the cost in r."""
    shapes = _shapes(penalty)
    if penalty.estimator == "in_reward":
        return formula("w*slope", w=penalty.weight, **shapes)
    value = formula(ESTIMATORS[penalty.estimator], rho=_rho(penalty), **shapes)
    if penalty.bound is not None:
        value = formula("clip(x, -b, b)", x=value, b=penalty.bound)
    return formula("w*x", w=penalty.weight, x=value)


def penalty_coefficient(penalty: Penalty) -> Expression | None:
    """The penalty's part of GC; None in the reward or over the vocabulary."""
    name = penalty.estimator if penalty.gradient == "own" else penalty.gradient
    if name not in DERIVATIVES:
        return None
    rule = DERIVATIVES[name]
    if name == "importance_k3" and penalty.level == "token":
        rule = OF_THE_ROW.get(penalty.importance, rule)
    value = formula(rule, rho=_rho(penalty), **_shapes(penalty))
    return formula("-w*x", w=penalty.weight, x=value)


def _shapes(penalty: Penalty) -> dict[str, Expression]:
    names = ("f", "slope", "curve", "k2", "k3", "k3_slope")
    # v, since u is the ratio of the implicit reward
    v = formula("v")
    return {k: formula(of_divergence(penalty.divergence, k), u=v) for k in names}


def _rho(penalty: Penalty) -> Expression:
    return of_ratio(penalty.over, penalty.importance)
