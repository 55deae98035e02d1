"""What the policy says at present: in pieces, of the right rows, as a constant."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import (
    EXAMPLES,
    MEAN,
    chained,
    close,
    forward,
    mismatched,
    prepared_by,
    rows_and_batch,
    whole,
)

from unipost import part, presets
from unipost.model import function_policy
from unipost.optimizers import SGD
from unipost.signals import Signal
from unipost.update import (
    State,
    advantage,
    mismatched_rows,
    streams_of,
    update,
    with_present,
    with_streams,
)

POLICY, PARAMS, REFERENCE, OLD = MEAN
NEW = ("kto", "aot", "wpo", "orpo", "gem", "gkd", "grpo-top", "grpo-stale")
NEW += ("f_dpo-token",)


@pytest.mark.parametrize("name", NEW)
def test_microbatches_change_nothing(name):
    """Loss, metrics and gradient in 1, 2 and 4 pieces, against the chain rule.

    The chain takes present statistics from the whole, each mismatched pair by itself.
    """
    one = chained(name)
    for microbatches in (1, 2, 4):
        close(whole(name, microbatches), one)


def test_through_a_transformer():
    close(whole("kto", 2, "transformer"), chained("kto", kind="transformer"))


@pytest.mark.parametrize("name", ["kto", "orpo", "gkd"])
def test_the_gradient_is_the_slope_of_the_loss(name):
    """Finite differences through the model; what is prepared is held, as it is."""
    objective, (rows, prepared) = EXAMPLES[name], prepared_by(name)
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), PARAMS)

    @jax.jit
    def loss(step):
        params = jax.tree.map(lambda x, d: x + step * d, PARAMS, way)
        streams = streams_of(POLICY, params, rows, ("vocab",))
        return objective.loss(streams, prepared)[0]

    h = 1e-4  # fourth order, so that the truncation is below the rounding
    near, far = loss(h) - loss(-h), loss(2 * h) - loss(-2 * h)
    slope = float(8 * near - far) / (12 * h)
    grads = whole(name)[1]
    dot = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), grads, way)))
    assert abs(slope) > 1e-4
    assert slope == pytest.approx(float(dot), rel=1e-7)


def test_a_mismatched_pair_is_a_prompt_with_the_next_response():
    rows, _ = rows_and_batch("kto")
    for minibatches, following in ((1, [1, 2, 3, 4, 5, 6, 7, 0]), (2, [1, 2, 3, 0])):
        other = mismatched_rows(rows, minibatches)
        order = [i + 4 * k for k in range(minibatches) for i in following]
        np.testing.assert_array_equal(other.prompt, rows.prompt)
        np.testing.assert_array_equal(other.response, rows.response[np.array(order)])
        np.testing.assert_array_equal(
            other.response_mask, rows.response_mask[np.array(order)]
        )


def test_the_reference_point_is_the_mean_of_the_pairs_there_are():
    """The row that precedes an empty response has no pair; an empty row no weight."""
    rows, prepared = prepared_by("kto")
    pairs = np.array(mismatched(rows, MEAN))
    assert np.isnan(pairs).sum() == 1 and np.isnan(pairs[0, 0])
    pairs[1, 0] = np.nan  # that row is empty itself
    want = max(0.0, float(np.nanmean(pairs)))
    assert want > 0
    np.testing.assert_allclose(prepared.offset, want, rtol=1e-12)


def test_minibatches_have_reference_points_of_their_own():
    """Pairs and their mean stay within the minibatch; the pieces are self-contained."""
    objective, (rows, batch) = presets.kto(), rows_and_batch("kto")
    cut = with_streams(objective, POLICY, rows, batch, OLD, REFERENCE, minibatches=2)
    for half in (slice(0, 4), slice(4, 8)):
        part, some = jax.tree.map(lambda x, half=half: x[half], (rows, cut))
        alone = jax.tree.map(lambda x, half=half: x[half], batch)
        alone = with_streams(objective, POLICY, part, alone, OLD, REFERENCE)
        for x in (some, alone):
            present = with_present(POLICY, objective, PARAMS, part, x, 2)
            got = objective.prepare(present).offset
            pairs = np.array(mismatched(part, MEAN))
            pairs[~np.asarray(part.response_mask).any(-1)] = np.nan
            want = max(0.0, float(np.nanmean(pairs)))
            np.testing.assert_allclose(got, want, rtol=1e-10)


@part
class Confident(Signal):
    """log pi minus its mean over the batch's tokens."""

    @property
    def needs(self):
        return frozenset({"current"})

    def __call__(self, batch):
        mean = (batch.mask * batch.current).sum() / batch.mask.sum()
        return jnp.where(batch.mask > 0, batch.current - mean, 0.0)


def test_a_signal_may_read_the_policy_of_the_whole_batch():
    """The advantage of a cut batch sees every row at the parameters before it."""
    rows, batch = rows_and_batch("grpo")
    objective = replace(presets.grpo(), signal=Confident())
    got = advantage(POLICY, objective, PARAMS, rows, batch, 4, 2)
    logps = np.asarray(forward(PARAMS, rows).policy)
    mean = logps.sum() / np.asarray(rows.response_mask).sum()
    np.testing.assert_allclose(got, np.where(rows.response_mask, logps - mean, 0.0))


def test_only_what_is_needed_and_missing_is_computed():
    def never(params, tokens, mask):
        raise AssertionError("the model is not asked")

    rows, batch = rows_and_batch("grpo")
    silent = function_policy(never)
    assert with_present(silent, presets.grpo(), PARAMS, rows, batch) == batch
    given = replace(batch, current_entropy=jnp.ones(batch.mask.shape))
    top = EXAMPLES["grpo-top"]
    kept = with_present(silent, top, PARAMS, rows, given)
    np.testing.assert_array_equal(kept.current_entropy, 1.0)
    filled = with_present(POLICY, top, PARAMS, rows, batch)
    assert filled.current is None  # entropies alone are asked for
    want = forward(PARAMS, rows).entropy
    np.testing.assert_allclose(filled.current_entropy, want, rtol=1e-12)


def test_present_statistics_are_constants():
    """No gradient through the quantile, the reference point or the order."""

    def loss(params):
        rows, batch = rows_and_batch("kto")
        objective = EXAMPLES["kto"]
        batch = with_streams(objective, POLICY, rows, batch, OLD, REFERENCE)
        return with_present(POLICY, objective, params, rows, batch).mismatched[3, 0]

    grads = jax.grad(loss)(PARAMS)
    assert all(float(jnp.abs(g).max()) == 0.0 for g in jax.tree.leaves(grads))


def test_an_update_measures_the_present_at_its_own_parameters():
    """After a step the same batch has another reference point: the new policy's."""
    objective, (rows, batch) = presets.kto(), rows_and_batch("kto")
    batch = with_streams(objective, POLICY, rows, batch, OLD, REFERENCE)
    optimizer = SGD(5.0)
    state = State(jax.tree.map(jnp.array, PARAMS), optimizer.init(PARAMS), jnp.array(0))
    steps = jnp.asarray(2)
    for _ in range(2):
        present = with_present(POLICY, objective, state.params, rows, batch)
        want = float(objective(streams_of(POLICY, state.params, rows), present)[0])
        state, metrics = update(
            POLICY, objective, optimizer, state, rows, batch, 2, steps
        )
        assert float(metrics["loss"]) == pytest.approx(want, rel=1e-9)
