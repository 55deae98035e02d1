"""What can be named in a config, as text; the README's table of presets."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, get_args

from unipost.aggregation import AGGREGATIONS
from unipost.annealed import ANNEALED
from unipost.choices import SIGNALS
from unipost.corrections import CORRECTIONS
from unipost.divergences import DIVERGENCES
from unipost.explain import phi_formula, slope_formula
from unipost.links import LINKS, Matching, Weighted
from unipost.mixed_groups import content
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.objectives import OBJECTIVES, AnyObjective
from unipost.optimizers import OPTIMIZERS, SCHEDULES
from unipost.pair_links import PAIR_LINKS, PairLink
from unipost.parts import Varying, concrete
from unipost.penalties import Estimator
from unipost.presets import FAMILIES, PRESETS
from unipost.ratios import RATIOS
from unipost.reference_points import REFERENCE_POINTS
from unipost.rewards import REWARDS
from unipost.rollouts import GROUPS, GUIDANCE, ORDERS, SOURCES
from unipost.sampling import SAMPLERS
from unipost.signals import Signal
from unipost.test_time.settings import SCORES
from unipost.vocabulary import Distillation
from unipost.weights import WEIGHTS

# what stands in the table for an argument without a default
EXAMPLES: dict[str, dict[str, Any]] = {
    "f_sft": {"divergence": DIVERGENCES["pearson_chi2"]()},
    "f_dpo": {"divergence": DIVERGENCES["jensen_shannon"]()},
    "dr_grpo": {"max_length": 1024.0},
    **{x: {"max_length": 1024.0} for x in ("luffy", "rl_sft", "srft", "hpt")},
}

# what is no preset but has a name in a config
BARE = {name: made for name, made in OBJECTIVES.items() if name not in PRESETS}

KINDS: dict[str, Mapping[str, Any]] = {
    "presets": PRESETS,
    "objectives": BARE,
    "divergences": DIVERGENCES,
    "ratios": RATIOS,
    "links": LINKS,
    "pair_links": PAIR_LINKS,
    "weights": WEIGHTS,
    "corrections": CORRECTIONS,
    "reference_points": REFERENCE_POINTS,
    "signals": SIGNALS,
    "numbers": ANNEALED,
    "aggregations": AGGREGATIONS,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "sources": SOURCES,
    "samplers": SAMPLERS,
    "guidance": GUIDANCE,
    "groups": GROUPS,
    "orders": ORDERS,
    "rewards": REWARDS,
    "scores": SCORES,
}


def listing(kind: str | None = None) -> str:
    """Names with their arguments, one line each. Raises ValueError for a bad kind."""
    kinds = [*KINDS, "estimators"]
    if kind is not None and kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"list: no kind {kind!r}; {hint}({', '.join(kinds)})")
    blocks = []
    for name in kinds if kind is None else [kind]:
        if name == "estimators":
            lines = ["  " + ", ".join(get_args(Estimator)) + "   (of a penalty)"]
        elif name == "presets":
            lines = [x for f, members in FAMILIES.items() for x in (f" {f}:", *members)]
            lines = [_entry(x, PRESETS[x]) if x in PRESETS else x for x in lines]
        else:
            lines = [_entry(n, part) for n, part in KINDS[name].items()]
        blocks.append("\n".join([name, *lines]))
    return "\n\n".join(blocks)


def _entry(name: str, part: Any) -> str:
    parameters = inspect.signature(part).parameters
    arguments = ", ".join(p for p in parameters if p not in ("response", "answer"))
    first = (inspect.getdoc(part) or "").splitlines()[0]
    return f"  {name + (f'({arguments})' if arguments else '')}\n      {first}"


_SYMBOL = {
    "none": "-",
    "reference": "reference",
    "old": "old",
    "behavior": "behavior",
    "self": "self",
}


def _snake(part: Any, registry: Mapping[str, Any]) -> str:
    for name, made in registry.items():
        if made is type(part):
            return name
    return type(part).__name__


def _rows(name: str, objective: AnyObjective) -> list[list[str]]:
    """The lines of one preset: a mixture has one per term."""
    if isinstance(objective, Mixture):
        heads = [f"`{name}`:", *["+"] * (len(objective.terms) - 1)]
        triples = zip(heads, objective.weights, objective.terms, strict=True)
        return [_row(f"{h} {_number(w)} x", term) for h, w, term in triples]
    if isinstance(objective, Objective):
        return [_row(f"`{name}`", objective)]
    anchor, slope = "-", "-"
    if isinstance(objective, Distillation):
        anchor, slope = "teacher", slope_formula(objective.divergence)
    aggregation = _snake(objective.aggregation, AGGREGATIONS)
    link = "whole vocabulary"
    return [[f"`{name}`", anchor, slope, link, "-", "token", "-", aggregation]]


def _signal(signal: Signal) -> str:
    """A signal's name, and that of the one inside a selection of rows."""
    inner, name = content(signal), _snake(signal, SIGNALS)
    return name if inner is signal else f"{name}: {_snake(inner, SIGNALS)}"


def _number(value: Any) -> str:
    """A number, or what it goes to from what."""
    if isinstance(value, Varying):
        end, start = (_number(x) for x in value.ends()[:2])
        return f"({start} to {end})"
    return f"{concrete(value):g}"


def _row(name: str, objective: Objective) -> list[str]:
    link = _snake(objective.link, {**LINKS, **PAIR_LINKS})
    if isinstance(objective.link, Matching):
        link = f"matching: -phi, phi = {phi_formula(objective.link.divergence)}"
    if isinstance(objective.link, Weighted):
        over = "pi" if objective.link.over == "none" else f"pi/{objective.link.over}"
        link = f"weighted: {_snake(objective.link.weight, WEIGHTS)} of {over}"
    for part, registry in ((objective.ratio, RATIOS), *_detached(objective)):
        link += f"; {_snake(part, registry)}" if part is not None else ""
    penalty = "-"
    if objective.penalty is not None:
        p = objective.penalty
        weight = concrete(p.weight)
        penalty = f"{weight:g} {_snake(p.divergence, DIVERGENCES)}, {p.estimator}"
    aggregation = _snake(objective.aggregation, AGGREGATIONS)
    if isinstance(objective.link, PairLink):
        aggregation = "mean of pairs"
    if objective.off_policy is not None:
        link += f"; off-policy rows: {slope_formula(objective.off_policy.divergence)}"
    return [
        name,
        _SYMBOL[objective.anchor],
        slope_formula(objective.divergence),
        link,
        _signal(objective.signal),
        objective.level,
        penalty,
        aggregation,
    ]


def _detached(objective: Objective) -> list[tuple[Any, Mapping[str, Any]]]:
    """What multiplies or shifts the link's argument without a gradient."""
    parts = [(c, CORRECTIONS) for c in objective.corrections]
    return [(objective.reference_point, REFERENCE_POINTS), *parts]


def preset_table() -> str:
    """The presets as a Markdown table, read off the objects they return."""
    head = ["preset", "anchor", "f'(u)", "link", "signal", "level", "penalty"]
    head.append("aggregation")
    made = {n: make(**EXAMPLES.get(n, {})) for n, make in PRESETS.items()}
    rows = [row for name, objective in made.items() for row in _rows(name, objective)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
