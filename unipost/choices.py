"""What the names in an experiment file mean: the registry of every type with parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unipost import advantages, components
from unipost import signals as group_signals
from unipost.aggregation import AGGREGATIONS, Aggregation
from unipost.annealed import ANNEALED
from unipost.baselines import BASELINES
from unipost.config import SCALAR
from unipost.corrections import CORRECTIONS, Correction
from unipost.divergence import Divergence
from unipost.divergences import DIVERGENCES
from unipost.links import LINKS, Link
from unipost.mixed_groups import MIXED
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.objectives import OBJECTIVES
from unipost.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from unipost.pair_links import PAIR_LINKS, PairLink
from unipost.ratios import RATIOS, Ratio
from unipost.reference_points import REFERENCE_POINTS, ReferencePoint
from unipost.rewards import REWARDS, Reward
from unipost.rollouts import (
    GROUPS,
    GUIDANCE,
    ORDERS,
    SOURCES,
    GroupRule,
    Guidance,
    Order,
)
from unipost.sampling import SAMPLERS, Sampler
from unipost.scalar.objective import ScalarObjective
from unipost.signals import Advantage, Signal
from unipost.sources import Source
from unipost.studies.claims import Test
from unipost.studies.diagnostics import DIAGNOSTICS, Diagnostic
from unipost.studies.tests import TESTS
from unipost.test_time.settings import SCORES, Graded, Likelihood
from unipost.vocabulary import Vocabulary
from unipost.weights import WEIGHTS, Weight

SIGNALS: dict[str, type[Signal]] = {
    **group_signals.SIGNALS,
    **BASELINES,
    **MIXED,
    "given": advantages.Given,
    "gae": advantages.GAE,
    "returns": advantages.Returns,
    "exponential": advantages.Exponential,
    "shifted": advantages.Shifted,
    "standardised": advantages.Standardised,
    "optimal_value": advantages.OptimalValue,
    "sum_then_normalise": components.SumThenNormalise,
    "normalise_then_sum": components.NormaliseThenSum,
}
"""Every signal of the library, whichever module it is in."""

# one registry for both kinds of link, since a score takes either
_LINKS: dict[str, Callable[..., Any]] = {**LINKS, **PAIR_LINKS}

REGISTRIES: dict[Any, Mapping[str, Callable[..., Any]]] = {
    SCALAR: ANNEALED,
    Objective: OBJECTIVES,
    Mixture: OBJECTIVES,
    Vocabulary: OBJECTIVES,
    ScalarObjective: OBJECTIVES,
    Divergence: DIVERGENCES,
    Link: _LINKS,
    PairLink: _LINKS,
    Ratio: RATIOS,
    Weight: WEIGHTS,
    Correction: CORRECTIONS,
    ReferencePoint: REFERENCE_POINTS,
    Signal: SIGNALS,
    Advantage: SIGNALS,
    Aggregation: AGGREGATIONS,
    Optimizer: OPTIMIZERS,
    Schedule: SCHEDULES,
    Source: SOURCES,
    Sampler: SAMPLERS,
    Guidance: GUIDANCE,
    GroupRule: GROUPS,
    Order: ORDERS,
    Reward: REWARDS,
    Graded: SCORES,
    Likelihood: SCORES,
    Test: TESTS,
    Diagnostic: DIAGNOSTICS,
}
"""The names that every type of part has in a config."""
