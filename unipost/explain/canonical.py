"""Normal forms: two objectives with one tree have the same loss on every batch.

A tree maps the path of a setting to its value, parts being named by their class. Rules
rewrite an objective that can be written in several ways into one of them: a factor of
the divergence into beta, a bound that never binds away, a mean of sums into a sum of
means. Those of the notion "gradient" keep the gradient and not the value.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from unipost import aggregation as agg
from unipost import links, signals
from unipost.advantages import Exponential
from unipost.classical import (
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.components import SumThenNormalise
from unipost.divergence import Divergence
from unipost.explain.expression import INF
from unipost.mixed_groups import content
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.objectives import AnyObjective
from unipost.pair_links import Squared
from unipost.parametric import Alpha, UnitCurvature
from unipost.parts import concrete
from unipost.penalties import Penalty
from unipost.ratios import GeometricClip, SequenceToken
from unipost.vocabulary import Gem
from unipost.weights import Truncate

Notion = Literal["value", "gradient"]
Tree = dict[str, Any]
Draft = dict[str, Any]


def tree(objective: AnyObjective, notion: Notion = "value") -> Tree:
    """The normal form: equal trees, equal loss (or gradient) on every batch.

    Clamps stay in it as they are: see `equality` for what they mean.
    """
    if isinstance(objective, Mixture):
        terms = [tree(term, notion) for term in objective.terms]
        for term, weight in zip(terms, objective.weights, strict=True):
            known = concrete(weight)
            term["factor"] = weight if known is None else term["factor"] * known
        terms.sort(key=lambda t: sorted(map(str, t.items())))
        named = [(f"terms.{k}.", term) for k, term in enumerate(terms)]
        return {k + path: x for k, term in named for path, x in term.items()}
    if notion == "gradient" and isinstance(objective, Gem):
        if objective.h == "linear" and concrete(objective.beta) == 1.0:
            objective = Objective(aggregation=objective.aggregation)
    draft: Draft = {**_fields(objective), "factor": 1.0}
    if not isinstance(objective, Objective):
        if "divergence" in draft:
            factor, draft["divergence"] = scaled(draft["divergence"])
            draft["factor"] *= factor
        _denominator(draft)
        return {"": type(objective).__name__} | flat(draft)
    del draft["waived"]
    _plain_sum(draft)
    _rewrite(draft, notion)
    if draft["off_policy"] is not None:
        inner = _fields(draft["off_policy"])
        _rewrite_score(inner | {"signal": draft["signal"]}, inner, notion)
        draft["off_policy"] = inner
    return {"": "Objective"} | flat(draft)


def _plain_sum(d: Draft) -> None:
    """The advantage of a sum of one reward is the advantage."""
    signal = d["signal"]
    if exactly(signal, SumThenNormalise) and signal.weights is signal.clip is None:
        d["signal"] = signal.advantage
        if signal.empty == "counted":
            d["statistics"] = {"empty": signal.empty}


def _fields(value: Any) -> Draft:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def flat(value: Any, path: str = "") -> Tree:
    """The leaves of nested parts, tuples and dicts by dotted path."""
    if dataclasses.is_dataclass(value):
        return {path: type(value).__qualname__} | flat(_fields(value), path)
    if isinstance(value, tuple | list):
        value = {str(k): x for k, x in enumerate(value)}
    if isinstance(value, dict):
        found: Tree = {}
        for name, inner in value.items():
            found |= flat(inner, f"{path}.{name}" if path else name)
        return found
    known = concrete(value) if not isinstance(value, str | bool) else None
    return {path: value if known is None else known}


def exactly(value: Any, *kinds: type) -> bool:
    """Whether a part is of one of these classes; a subclass may do something else."""
    return type(value) in kinds


def scaled(divergence: Any) -> tuple[float, Divergence]:
    """(c, g) with f = c g, g the member of a family of proportional divergences."""
    if exactly(divergence, PearsonChi2):
        return 2.0, Alpha(-1.0)
    if exactly(divergence, SquaredHellinger):
        return 0.5, Alpha(0.5)
    if exactly(divergence, UnitCurvature):
        curvature = concrete(divergence.divergence.curvature)
        if curvature is not None:
            factor, base = scaled(divergence.divergence)
            return factor / curvature, base
    return 1.0, divergence


def _rewrite(d: Draft, notion: Notion) -> None:
    _rewrite_score(d, d, notion)
    d["penalty"] = _penalty(d["penalty"], notion)
    _denominator(d)
    alone = d["off_policy"] is None and d["entropy_bonus"] is None
    alone = alone and (d["penalty"] is None or d["penalty"].estimator == "in_reward")
    if alone:
        _proportional(d)
        _linear_sums(d)
    _token_form_of_gspo(d)


def _rewrite_score(seen: Draft, d: Draft, notion: Notion) -> None:
    """The rules of one score; `seen` has the signal too, results go into `d`."""
    d["link"] = _live_bounds(d["link"], seen["signal"])
    if exactly(d["ratio"], GeometricClip):
        if concrete(d["ratio"].low) == concrete(d["ratio"].high) == INF:
            d["ratio"] = None
    kl = exactly(d["divergence"], ReverseKL)
    whole = d.get("reference_point") is None and d["per"] == "length"
    whole = whole and not isinstance(d["link"], links.Weighted)
    if whole and kl and d["level"] == "sequence":
        d["per"], d["level"] = "one", "sequence_mean"
    if notion == "gradient":
        _same_gradient(d)
    factor, d["divergence"] = scaled(d["divergence"])
    if (beta := concrete(d["beta"])) is not None:
        d["beta"] = beta * factor


def _live_bounds(link: Any, signal: Any) -> Any:
    """A clip without the bounds that never bind; none left is no clip."""
    if not exactly(link, links.Clipped):
        return link
    positive = exactly(content(signal), signals.Ones, signals.Chosen, Exponential)
    if positive:  # A > 0 never meets the lower bound
        link = dataclasses.replace(link, low=INF, dual=None)
    bounds = {concrete(link.low), concrete(link.high)}
    if bounds == {INF} and link.dual is None and link.cap is None:
        return links.Importance()
    return link


def _same_gradient(d: Draft) -> None:
    """What has the gradient of something simpler, on every batch."""
    smooth = (links.Linear, links.Importance, links.Clipped, links.SoftGate)
    curvature = concrete(d["divergence"].curvature)
    pointwise = exactly(d["link"], *smooth, links.Weighted)
    pointwise = pointwise or d["link"] == links.Residual()
    if d["anchor"] == "self" and pointwise and curvature is not None:
        # z = 0 with the slope of beta f''(1) log pi
        d["anchor"], d["divergence"], d["clamp"] = "none", ReverseKL(), None
        d["beta"] = d["beta"] * curvature
        d["link"] = d["link"] if exactly(d["link"], links.Weighted) else links.Linear()
    matched = getattr(d["link"], "divergence", None)
    if exactly(d["link"], links.Matching) and exactly(matched, TotalVariation):
        d["link"] = links.Linear() if d["gauge"] == "zero" else d["link"]
    if exactly(d["link"], links.Importance):
        d["link"] = links.Linear()
    linear = exactly(d["link"], links.Linear, links.Weighted)
    kl = exactly(d["divergence"], ReverseKL)
    if linear and kl and d["clamp"] is None and d["ratio"] is None:
        d["anchor"] = "none"  # log of the anchor is a constant
    _weight_as_slope(d)


def _weight_as_slope(d: Draft) -> None:
    """-sg(u^q) A log pi has the gradient of -A (u^q - 1)/q, the alpha score."""
    link = d["link"]
    if not exactly(link, links.Weighted) or not exactly(link.weight, Truncate):
        return
    own = link.level in ("own", d["level"]) and exactly(d["divergence"], ReverseKL)
    weight, cap = link.weight, concrete(link.weight.cap)
    never = cap is not None and (cap == INF or (link.over == "none" and cap >= 1.0))
    if own and never and concrete(weight.floor) == 0.0 and d["ratio"] is None:
        if d["level"] == "token" and concrete(weight.power) is not None:
            d["divergence"], d["anchor"] = Alpha(-weight.power), link.over
            d["link"] = links.Linear()


def _penalty(penalty: Penalty | None, notion: Notion) -> Penalty | None:
    if penalty is None:
        return None
    changes: dict[str, Any] = {}
    if notion == "gradient" and penalty.gradient not in ("own", "to_go"):
        # straight-through: the bounds are those of the value alone
        changes = {"estimator": penalty.gradient, "gradient": "own"}
        changes |= {"bound": None, "clamp": None}
        if not penalty.gradient.startswith("importance"):
            changes |= {"importance": "token", "over": "old"}
    penalty = dataclasses.replace(penalty, **changes)
    same = penalty.importance == penalty.level
    if notion == "gradient" and penalty.estimator == "importance_k3" and same:
        penalty = dataclasses.replace(penalty, estimator="importance_k2")
    if penalty.estimator == "importance_k2" and penalty.over == "self":
        penalty = dataclasses.replace(
            penalty, estimator="k2", importance="token", over="old"
        )
    factor, divergence = scaled(penalty.divergence)
    weight = concrete(penalty.weight)
    if weight is not None and penalty.bound is None:
        changes = {"weight": weight * factor, "divergence": divergence}
        penalty = dataclasses.replace(penalty, **changes)
    return penalty


def _denominator(d: Draft) -> None:
    """Factors out of the aggregation; a constant length is a factor of a sum."""
    rule = d["aggregation"]
    while exactly(rule, agg.Scaled) and (known := concrete(rule.factor)) is not None:
        d["factor"], rule = d["factor"] * known, rule.aggregation
    if exactly(rule, agg.Constant) and rule.over != "nothing":
        length = concrete(rule.length)
        if length is not None:
            empty = "counted" if rule.over == "all_rows" else "left_out"
            d["factor"], rule = d["factor"] / length, agg.SequenceSum(empty)
    d["aggregation"] = rule


def _proportional(d: Draft) -> None:
    """beta of a loss that is proportional to it is a factor of the loss."""
    beta = concrete(d["beta"])
    if beta is None:
        return
    if exactly(d["link"], links.Linear, links.Weighted):
        d["factor"], d["beta"] = d["factor"] * beta, 1.0
    elif exactly(d["link"], Squared) and concrete(d["link"].tau) is not None:
        # (beta m - 1/(2 tau))^2 = beta^2 (m - 1/(2 tau beta))^2
        d["factor"], d["beta"] = d["factor"] * beta**2, 1.0
        d["link"] = Squared(d["link"].tau * beta)


def _linear_sums(d: Draft) -> None:
    """-A log u of a sequence is the sum (or the mean) of its tokens'."""
    linear = exactly(d["link"], links.Linear)
    linear = linear and exactly(d["divergence"], ReverseKL)
    plain = d["ratio"] is None and d["clamp"] is None and not d["corrections"]
    rule = d["aggregation"]
    plain = plain and d["reference_point"] is None and d["per"] == "one"
    mean = rule == agg.SequenceMean() and _one_per_row(d["signal"])
    if linear and plain and mean and d["level"] == "sequence":
        d["level"], d["aggregation"] = "token", agg.SequenceSum()
    elif linear and plain and mean and d["level"] == "sequence_mean":
        d["level"] = "token"


def _token_form_of_gspo(d: Draft) -> None:
    """The token's gradient with the sequence's value, for one A per sequence."""
    mean = d["aggregation"] == agg.SequenceMean() and _one_per_row(d["signal"])
    weighted = isinstance(d["link"], links.Weighted) or d["corrections"]
    if exactly(d["ratio"], SequenceToken) and d["level"] == "token":
        if mean and not weighted:
            d["ratio"], d["level"] = None, "sequence_mean"


def _one_per_row(signal: signals.Signal) -> bool:
    """Whether the signal is one number for all tokens of a row."""
    outcome = getattr(signal, "supervision", "outcome") == "outcome"
    known = isinstance(content(signal), signals.Advantage | signals.Ones)
    return known and outcome and not signal.token_rewards
