"""Gradients of all examples by central differences, and their coefficients' units."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from preset_examples import EXAMPLES, parts_of, streams_and_batch

from unipost import Mixture, Objective, Penalty
from unipost.aggregation import Constant, Scaled, SequenceMean, SequenceSum, TokenMean
from unipost.corrections import Confidence, EntropyWeight
from unipost.explain import gradient_coefficient
from unipost.links import Balance, RowLogistic, Weighted
from unipost.objective import at_present
from unipost.pair_links import PairLink
from unipost.ratios import SequenceToken
from unipost.vocabulary import Gem, Vocabulary

# a weight, a mean or a value under a stop-gradient: the loss is no potential of it
HELD = (Weighted, Balance, RowLogistic, Confidence, EntropyWeight, SequenceToken, Gem)


def is_potential(objective):
    """Whether the gradient is that of the loss, nothing being held."""
    penalties = [part for part in parts_of(objective) if isinstance(part, Penalty)]
    straight = any(p.gradient != "own" for p in penalties)
    rho = any(p.estimator == "importance_k2" or p.over == "self" for p in penalties)
    own = any(getattr(part, "anchor", "") == "self" for part in parts_of(objective))
    held = any(isinstance(part, HELD) for part in parts_of(objective))
    return not (held or straight or rho or own)


def prepared_case(name):
    streams, batch = streams_and_batch(name, prompts=3)
    batch = replace(batch, weight=None)
    return (
        streams,
        batch,
        EXAMPLES[name].prepare(at_present(EXAMPLES[name], streams, batch)),
    )


SMOOTH = [name for name, o in EXAMPLES.items() if is_potential(o)]


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_is_the_slope_of_the_loss(name):
    """Along a random direction in all streams; signals and weights stay as prepared."""
    streams, _, prepared = prepared_case(name)
    rng = np.random.default_rng(5)
    directions = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), streams)

    def loss(s):
        return EXAMPLES[name].loss(s, prepared)[0]

    grads = jax.grad(loss)(streams)
    terms = jax.tree.map(lambda g, d: (g * d).sum(), grads, directions)
    up, down = (
        float(loss(jax.tree.map(lambda x, d, h=h: x + h * d, streams, directions)))
        for h in (1e-5, -1e-5)
    )
    slope = sum(map(float, jax.tree.leaves(terms)))
    assert slope == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-9)
    assert abs(slope) > 1e-6


def test_most_examples_are_potentials_and_the_others_hold_something():
    held = set(EXAMPLES) - set(SMOOTH)
    assert len(SMOOTH) > 2 * len(held)
    assert {"dft", "cispo", "vespo", "f_tb", "wpo", "gspo-token", "gem"} <= held


def units(objective, mask):
    """The weight of every token's unit [P, G, T] by counting, without row weights."""
    n = np.maximum(mask.sum(-1, keepdims=True), 1.0)
    rows = (mask.sum(-1) > 0).sum()
    match objective.aggregation:
        case Scaled(aggregation=inner, factor=factor):
            return factor * units(replace(objective, aggregation=inner), mask)
        case TokenMean():
            token = np.full(mask.shape, 1.0 / mask.sum())
        case SequenceMean(empty="left_out", eps=eps):
            token = np.broadcast_to(1.0 / ((n + eps) * rows), mask.shape)
        case SequenceMean():
            token = np.broadcast_to(1.0 / n / mask[..., 0].size, mask.shape)
        case SequenceSum():
            token = np.full(mask.shape, 1.0 / rows)
        case Constant(length=length, over=over):
            count = {"rows": rows, "all_rows": mask[..., 0].size, "nothing": 1}[over]
            token = np.full(mask.shape, 1.0 / (count * length))
    if isinstance(objective.link, PairLink):  # the share of a pair: that of two rows
        return 2.0 * token * n
    return token if objective.level == "token" else token * n


def has_coefficient(objective):
    if isinstance(objective, Mixture | Vocabulary):
        return False  # units of their own, in `test_explain`
    exact = objective.penalty is not None and objective.penalty.estimator == "exact"
    return objective.gauge == "zero" and objective.entropy_bonus is None and not exact


WITH_ONE = [name for name, o in EXAMPLES.items() if has_coefficient(o)]


@pytest.mark.parametrize("name", WITH_ONE)
def test_the_coefficient_times_its_unit_is_the_gradient(name):
    """grad L = -sum_it w_it GC_it grad log pi, w the unit's weight."""
    objective = EXAMPLES[name]
    streams, batch, prepared = prepared_case(name)
    gc = np.asarray(gradient_coefficient(objective, streams, batch))
    grad = jax.grad(lambda s: objective.loss(s, prepared)[0])(streams).policy
    mask = np.asarray(prepared.batch.mask)
    want = np.where(mask > 0, -np.asarray(grad), 0.0)
    np.testing.assert_allclose(units(objective, mask) * gc, want, rtol=0, atol=1e-14)
    assert isinstance(objective, Objective) and np.abs(gc).max() > 1e-4
    assert not gc[np.asarray(batch.mask) == 0].any()
