"""What must not change a loss: padding, order, cuts, devices, and what is masked.

Every example is compiled once, for a padded batch that lies spread over eight devices.
That function sees the batch permuted, soiled and emptied, and is compared with the
sum of the two halves of the batch, computed as they are on one device.
"""

from dataclasses import replace
from functools import cache
from itertools import cycle, product
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from preset_examples import (
    COUNTS_EMPTY,
    EXAMPLES,
    GROWS,
    group,
    parts_of,
    streams_and_batch,
    terms,
)
from random_batch import moved, padded, random_batch

from unipost import PRESETS, Objective, Penalty
from unipost.aggregation import Aggregation, SequenceMean
from unipost.choices import REGISTRIES
from unipost.classical import JensenShannon, NeymanChi2, ReverseKL
from unipost.corrections import Correction
from unipost.divergence import Divergence
from unipost.links import Link
from unipost.objective import at_present
from unipost.pair_links import Logistic
from unipost.parametric import Adjoint, UnitCurvature
from unipost.penalties import Estimator, Gradient
from unipost.ratios import Ratio
from unipost.reference_points import ReferencePoint
from unipost.signals import BatchZScore, LeaveOneOut, Mean, Signal, ZScore
from unipost.weights import Weight

MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
SPREAD = NamedSharding(MESH, PartitionSpec("data"))
PARTS = (Divergence, Link, Ratio, Weight, Correction, ReferencePoint, Signal)
PARTS += (Aggregation,)


def value_and_grad(objective, streams, batch):
    """((loss, metrics), gradient in every stream) of a call of the objective."""
    return jax.value_and_grad(lambda s: objective(s, batch), has_aux=True)(streams)


@cache
def whole(name):
    """The example's batch, and its result: padded, jitted, over eight devices."""
    streams, batch = streams_and_batch(name)
    return streams, batch, compiled(name)(streams, batch)


@cache
def small(name):
    """A batch of three prompts and its result, on one device, as it is."""
    streams, batch = streams_and_batch(name, prompts=3)
    return streams, batch, value_and_grad(EXAMPLES[name], streams, batch)


@cache
def compiled(name):
    """The example under jit, for a padded batch over eight devices."""
    run = jax.jit(lambda s, b: value_and_grad(EXAMPLES[name], s, b))

    def call(*tree):
        wider = [padded(x, group(name) == 4) for x in tree]
        return cropped(run(*jax.device_put(wider, SPREAD)), tree[1])

    return call


def close(a, b, tol=1e-12, floor=1e-12):
    """Same loss, metrics and gradient; the latter relative to its norm."""
    (loss, metrics), grads = a
    (want, numbers), others = b
    assert float(loss) == pytest.approx(float(want), rel=tol, abs=floor)
    for key, value in numbers.items():
        got = float(metrics[key])
        assert got == pytest.approx(float(value), rel=10 * tol, abs=10 * floor), key
    leaves = jax.tree.leaves(others)
    norm = np.sqrt(sum(float((x**2).sum()) for x in leaves))
    assert norm > 0
    for x, y in zip(jax.tree.leaves(grads), leaves, strict=True):
        assert float(jnp.abs(x - y).max()) <= tol * norm


def cropped(result, like):
    """A result whose gradient is cut back to the batch; what is cut off must be 0."""
    value, grads = result
    p, g, t = like.mask.shape
    cut = jax.tree.map(lambda x: x[:p, :g, :t], grads)
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(cut), strict=True):
        assert float(jnp.abs(x).sum()) == pytest.approx(float(jnp.abs(y).sum()))
    return value, cut


def in_halves(objective, streams, batch):
    """The sums of values, and the gradients side by side, of two halves of a batch."""
    prepared = objective.prepare(at_present(objective, streams, batch))
    step = jax.value_and_grad(objective.loss, has_aux=True)
    (first, above), (second, below) = (
        step(*jax.tree.map(lambda x, cut=cut: x[cut], (streams, prepared)))
        for cut in (slice(0, 3), slice(3, 6))
    )
    values = jax.tree.map(jnp.add, first, second)
    return values, jax.tree.map(lambda *x: jnp.concatenate(x), above, below)


def test_every_preset_and_every_part_has_an_example():
    assert {name.split("-")[0] for name in EXAMPLES} == set(PRESETS)
    used = {type(part) for part in parts_of(tuple(EXAMPLES.values()))}
    listed = {kind for base in PARTS for kind in REGISTRIES[base].values()}
    listed |= {UnitCurvature, Adjoint}  # listed as the functions that make them
    missing = {kind for kind in listed if isinstance(kind, type)} - used
    assert not missing, missing


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - COUNTS_EMPTY))
def test_halves_add_up_to_the_padded_whole_on_eight_devices(name):
    """Loss, metrics and gradient: cuts, padding, jit and a mesh change nothing."""
    streams, batch, got = whole(name)
    close(got, in_halves(EXAMPLES[name], streams, batch))


@pytest.mark.parametrize("name", sorted(COUNTS_EMPTY))
def test_empty_rows_count_where_the_aggregation_says_so(name):
    """Two empty prompts, and a row where a group may grow: they are denominators."""
    streams, batch, got = whole(name)
    want = in_halves(EXAMPLES[name], streams, batch)[1].policy
    wider = padded(batch, group(name) == 4).mask.shape
    share = 6 * group(name) / (wider[0] * wider[1])
    np.testing.assert_allclose(got[1].policy, share * want, atol=1e-15)
    assert share < 1 and float(jnp.abs(want).max()) > 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_values_outside_the_mask_are_never_read(name):
    """NaN and any number there give the same loss, and no gradient."""
    streams, batch, dirty = whole(name)

    def filled(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating) and x.ndim > 2
        return jnp.where(jnp.isnan(x), -3.7, x) if floating else x

    clean = compiled(name)(*jax.tree.map(filled, (streams, batch)))
    close(dirty, clean)
    read = batch.text if "text" in EXAMPLES[name].needs else batch.mask
    assert float(jnp.abs(jnp.where(read, 0.0, clean[1].policy)).max()) == 0.0


@pytest.mark.parametrize("name", EXAMPLES)
def test_permuting_prompts_and_rows_changes_nothing(name):
    streams, batch, (value, grads) = whole(name)
    rng = np.random.default_rng(1)
    prompts, rows = rng.permutation(6), rng.permutation(group(name))

    other = compiled(name)(moved(streams, prompts, rows), moved(batch, prompts, rows))
    close(other, (value, moved(grads, prompts, rows)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_batch_gives_zero(name):
    streams, batch, _ = whole(name)
    nothing = jnp.zeros_like(batch.mask)
    empty = replace(batch, mask=nothing, text=nothing)
    (loss, _), grads = compiled(name)(streams, empty)
    if name != "dpo-counted":  # there an empty pair has the loss of log u = 0
        assert float(loss) == 0.0
    assert all(float(jnp.abs(x).max()) == 0.0 for x in jax.tree.leaves(grads))


def at_step_zero(streams, batch):
    """The batch when policy, old, sampler and reference are still one model."""
    return replace(
        batch,
        weight=None,
        old=streams.policy,
        behavior=streams.policy,
        reference=streams.policy,
        reference_lse=streams.lse,
        reference_vocab=streams.vocab,
        mismatched=jnp.where(jnp.isnan(batch.mismatched), jnp.nan, 0.0),
    )


LOG_TWO = {"dpo", "dpo-length", "f_dpo", "f_dpo-alpha", "f_dpo-skew", "f_dpo-adjoint"}
LOG_TWO |= {"f_dpo-unit", "f_dpo-token", "f_dpo-waived", "chi_po", "ld_dpo", "aot"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_step_zero(name):
    """Ratio 1, implicit reward 0, KL 0, nothing clipped; DPO's loss is log 2."""
    streams, batch, _ = small(name)
    loss, metrics = EXAMPLES[name](streams, at_step_zero(streams, batch))
    for k, term in enumerate(terms(EXAMPLES[name])):
        prefix = f"{k}/" if k else ""
        if getattr(term, "anchor", "none") != "none" and name != "f_sft-lse":
            assert abs(float(metrics[f"{prefix}implicit_reward"])) < 1e-15
        for key in ("penalty", "clip_share", "clamp_share", "penalty_clamp_share"):
            assert float(metrics.get(prefix + key, 0.0)) == 0.0, key
    if name in LOG_TWO:
        assert float(loss) == pytest.approx(np.log(2.0), rel=1e-14)


def test_log_two_is_asked_of_every_plain_logistic():
    """Of those with a reference, one weight per pair, and no part that moves it."""
    plainly = {
        name
        for name, o in EXAMPLES.items()
        if getattr(o, "link", None) in (Logistic(), Logistic(bound=0.2))
        and o.anchor == "reference"
        and not o.corrections
        and o.aggregation == SequenceMean()
    }
    assert plainly - {"chi_po-bound"} == LOG_TWO


@pytest.mark.parametrize("name", EXAMPLES)
def test_float32_agrees_with_float64(name):
    streams, batch, want = small(name)

    def single(x):
        return x.astype(jnp.float32) if x.dtype == jnp.float64 else x

    got = value_and_grad(EXAMPLES[name], *jax.tree.map(single, (streams, batch)))
    close(got, want, 1e-5, 1e-5)


CENTRED = (Mean, LeaveOneOut, ZScore, BatchZScore)
NO_SIGNAL = [
    name
    for name, o in EXAMPLES.items()
    if isinstance(o, Objective) and type(o.signal) in CENTRED and name != "opmd"
]


@pytest.mark.parametrize("name", NO_SIGNAL)
def test_equal_rewards_give_no_gradient(name):
    objective = EXAMPLES[name]
    streams, batch, _ = small(name)
    clamp = None if objective.anchor in ("none", "self") else objective.clamp
    objective = replace(objective, penalty=None, entropy_bonus=None, clamp=clamp)
    equal = replace(batch, rewards=jnp.full(batch.rewards.shape, 0.1))
    _, grads = value_and_grad(objective, streams, equal)
    assert float(jnp.abs(grads.policy).max()) == 0.0


def test_twice_the_batch_is_the_same_loss():
    """But for LUFFY's released normaliser: twice the batch, twice the loss."""
    for name in ("luffy", "grpo", "dpo"):
        streams, batch, want = whole(name)
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), (streams, batch))
        ratio = float(jax.jit(EXAMPLES[name])(*twice)[0] / want[0][0])
        assert ratio == pytest.approx(2.0 if name in GROWS else 1.0)


def penalties(estimator):
    """The estimator with every gradient, and at every level that has a meaning."""
    levels = product(("token", "sequence"), ("token", "sequence", "sequence_mean"))
    kinds = [("own", *level) for level in levels]
    kinds += [(gradient, "token", "token") for gradient in get_args(Gradient)[1:]]
    divergences = cycle([ReverseKL(), JensenShannon(), NeymanChi2()])
    for gradient, level, importance in kinds:
        f = next(divergences)
        try:
            yield Penalty(0.3, f, estimator, gradient, level, importance)
        except ValueError:
            continue


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_every_penalty_is_cut_and_permuted(estimator):
    """Each with its gradients and levels: two halves, and two other halves."""
    streams, batch = random_batch(4)
    order = np.random.default_rng(2).permutation(6)
    tried = 0
    for penalty in penalties(estimator):
        objective = Objective(signal=Mean(), penalty=penalty)
        value, grads = in_halves(objective, streams, batch)
        turned = jax.tree.map(lambda x: x[order], (streams, batch))
        wanted = value, jax.tree.map(lambda x: x[order], grads)
        close(in_halves(objective, *turned), wanted)
        tried += 1
    assert tried >= 1
