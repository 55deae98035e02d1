"""Whose gradient an estimator has: exact expectations by enumeration.

A softmax over six tokens for every centred divergence, then all sequences of two-step
trees. The oracles are numpy: textbook f, f', f'' in u, and central differences of the
scalar whose gradient is claimed.
"""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_step_tree as tree
from textbook import CASES, estimators, log_softmax, numeric_gradient, primitive

from unipost import DIVERGENCES, Batch, Objective, Penalty, Streams, presets
from unipost.aggregation import SequenceSum
from unipost.parametric import LogOdds, Shaping
from unipost.penalties import SAMPLED
from unipost.signals import Raw, Zeros

UNCENTRED = {"shaping": Shaping(), "log_odds": LogOdds()}
SMOOTH = [name for name in CASES if not CASES[name].flat]
PREFERENCES = ["jensen_shannon", "squared_hellinger", "chi2_kl", "forward_kl"]
SEVERAL = ["reverse_kl", *PREFERENCES[1:], "pearson_chi2"]
WEIGHT = 0.7
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-8}  # of a scalar, step 1e-5


def apart(got, other):
    return float(np.abs(np.asarray(got) - other).max()) > 1e-3


# one token of six: the policy, the reference, and the snapshot that drew the samples
_rng = np.random.default_rng(3)
LOGITS = _rng.normal(size=6)
REFERENCE = log_softmax(_rng.normal(size=6))
POLICY, OLD = log_softmax(LOGITS), log_softmax(LOGITS + 0.4 * _rng.normal(size=6))
LOG_U = POLICY - REFERENCE
SAMPLES = {"fresh": POLICY, "stale": OLD}
REWARDS = _rng.normal(size=6)


def divergence_at(h):
    """The scalar E_ref[h(u)] as a function of the logits."""
    return lambda z: np.exp(REFERENCE) @ h(np.exp(log_softmax(z) - REFERENCE))


def true_gradient(h):
    return numeric_gradient(divergence_at(h), LOGITS)


def score_gradient(sampler, coefficient):
    """E_sampler[coefficient grad log pi] in the logits."""
    cost = np.exp(sampler) * coefficient
    return cost - np.exp(POLICY) * cost.sum()


@lru_cache
def measured(penalty, signal=Zeros()):
    """Value and gradient in the logits of the loss on each of the SAMPLES.

    One group holds the whole vocabulary; a row's weight is its probability.
    """
    shape = (1, 6, 1)
    objective = Objective(signal=signal, aggregation=SequenceSum(), penalty=penalty)

    def loss(z, sampler):
        batch = Batch(
            mask=jnp.ones(shape),
            weight=6 * jnp.exp(sampler)[None],
            rewards=REWARDS[None],
            reference=REFERENCE.reshape(shape),
            old=sampler.reshape(shape),
            reference_vocab=jnp.broadcast_to(REFERENCE, (*shape, 6)),
        )
        log_p = jax.nn.log_softmax(z)
        vocab = jnp.broadcast_to(log_p, (*shape, 6))
        return objective(Streams(log_p.reshape(shape), vocab=vocab), batch)[0]

    both = jnp.stack(list(SAMPLES.values()))
    values, gradients = jax.vmap(jax.value_and_grad(loss), (None, 0))(LOGITS, both)
    pairs = zip(np.asarray(values), np.asarray(gradients), strict=True)
    return dict(zip(SAMPLES, pairs, strict=True))


def expected(penalty, samples="fresh"):
    """(value, gradient) of the penalty per unit of weight, over those samples."""
    value, gradient = measured(penalty)[samples]
    return value / WEIGHT, gradient / WEIGHT


def usable(case):
    return [e for e in SAMPLED if not (case.flat and e in ("k1", "abs"))]


def test_every_named_divergence_is_here_or_refused():
    assert set(CASES) | set(UNCENTRED) == set(DIVERGENCES)
    for divergence in UNCENTRED.values():
        with pytest.raises(ValueError, match="uncentred"):
            Penalty(WEIGHT, divergence)
    for name in ("total_variation", "hockey_stick"):
        for estimator in ("k1", "abs", "in_reward"):
            with pytest.raises(ValueError, match="constant on each side"):
                Penalty(WEIGHT, CASES[name].divergence, estimator)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_of_every_estimator(name):
    """Fresh samples and stale ones, against the table's closed forms."""
    case = CASES[name]
    for samples, sampler in SAMPLES.items():
        want = estimators(case, LOG_U, np.exp(POLICY - sampler))
        for estimator in usable(case):
            penalty = Penalty(WEIGHT, case.divergence, estimator)
            value, gradient = expected(penalty, samples)
            values, slopes = want[estimator]
            assert value == pytest.approx(np.exp(sampler) @ values, rel=1e-11)
            np.testing.assert_allclose(
                gradient, score_gradient(sampler, slopes), **CLOSE
            )


@pytest.mark.parametrize("name", CASES)
def test_which_of_them_is_the_gradient_of_the_divergence(name):
    """grad D_f: k2 fresh, importance ones stale, exact; the others are another's."""
    case = CASES[name]
    true, value = true_gradient(case.f), divergence_at(case.f)(LOGITS)

    def gradient(estimator, samples, claim):
        got = expected(Penalty(WEIGHT, case.divergence, estimator), samples)
        np.testing.assert_allclose(got[1], claim, **DIFFERENCES)
        return got[0]

    gradient("k2", "fresh", true)
    assert gradient("exact", "fresh", true) == pytest.approx(value, rel=1e-11)
    gradient("importance_k2", "stale", true)
    got = gradient("importance_k3", "stale", true)
    assert got == pytest.approx(value, rel=1e-11)
    # k3 has the value of D_f and the gradient of D_h, h' = f' - f/u
    h = true_gradient(
        lambda u: primitive(lambda v: case.slope(v) - case.f(v) / v, np.log(u))
    )
    assert gradient("k3", "fresh", h) == pytest.approx(value, rel=1e-11)
    assert apart(h, true)
    # k2 and k3 on stale samples: neither
    for estimator in ("k2", "k3"):
        off = expected(Penalty(WEIGHT, case.divergence, estimator), "stale")
        assert apart(off[1], true)
        assert abs(off[0] - value) > 1e-3


@pytest.mark.parametrize("name", SMOOTH)
def test_what_k1_and_its_absolute_value_descend(name):
    """k1: E_ref[u f' - f]; abs: E_ref|u f' - f|. grad D_f for Pearson's k1 alone."""
    case = CASES[name]
    true = true_gradient(case.f)
    k1 = expected(Penalty(WEIGHT, case.divergence, "k1"))[1]
    own = true_gradient(lambda u: u * case.slope(u) - case.f(u))
    np.testing.assert_allclose(k1, own, **DIFFERENCES)
    assert apart(k1, true) == (name != "pearson_chi2")
    size = expected(Penalty(WEIGHT, case.divergence, "abs"))[1]
    kinked = true_gradient(lambda u: np.abs(u * case.slope(u) - case.f(u)))
    np.testing.assert_allclose(size, kinked, **DIFFERENCES)
    assert apart(size, true)


KNOWN = {  # estimator as a loss: the divergences whose gradients it adds up
    ("reverse_kl", "k1"): {},
    ("reverse_kl", "abs"): {"total_variation": 2},
    ("reverse_kl", "k3"): {"forward_kl": 1},
    ("forward_kl", "k1"): {"forward_kl": -1},
    ("pearson_chi2", "k1"): {"pearson_chi2": 1},
    ("pearson_chi2", "k3"): {"pearson_chi2": 0.5, "forward_kl": 1},
    ("neyman_chi2", "k1"): {"neyman_chi2": -2},
    ("squared_hellinger", "k3"): {"forward_kl": 1, "squared_hellinger": -1},
    ("chi2_kl", "k1"): {"pearson_chi2": 0.5},
    ("chi2_kl", "k3"): {"pearson_chi2": 0.25, "forward_kl": 1.5},
}


@pytest.mark.parametrize("name, estimator", KNOWN)
def test_divergences_that_the_wrong_estimators_descend(name, estimator):
    got = expected(Penalty(WEIGHT, CASES[name].divergence, estimator))[1]
    parts = KNOWN[name, estimator].items()
    want = sum((c * true_gradient(CASES[other].f) for other, c in parts), 0 * LOGITS)
    np.testing.assert_allclose(got, want, **DIFFERENCES)


@pytest.mark.parametrize("name", CASES)
def test_straight_through_has_one_value_and_the_other_gradient(name):
    """All pairs for Hellinger; k3 with the gradient of k2 for the others."""
    case = CASES[name]
    want = estimators(case, LOG_U, np.exp(POLICY - OLD))
    pairs = [("k3", "k2"), ("k3", "importance_k3")]
    if name == "squared_hellinger":
        pairs = [(a, b) for a in SAMPLED for b in SAMPLED if a != b]
    for estimator, gradient in pairs:
        penalty = Penalty(WEIGHT, case.divergence, estimator, gradient)
        value, got = expected(penalty, "stale")
        assert value == pytest.approx(np.exp(OLD) @ want[estimator][0], rel=1e-11)
        slopes = score_gradient(OLD, want[gradient][1])
        np.testing.assert_allclose(got, slopes, **CLOSE)
    unbiased = expected(Penalty(WEIGHT, case.divergence, "k3", "k2"))
    true = true_gradient(case.f)
    np.testing.assert_allclose(unbiased[1], true, **DIFFERENCES)
    assert unbiased[0] == pytest.approx(divergence_at(case.f)(LOGITS), rel=1e-11)


@pytest.mark.parametrize("name", SMOOTH)
def test_in_the_reward_and_over_the_policy_itself(name):
    """r - w f'(u) in the advantage: -grad E[r] + w grad D_f; over self: rho = 1."""
    case, true = CASES[name], true_gradient(CASES[name].f)
    penalty = Penalty(WEIGHT, case.divergence, "in_reward")
    _, got = measured(penalty, Raw())["fresh"]
    reward = score_gradient(POLICY, REWARDS)
    np.testing.assert_allclose(got, WEIGHT * true - reward, **DIFFERENCES)
    penalty = Penalty(WEIGHT, case.divergence, "importance_k3", over="self")
    value, got = expected(penalty)
    np.testing.assert_allclose(got, true, **DIFFERENCES)
    assert value == pytest.approx(divergence_at(case.f)(LOGITS), rel=1e-11)


def on_tree(penalty, mask, sampler=tree.POLICY):
    """(value, gradient) in the logits [4, 3], expected over sequences of `sampler`."""
    batch = Batch(
        mask=mask[None],
        weight=9 * np.exp(sampler[tree.STATES, tree.ACTIONS].sum(-1))[None],
        reference=tree.REFERENCE[tree.STATES, tree.ACTIONS][None],
        old=sampler[tree.STATES, tree.ACTIONS][None],
        reference_vocab=tree.REFERENCE[tree.STATES][None],
    )
    objective = Objective(signal=Zeros(), aggregation=SequenceSum(), penalty=penalty)

    def loss(z):
        log_p = jax.nn.log_softmax(z)
        streams = Streams(
            log_p[tree.STATES, tree.ACTIONS][None], vocab=log_p[tree.STATES][None]
        )
        return objective(streams, batch)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(tree.LOGITS))
    return float(value) / WEIGHT, np.asarray(gradient) / WEIGHT


TREES = pytest.mark.parametrize(
    "name, mask",
    [(name, tree.FULL) for name in SEVERAL] + [("chi2_kl", tree.ENDED)],
    ids=[*SEVERAL, "ended"],
)


@TREES
def test_tokens_of_a_sequence_with_the_states_held_and_moving(name, mask):
    """k2 and exact hold the states; to_go does not: f' now, f/u of what follows."""
    case = CASES[name]
    f, policy = case.divergence, tree.POLICY
    moving = numeric_gradient(tree.of_tokens(case, mask), tree.LOGITS)
    held = numeric_gradient(tree.of_tokens(case, mask, policy), tree.LOGITS)
    value = pytest.approx(tree.of_tokens(case, mask)(tree.LOGITS), rel=1e-11)
    assert apart(moving, held)
    k2 = on_tree(Penalty(WEIGHT, f, "k2"), mask)[1]
    np.testing.assert_allclose(k2, held, **DIFFERENCES)
    total, exact = on_tree(Penalty(WEIGHT, f, "exact"), mask)
    np.testing.assert_allclose(exact, held, **DIFFERENCES)
    assert total == value
    total, to_go = on_tree(Penalty(WEIGHT, f, "k3", gradient="to_go"), mask)
    np.testing.assert_allclose(to_go, moving, **DIFFERENCES)
    assert total == value
    # f' of the tokens that follow, in place of f/u: right for reverse KL alone
    slope = mask * case.slope(
        np.exp((policy - tree.REFERENCE)[tree.STATES, tree.ACTIONS])
    )
    later = np.stack([slope[:, 1], 0 * tree.FIRST], -1)
    wrong = tree.reinforce(slope + later, mask)
    assert apart(wrong, moving) == (name != "reverse_kl")
    whole = numeric_gradient(tree.of_sequences(case, mask), tree.LOGITS)
    assert apart(whole, moving) == (name != "reverse_kl")


@TREES
def test_the_whole_sequence_fresh_and_stale(name, mask):
    """Level sequence: k2 fresh and rho k3, rho k2 stale have grad D_f of sequences."""
    f, scalar = CASES[name].divergence, tree.of_sequences(CASES[name], mask)
    true, value = numeric_gradient(scalar, tree.LOGITS), scalar(tree.LOGITS)

    def gradient(estimator, sampler, **settings):
        penalty = Penalty(WEIGHT, f, estimator, level="sequence", **settings)
        return on_tree(penalty, mask, sampler)

    k2 = gradient("k2", tree.POLICY)[1]
    np.testing.assert_allclose(k2, true, **DIFFERENCES)
    assert apart(gradient("k3", tree.POLICY)[1], true)
    assert apart(gradient("k2", tree.OLD)[1], true)
    for estimator in ("importance_k2", "importance_k3"):
        got, slope = gradient(estimator, tree.OLD, importance="sequence")
        np.testing.assert_allclose(slope, true, **DIFFERENCES)
    assert got == pytest.approx(value, rel=1e-11)


@TREES
def test_stale_tokens_and_whose_states_they_hold(name, mask):
    """Token rho: the states where old goes. Sequence rho: k2 the policy's, k3 moving.

    The geometric mean of the ratios is none of the three.
    """
    case = CASES[name]
    f, stale = case.divergence, tree.OLD
    moving = numeric_gradient(tree.of_tokens(case, mask), tree.LOGITS)
    held, elsewhere = (
        numeric_gradient(tree.of_tokens(case, mask, at), tree.LOGITS)
        for at in (tree.POLICY, stale)
    )
    assert apart(held, elsewhere)
    for estimator, whole in (("importance_k2", held), ("importance_k3", moving)):
        penalty = Penalty(WEIGHT, f, estimator)
        got = on_tree(penalty, mask, stale)[1]
        np.testing.assert_allclose(got, elsewhere, **DIFFERENCES)
        penalty = replace(penalty, importance="sequence")
        value, got = on_tree(penalty, mask, stale)
        np.testing.assert_allclose(got, whole, **DIFFERENCES)
        penalty = replace(penalty, importance="sequence_mean")
        got = on_tree(penalty, mask, stale)[1]
        assert all(apart(got, other) for other in (moving, held, elsewhere))
    assert value == pytest.approx(tree.of_tokens(case, mask)(tree.LOGITS), rel=1e-11)


BETA = 0.6
GIVEN = np.random.default_rng(1).uniform(size=9)
PAIRS = np.stack(np.triu_indices(9, 1), -1)


def pairs_of(log_p, mask):
    """(streams, batch) of all 36 pairs [36, 2, 2] under the policy log_p [4, 3]."""
    states, actions = tree.STATES[PAIRS], tree.ACTIONS[PAIRS]
    batch = Batch(
        mask=jnp.asarray(mask[PAIRS]),
        reference=jnp.asarray(tree.REFERENCE[states, actions]),
        reference_vocab=jnp.asarray(tree.REFERENCE[states]),
    )
    return Streams(log_p[states, actions], vocab=log_p[states]), batch


@jax.jit
def per_pair(objective, streams, batch):
    """The metrics of every pair by itself; objective and data are arguments."""
    return jax.vmap(lambda *pair: objective(*pair)[1])(streams, batch)


@pytest.mark.parametrize("mask", [tree.FULL, tree.ENDED], ids=["full", "ended"])
@pytest.mark.parametrize("name", PREFERENCES)
def test_token_preference_of_the_optimal_policy_is_the_reward(name, mask):
    """The optimum of E[R] - beta E sum D_f: implicit reward = R - V(root)."""
    case = CASES[name]
    rewards = np.where(mask[:, 1] > 0, GIVEN, GIVEN[0])
    log_p, value = tree.optimum(case, rewards, mask, BETA)
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1.0, rtol=1e-12)
    objective = presets.f_dpo(case.divergence, BETA, level="token")
    data = jax.tree.map(lambda x: x[:, None], pairs_of(jnp.asarray(log_p), mask))
    metrics = per_pair(objective, *data)
    want = rewards[PAIRS] - value
    np.testing.assert_allclose(metrics["chosen"], want[:, 0], atol=1e-10)
    np.testing.assert_allclose(metrics["rejected"], want[:, 1], atol=1e-10)
    gap = want[:, 0] - want[:, 1]
    np.testing.assert_allclose(metrics["margin"], gap, atol=1e-10)


@pytest.mark.parametrize("name", ["reverse_kl", *PREFERENCES])
def test_without_a_correction_only_the_reverse_kl_adds_up(name):
    case = CASES[name]
    log_p, value = tree.optimum(case, GIVEN, tree.FULL, BETA)
    error = np.abs(tree.naive(case, log_p, tree.FULL, BETA) + value - GIVEN).max()
    assert error < 1e-10 if name == "reverse_kl" else error > 0.01


@pytest.mark.parametrize("name", PREFERENCES[:2])
def test_token_preference_loss_and_gradient(name):
    """-log sigmoid(margin), mean over pairs, in all logits; the larger reward wins."""
    case, mask = CASES[name], tree.ENDED
    sign = np.sign(GIVEN[PAIRS[:, 0]] - GIVEN[PAIRS[:, 1]])
    objective = presets.f_dpo(case.divergence, BETA, level="token")

    def loss(z):
        streams, batch = pairs_of(jax.nn.log_softmax(z), mask)
        batch = replace(batch, rewards=jnp.asarray(GIVEN[PAIRS]))
        return objective(streams, batch)[0]

    def scalar(z):
        reward = tree.corrected(case, log_softmax(z), mask, BETA)[PAIRS]
        return np.logaddexp(0.0, -sign * (reward[:, 0] - reward[:, 1])).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(tree.LOGITS)
    assert float(value) == pytest.approx(scalar(tree.LOGITS), rel=1e-12)
    true = numeric_gradient(scalar, tree.LOGITS)
    np.testing.assert_allclose(gradient, true, **DIFFERENCES)
