"""Losses of reward models in numpy; one denominator whatever the cut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import MEAN, rows_and_batch

from unipost import Batch
from unipost.reward_model import bradley_terry
from unipost.scalar.model import ScalarStreams, scalar_policy, with_head
from unipost.scalar.reward_models import BradleyTerry, ProcessReward
from unipost.update import loss_and_grad, with_packing

POLICY = scalar_policy(MEAN.policy)
P, G, T = 8, 2, 5


def pairs(seed=0, **fields):
    """Ragged pairs, two without a winner and one with an empty response."""
    rng = np.random.default_rng(seed)
    rows, _ = rows_and_batch("dpo", seed)
    rewards = rng.normal(size=(P, G))
    rewards[3] = 1.0
    rewards[4, 0] = np.nan
    batch = Batch(mask=rows.response_mask, rewards=jnp.asarray(rewards), **fields)
    return rows, batch


def last_scores(scores, mask):
    """The score at the last real token of each row; 0 of an empty one."""
    out = np.zeros(mask.shape[:2])
    for p, g in np.ndindex(mask.shape[:2]):
        places = np.flatnonzero(mask[p, g])
        out[p, g] = scores[p, g, places[-1]] if len(places) else 0.0
    return out


@pytest.mark.parametrize("centering", [None, 0.3])
@pytest.mark.parametrize("margin", ["none", "column"])
def test_bradley_terry_is_that_of_the_pairs_that_compare_something(margin, centering):
    rng = np.random.default_rng(1)
    wide = jnp.asarray(np.repeat(rng.normal(size=(P, 1)), G, 1))
    _, batch = pairs(margin=wide)
    scores = rng.normal(size=(P, G, T))
    last = last_scores(scores, np.asarray(batch.mask))
    rewards = np.asarray(batch.rewards)
    # 1 has an empty response, 3 a tie, 4 an unscored row
    good = [0, 2, 5, 6, 7]
    high = rewards[good].argmax(1)
    chosen, rejected = last[good, high], last[good, 1 - high]
    gaps = np.asarray(wide)[good, 0] if margin == "column" else None
    want, numbers = bradley_terry(chosen, rejected, gaps, centering)
    objective = BradleyTerry(margin, centering)
    streams = ScalarStreams(scores=jnp.asarray(scores)[..., None])
    loss, metrics = objective.loss(streams, objective.prepare(batch))
    assert float(loss) == pytest.approx(float(want), rel=1e-10)
    assert float(metrics["accuracy"]) == pytest.approx(float(numbers["accuracy"]))
    assert float(metrics["margin"]) == pytest.approx(float(numbers["margin"]))
    mean = (metrics["chosen_reward"] + metrics["rejected_reward"]) / 2
    assert float(mean) == pytest.approx(float(numbers["mean_reward"]))


def test_without_rewards_the_first_response_is_chosen():
    _, batch = pairs()
    bare = dataclasses.replace(batch, rewards=None)
    first = jnp.asarray(np.tile([1.0, 0.0], (P, 1)))
    same = dataclasses.replace(batch, rewards=first)
    one, two = (BradleyTerry().prepare(b) for b in (bare, same))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_weight_of_a_pair_leaves_the_denominator_alone():
    _, batch = pairs()
    weight = jnp.asarray(np.random.default_rng(0).random((P, G)))
    plain = BradleyTerry().prepare(batch)
    heavy = BradleyTerry().prepare(dataclasses.replace(batch, weight=weight))
    np.testing.assert_allclose(heavy.weight, plain.weight * weight.prod(-1))
    np.testing.assert_array_equal(heavy.mean, plain.mean)


def solutions(seed=0):
    """Rows with labels -1, 0, 1 and NaN at some tokens, the second row empty."""
    rng = np.random.default_rng(seed)
    rows, _ = rows_and_batch("dpo", seed)
    steps = rng.random((P, G, T)) < 0.7
    labels = rng.choice([-1.0, 0.0, 1.0, np.nan], (P, G, T), p=[0.3, 0.2, 0.4, 0.1])
    batch = Batch(
        mask=rows.response_mask,
        rewards=jnp.asarray(labels),
        steps=jnp.asarray(steps * 1.0),
    )
    return rows, batch


@pytest.mark.parametrize("neutral", ["right", "wrong", "skip"])
@pytest.mark.parametrize("until", ["first_wrong", "all"])
def test_process_reward_step_by_step(neutral, until):
    rng = np.random.default_rng(2)
    _, batch = solutions()
    scores = 2 * rng.normal(size=(P, G, T, 2))
    mask, steps = np.asarray(batch.mask), np.asarray(batch.steps)
    labels = np.asarray(batch.rewards)
    losses, hits, rights = [], [], []
    for p, g in np.ndindex(P, G):
        for t in range(T):
            label = labels[p, g, t]
            if not mask[p, g, t] or not steps[p, g, t] or np.isnan(label):
                continue
            if label == 0 and neutral == "skip":
                continue
            right = label > 0 or (label == 0 and neutral == "right")
            wrong_score, right_score = scores[p, g, t]
            gap = right_score - wrong_score
            losses.append(np.log1p(np.exp(-gap if right else gap)))
            hits.append((gap > 0) == right)
            rights.append(right)
            if not right and until == "first_wrong":
                break
    objective = ProcessReward(neutral, until)
    streams = ScalarStreams(scores=jnp.asarray(scores))
    loss, metrics = objective.loss(streams, objective.prepare(batch))
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-10)
    assert float(metrics["accuracy"]) == pytest.approx(np.mean(hits))
    assert float(metrics["right"]) == pytest.approx(np.mean(rights))
    assert 0 < float(metrics["predicted_right"]) < 1


CASES = {
    "bradley_terry": (BradleyTerry(centering=0.1), pairs),
    "process_reward": (ProcessReward(), solutions),
}


def headed(labels, seed=0):
    """The mean model with a random head of so many labels."""
    params = with_head(MEAN.policy, MEAN.params, labels, ("bias",))
    rng = np.random.default_rng(seed)
    score = {
        k: jnp.asarray(rng.normal(size=x.shape)) for k, x in params["score"].items()
    }
    return {**params, "score": score}


@pytest.mark.parametrize("name", CASES)
def test_pieces_add_up_to_the_whole(name):
    objective, make = CASES[name]
    rows, batch = make()
    params = headed(objective.labels)
    prepared = objective.prepare(batch)

    def step(pieces):
        args = POLICY, objective, params, rows, prepared, pieces
        return jax.jit(lambda: loss_and_grad(*args))()

    (loss, metrics), grads = step(1)
    for pieces in (2, 8):
        (other, numbers), slopes = step(pieces)
        assert float(other) == pytest.approx(float(loss), rel=1e-6)
        for key, value in metrics.items():
            assert float(numbers[key]) == pytest.approx(float(value), rel=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            slopes,
            grads,
        )


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_the_head_by_central_differences(name):
    objective, make = CASES[name]
    rows, batch = make()
    params = jax.tree.map(lambda x: x.astype(jnp.float64), headed(objective.labels))
    prepared = objective.prepare(batch)
    direction = np.random.default_rng(5).normal(size=params["score"]["kernel"].shape)

    @jax.jit
    def step(kernel):
        score = {**params["score"], "kernel": kernel}
        whole = {**params, "score": score}
        return loss_and_grad(POLICY, objective, whole, rows, prepared)

    kernel, tiny = params["score"]["kernel"], 1e-6
    (_, _), grads = step(kernel)
    ends = [float(step(kernel + s * tiny * direction)[0][0]) for s in (1, -1)]
    slope = float((grads["score"]["kernel"] * direction).sum())
    assert (ends[0] - ends[1]) / (2 * tiny) == pytest.approx(slope, rel=1e-6)


def test_the_score_is_read_after_the_last_token():
    """Changing a pair's last token changes its loss, and a padded token none."""
    rows, batch = pairs()
    objective, params = BradleyTerry(), headed(1)
    prepared = objective.prepare(batch)
    mask = np.asarray(rows.response_mask)

    @jax.jit
    def losses(response):
        changed = rows._replace(response=response)
        return loss_and_grad(POLICY, objective, params, changed, prepared)[0][0]

    base = float(losses(rows.response))
    tokens = np.asarray(rows.response).copy()
    tokens[0, 0, np.flatnonzero(mask[0, 0])[-1]] += 1
    assert float(losses(jnp.asarray(tokens % 11))) != base
    padded = np.where(mask, np.asarray(rows.response), 7)
    assert float(losses(jnp.asarray(padded))) == base


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: BradleyTerry(centering=0.0),
            "centering: 0 is not positive",
        ),
        (lambda: BradleyTerry("column").prepare(pairs()[1]), "batch.margin: missing"),
        (
            lambda: ProcessReward().prepare(
                dataclasses.replace(pairs()[1], steps=solutions()[1].steps)
            ),
            r"batch.rewards: shape \(8, 2\); write a label for every step",
        ),
        (
            lambda: ProcessReward().loss(
                ScalarStreams(scores=jnp.zeros((P, G, T, 1))),
                ProcessReward().prepare(solutions()[1]),
            ),
            "streams.scores: 1 labels; write a head with 2",
        ),
        (
            lambda: BradleyTerry().loss(
                ScalarStreams(), BradleyTerry().prepare(pairs()[1])
            ),
            "streams.scores: missing",
        ),
        (
            lambda: loss_and_grad(
                POLICY,
                BradleyTerry(),
                headed(1),
                with_packing(pairs()[0], 12, 1),
                BradleyTerry().prepare(pairs()[1]),
            ),
            "packed_length: packed rows hold no last token",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
