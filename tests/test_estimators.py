"""Whose gradient an estimator has: exact expectations by enumeration.

A softmax over six tokens for every centred divergence, then all sequences of two-step
trees. The oracles are numpy: textbook f, f', f'' in u, and central differences of the
scalar whose gradient is claimed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unipost
from unipost import Batch, Objective, Penalty, Streams, adjoint, unit_curvature
from unipost import divergences as d
from unipost.aggregation import SequenceSum
from unipost.penalties import SAMPLED
from unipost.signals import Raw, Zeros

log = np.log


@unipost.part
class LeCam(unipost.Divergence):
    """A user's divergence: K and the constants come from the defaults."""

    def f(self, log_u):
        return jnp.expm1(log_u) * jnp.tanh(log_u / 2)

    def f_prime(self, log_u):
        return jnp.tanh(log_u / 2) * (1 + 2 * jax.nn.sigmoid(-log_u))


@dataclass
class Case:
    """A divergence with its f, f', f'' as textbook functions of u."""

    divergence: Any
    f: Callable
    slope: Callable
    curve: Callable

    @property
    def flat(self):
        return not np.any(self.curve(np.array([0.5, 2.0])))


A, W, GAMMA = 0.3, 0.3, 1.5
CASES = {
    "reverse_kl": Case(
        d.ReverseKL(), lambda u: u * log(u) - u + 1, log, lambda u: 1 / u
    ),
    "forward_kl": Case(
        d.ForwardKL(), lambda u: u - 1 - log(u), lambda u: 1 - 1 / u, lambda u: u**-2
    ),
    "jensen_shannon": Case(
        d.JensenShannon(),
        lambda u: u * log(u) - (1 + u) * log((1 + u) / 2),
        lambda u: log(2 * u / (1 + u)),
        lambda u: 1 / (u * (1 + u)),
    ),
    "pearson_chi2": Case(
        d.PearsonChi2(),
        lambda u: (u - 1) ** 2,
        lambda u: 2 * (u - 1),
        lambda u: 2 + 0 * u,
    ),
    "neyman_chi2": Case(
        d.NeymanChi2(),
        lambda u: (u - 1) ** 2 / u,
        lambda u: 1 - u**-2,
        lambda u: 2 * u**-3,
    ),
    "squared_hellinger": Case(
        d.SquaredHellinger(),
        lambda u: (np.sqrt(u) - 1) ** 2,
        lambda u: 1 - u**-0.5,
        lambda u: u**-1.5 / 2,
    ),
    "alpha": Case(
        d.Alpha(A),
        lambda u: (u ** (1 - A) - (1 - A) * u - A) / (A * (A - 1)),
        lambda u: (1 - u**-A) / A,
        lambda u: u ** (-A - 1),
    ),
    "jeffreys": Case(
        d.Jeffreys(),
        lambda u: (u - 1) * log(u),
        lambda u: log(u) + 1 - 1 / u,
        lambda u: 1 / u + u**-2,
    ),
    "chi2_kl": Case(
        d.Chi2KL(),
        lambda u: (u - 1) ** 2 / 2 + u * log(u) - u + 1,
        lambda u: u - 1 + log(u),
        lambda u: 1 + 1 / u,
    ),
    "total_variation": Case(
        d.TotalVariation(),
        lambda u: np.abs(u - 1) / 2,
        lambda u: np.sign(u - 1) / 2,
        lambda u: 0 * u,
    ),
    "hockey_stick": Case(
        d.HockeyStick(GAMMA),
        lambda u: np.maximum(u - GAMMA, 0),
        lambda u: 1.0 * (u > GAMMA),
        lambda u: 0 * u,
    ),
    "skew_jensen_shannon": Case(
        d.SkewJensenShannon(W),
        lambda u: (
            (1 - W) * u * log(u / (W + (1 - W) * u)) - W * log(W + (1 - W) * u)
        ),
        lambda u: (1 - W) * log(u / (W + (1 - W) * u)),
        lambda u: W * (1 - W) / (u * (W + (1 - W) * u)),
    ),
    "unit_curvature": Case(
        unit_curvature(d.NeymanChi2()),
        lambda u: (u - 1) ** 2 / u / 2,
        lambda u: (1 - u**-2) / 2,
        lambda u: u**-3,
    ),
    "adjoint": Case(  # u f(1/u) of chi2_kl
        adjoint(d.Chi2KL()),
        lambda u: (u - 1) ** 2 / (2 * u) + u - 1 - log(u),
        lambda u: (1 - u**-2) / 2 + 1 - 1 / u,
        lambda u: u**-3 + u**-2,
    ),
    "le_cam": Case(
        LeCam(),
        lambda u: (u - 1) ** 2 / (u + 1),
        lambda u: 1 - 4 / (u + 1) ** 2,
        lambda u: 8 / (u + 1) ** 3,
    ),
}
UNCENTRED = {"shaping": d.Shaping(), "log_odds": d.LogOdds()}
SMOOTH = [name for name in CASES if not CASES[name].flat]
WEIGHT = 0.7
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-8}  # of a scalar, step 1e-5


def apart(got, other):
    return float(np.abs(np.asarray(got) - other).max()) > 1e-3


def log_softmax(z):
    return z - log(np.exp(z).sum(-1, keepdims=True))


def numeric_gradient(scalar, z, step=1e-5):
    found = np.zeros_like(z)
    for i in np.ndindex(z.shape):
        ahead, back = z.copy(), z.copy()
        ahead[i] += step
        back[i] -= step
        found[i] = (scalar(ahead) - scalar(back)) / (2 * step)
    return found


def primitive(slope, log_u):
    """int_1^u slope(v) dv by Gauss-Legendre, in two panels around the kink at GAMMA."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    middle = np.minimum(log_u, log(GAMMA))
    total = np.zeros_like(log_u)
    for low, high in ((0 * log_u, middle), (middle, log_u)):
        half = (high - low)[..., None] / 2
        v = np.exp(low[..., None] + half * (1 + nodes))
        total = total + (half * weights * v * slope(v)).sum(-1)
    return total


# one token of six: the policy, the reference, and the snapshot that drew the samples
_rng = np.random.default_rng(3)
LOGITS = _rng.normal(size=6)
REFERENCE = log_softmax(_rng.normal(size=6))
POLICY, OLD = log_softmax(LOGITS), log_softmax(LOGITS + 0.4 * _rng.normal(size=6))
LOG_U = POLICY - REFERENCE
U, RHO = np.exp(LOG_U), np.exp(POLICY - OLD)


def divergence_at(h):
    """The scalar E_ref[h(u)] as a function of the logits."""
    return lambda z: np.exp(REFERENCE) @ h(np.exp(log_softmax(z) - REFERENCE))


def true_gradient(h):
    return numeric_gradient(divergence_at(h), LOGITS)


def score_gradient(sampler, coefficient):
    """E_sampler[coefficient grad log pi] in the logits."""
    cost = np.exp(sampler) * coefficient
    return cost - np.exp(POLICY) * cost.sum()


def expected(penalty, sampler, signal=Zeros()):
    """(value, gradient) of the loss in the logits, expected over y ~ sampler.

    One group holds the whole vocabulary; a row's weight is its probability.
    """
    shape = (1, 6, 1)
    batch = Batch(
        mask=jnp.ones(shape),
        weight=6 * np.exp(sampler)[None],
        rewards=REWARDS[None],
        reference=REFERENCE.reshape(shape),
        old=sampler.reshape(shape),
        reference_vocab=jnp.broadcast_to(REFERENCE, (*shape, 6)),
    )
    objective = Objective(signal=signal, aggregation=SequenceSum(), penalty=penalty)

    def loss(z):
        log_p = jax.nn.log_softmax(z)
        vocab = jnp.broadcast_to(log_p, (*shape, 6))
        return objective(Streams(log_p.reshape(shape), vocab=vocab), batch)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(LOGITS))
    return float(value) / WEIGHT, np.asarray(gradient) / WEIGHT


REWARDS = _rng.normal(size=6)


def oracle(case, rho=1.0):
    """Per token: the value of every sampled estimator, and its slope in log pi."""
    f, slope, curve = case.f(U), case.slope(U), case.curve(U)
    k2 = primitive(lambda v: case.slope(v) / v, LOG_U)
    return {
        "k1": (slope, U * curve),
        "abs": (np.abs(slope), np.sign(slope) * U * curve),
        "k2": (k2, slope),
        "k3": (f / U, slope - f / U),
        "importance_k2": (rho * k2, rho * slope),
        "importance_k3": (rho * f / U, rho * slope),
    }


def usable(case):
    return [e for e in SAMPLED if not (case.flat and e in ("k1", "abs"))]


def test_every_named_divergence_is_here_or_refused():
    assert set(CASES) - {"le_cam"} | set(UNCENTRED) == set(unipost.DIVERGENCES)
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
    for sampler, rho in ((POLICY, 1.0), (OLD, RHO)):
        want = oracle(case, rho)
        for estimator in usable(case):
            penalty = Penalty(WEIGHT, case.divergence, estimator)
            value, gradient = expected(penalty, sampler)
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

    def gradient(estimator, sampler, claim):
        got = expected(Penalty(WEIGHT, case.divergence, estimator), sampler)
        np.testing.assert_allclose(got[1], claim, **DIFFERENCES)
        return got[0]

    gradient("k2", POLICY, true)
    assert gradient("exact", POLICY, true * 1.0) == pytest.approx(value, rel=1e-11)
    gradient("importance_k2", OLD, true)
    got = gradient("importance_k3", OLD, true)
    assert got == pytest.approx(value, rel=1e-11)
    # k3 has the value of D_f and the gradient of D_h, h' = f' - f/u
    h = true_gradient(
        lambda u: primitive(lambda v: case.slope(v) - case.f(v) / v, log(u))
    )
    assert gradient("k3", POLICY, h) == pytest.approx(value, rel=1e-11)
    assert apart(h, true)
    # k2 and k3 on stale samples: neither
    for estimator in ("k2", "k3"):
        off = expected(Penalty(WEIGHT, case.divergence, estimator), OLD)
        assert apart(off[1], true)
        assert abs(off[0] - value) > 1e-3


@pytest.mark.parametrize("name", SMOOTH)
def test_what_k1_and_its_absolute_value_descend(name):
    """k1: E_ref[u f' - f]; abs: E_ref|u f' - f|. grad D_f for Pearson's k1 alone."""
    case = CASES[name]
    true = true_gradient(case.f)
    k1 = expected(Penalty(WEIGHT, case.divergence, "k1"), POLICY)[1]
    own = true_gradient(lambda u: u * case.slope(u) - case.f(u))
    np.testing.assert_allclose(k1, own, **DIFFERENCES)
    assert apart(k1, true) == (name != "pearson_chi2")
    size = expected(Penalty(WEIGHT, case.divergence, "abs"), POLICY)[1]
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
    got = expected(Penalty(WEIGHT, CASES[name].divergence, estimator), POLICY)[1]
    parts = KNOWN[name, estimator].items()
    want = sum((c * true_gradient(CASES[other].f) for other, c in parts), 0 * LOGITS)
    np.testing.assert_allclose(got, want, **DIFFERENCES)


@pytest.mark.parametrize("name", CASES)
def test_straight_through_has_one_value_and_the_other_gradient(name):
    """All pairs for Jensen-Shannon; k3 with the gradient of k2 for the others."""
    case, want = CASES[name], oracle(CASES[name], RHO)
    pairs = [("k3", "k2"), ("k3", "importance_k3")]
    if name == "jensen_shannon":
        pairs = [(a, b) for a in SAMPLED for b in SAMPLED if a != b]
    for estimator, gradient in pairs:
        penalty = Penalty(WEIGHT, case.divergence, estimator, gradient)
        value, got = expected(penalty, OLD)
        assert value == pytest.approx(np.exp(OLD) @ want[estimator][0], rel=1e-11)
        slopes = score_gradient(OLD, want[gradient][1])
        np.testing.assert_allclose(got, slopes, **CLOSE)
    unbiased = expected(Penalty(WEIGHT, case.divergence, "k3", "k2"), POLICY)
    true = true_gradient(case.f)
    np.testing.assert_allclose(unbiased[1], true, **DIFFERENCES)
    assert unbiased[0] == pytest.approx(divergence_at(case.f)(LOGITS), rel=1e-11)


@pytest.mark.parametrize("name", SMOOTH)
def test_in_the_reward_and_over_the_policy_itself(name):
    """r - w f'(u) through the advantage: -grad E[r] + w grad D_f. over: self, rho = 1."""
    case, true = CASES[name], true_gradient(CASES[name].f)
    penalty = Penalty(WEIGHT, case.divergence, "in_reward")
    got = expected(penalty, POLICY, Raw())[1] * WEIGHT
    reward = score_gradient(POLICY, REWARDS)
    np.testing.assert_allclose(got, WEIGHT * true - reward, **DIFFERENCES)
    penalty = Penalty(WEIGHT, case.divergence, "importance_k3", over="self")
    value, got = expected(penalty, POLICY)
    np.testing.assert_allclose(got, true, **DIFFERENCES)
    assert value == pytest.approx(divergence_at(case.f)(LOGITS), rel=1e-11)
