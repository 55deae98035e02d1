"""The theorems behind the objective, by enumeration on small vocabularies.

Sections of the formulation: duality and the SFT = TV threshold, the one-hot family,
the f-regularised bandit, token-level telescoping, and which gradient each penalty
estimator has (the wrong ones included).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost import Batch, Objective, Penalty
from unipost.aggregation import SequenceSum
from unipost.classical import (
    Chi2KL,
    ForwardKL,
    Jeffreys,
    JensenShannon,
    NeymanChi2,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.parametric import Alpha, adjoint
from unipost.penalties import exact_divergence
from unipost.signals import Raw

SMOOTH = [
    ReverseKL(),
    ForwardKL(),
    JensenShannon(),
    PearsonChi2(),
    NeymanChi2(),
    SquaredHellinger(),
    Jeffreys(),
    Chi2KL(),
    Alpha(0.3),
]


def minimise(loss, start, steps=4000, rate=0.05):
    """Adam to a stationary point; an optimiser that knows nothing of the theorem."""
    import optax

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(jax.grad(loss)(x), state)
        return (optax.apply_updates(x, updates), state), None

    carry = (start, optimizer.init(start))
    (x, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))(carry)
    return x


EXPERT = jnp.array([0.4, 0.3, 0.2, 0.1])
REFERENCE = jnp.array([0.1, 0.2, 0.3, 0.4])
DUAL = {
    ReverseKL(): (0.19199148, [0.2530, 0.2842, 0.2646, 0.1981]),
    ForwardKL(): (0.18692165, [0.2572, 0.2711, 0.2557, 0.2161]),
    JensenShannon(): (0.13164785, [0.2015, 0.2559, 0.2761, 0.2665]),
    PearsonChi2(): (0.24317498, [0.3043, 0.3018, 0.2444, 0.1495]),
    NeymanChi2(): (0.23489997, [0.3081, 0.2813, 0.2347, 0.1759]),
    SquaredHellinger(): (0.13272022, [0.2031, 0.2565, 0.2766, 0.2638]),
    Chi2KL(): (0.24211036, [0.3050, 0.2987, 0.2438, 0.1525]),
    Jeffreys(): (0.23949852, [0.3062, 0.2919, 0.2416, 0.1604]),
    Alpha(0.3): (0.19041020, [0.2541, 0.2801, 0.2623, 0.2035]),
}


@pytest.mark.parametrize("divergence", DUAL)
def test_matching_primal_equals_dual(divergence):
    """min_pi D_f(pi||E) + beta KL(pi||ref) = max_Q E_E[phi(Q)] - V_Q; pi* = pi_Q."""
    beta = 0.7

    def primal(z):
        log_pi = jax.nn.log_softmax(z)
        kl = (jnp.exp(log_pi) * (log_pi - jnp.log(REFERENCE))).sum()
        return (EXPERT * divergence.f(log_pi - jnp.log(EXPERT))).sum() + beta * kl

    def dual(q):
        value = beta * jax.nn.logsumexp(jnp.log(REFERENCE) + q / beta)
        return -((EXPERT * divergence.phi(q)).sum() - value)

    value, policy = DUAL[divergence]
    z = minimise(primal, jnp.zeros(4))
    q = minimise(dual, jnp.zeros(4))
    assert float(primal(z)) == pytest.approx(value, abs=6e-9)
    assert -float(dual(q)) == pytest.approx(value, abs=6e-9)
    np.testing.assert_allclose(jax.nn.softmax(z), policy, atol=6e-5)
    by_q = jax.nn.softmax(jnp.log(REFERENCE) + q / beta)
    np.testing.assert_allclose(by_q, jax.nn.softmax(z), atol=1e-4)


def test_total_variation_is_sft_only_below_its_threshold():
    """TV + beta KL has pi* = E iff beta <= 1/osc log(E/ref) = 0.360674 here."""
    log_ratio = jnp.log(EXPERT / REFERENCE)
    threshold = 1 / float(log_ratio.max() - log_ratio.min())
    assert threshold == pytest.approx(0.360674, abs=5e-7)

    def at(beta):
        tv = TotalVariation()

        def primal(z):
            log_pi = jax.nn.log_softmax(z)
            kl = (jnp.exp(log_pi) * (log_pi - jnp.log(REFERENCE))).sum()
            return (EXPERT * tv.f(log_pi - jnp.log(EXPERT))).sum() + beta * kl

        return np.array(jax.nn.softmax(minimise(primal, jnp.log(EXPERT), 20_000)))

    # a kink: Adam hovers around it by 5e-5, a tenth of what crossing beta_c moves
    np.testing.assert_allclose(at(0.36), EXPERT, atol=1e-4)
    np.testing.assert_allclose(at(0.362), [0.39918, 0.3, 0.2, 0.10082], atol=1e-4)
    np.testing.assert_allclose(at(0.7), [0.2553, 0.3, 0.2, 0.2447], atol=6e-5)


ONE_HOT = {  # policy-first name: (loss, -d loss / d log p) at p = 0.3
    ForwardKL(): (1.203973, 1.0),
    TotalVariation(): (0.7, 0.3),
    SquaredHellinger(): (0.904555, 0.547723),
    JensenShannon(): (0.684029, 0.439901),
    NeymanChi2(): (2.333333, 3.333333),
    adjoint(Alpha(0.3)): (1.443594, 0.995493),
}


@pytest.mark.parametrize("divergence", ONE_HOT)
def test_one_hot_family(divergence):
    """D_f(pi || onehot) = f(p) + (1-p) f'(inf): SFT is forward KL, 1 - p is TV."""

    def loss(log_p):
        # p = 0.3, and f'(inf) is the price of mass off the demonstration
        off = 1 - jnp.exp(log_p)
        return divergence.f(log_p) + off * float(divergence.slope_at_infinity)

    value, coefficient = ONE_HOT[divergence]
    log_p = jnp.log(0.3)
    assert float(loss(log_p)) == pytest.approx(value, abs=6e-7)
    assert -float(jax.grad(loss)(log_p)) == pytest.approx(coefficient, abs=6e-7)


REWARD = jnp.array([1.0, 0.0, 0.5])
PRIOR = jnp.array([0.2, 0.5, 0.3])
BANDIT = {
    (ReverseKL(), 0.5): (0.513611, [0.529056, 0.179000, 0.291944], 0.51361109),
    (ForwardKL(), 0.5): (0.676714, [0.565885, 0.212456, 0.221659], 0.52135721),
    (JensenShannon(), 0.5): (0.763352, [0.813371, 0.060931, 0.125698], 0.66028964),
    (PearsonChi2(), 0.5): (0.35, [0.33, 0.325, 0.345], 0.42625),
    (SquaredHellinger(), 0.5): (0.751959, [0.787610, 0.079750, 0.132640], 0.64998699),
    (Chi2KL(), 0.5): (0.387617, [0.339262, 0.326094, 0.334644], 0.42798159),
    (NeymanChi2(), 0.5): (0.625850, [0.398647, 0.333207, 0.268146], 0.43958910),
    (Alpha(0.3), 0.5): (0.565514, [0.547366, 0.188814, 0.263819], 0.51675853),
    (Jeffreys(), 0.5): (0.474295, [0.364476, 0.327662, 0.307862], 0.43253350),
    (PearsonChi2(), 0.1): (0.5, [0.7, 0.0, 0.3], None),  # support is dropped
}


@pytest.mark.parametrize("divergence, beta", BANDIT)
def test_f_regularised_bandit(divergence, beta):
    """pi* = ref (f')^-1((r - lambda)/beta), its normaliser, value, implicit reward."""
    normaliser, policy, value = BANDIT[divergence, beta]

    def mass(x):
        return float((PRIOR * divergence.f_prime_inverse((REWARD - x) / beta)).sum())

    low, high = -5.0, 5.0  # the mass falls in lambda
    for _ in range(80):
        mid = (low + high) / 2
        low, high = (mid, high) if mass(mid) > 1 else (low, mid)
    assert mid == pytest.approx(normaliser, abs=6e-7)
    best = PRIOR * divergence.f_prime_inverse((REWARD - mid) / beta)
    np.testing.assert_allclose(best, policy, atol=6e-7)
    if value is not None:
        dual = mid + beta * float(
            (PRIOR * divergence.conjugate((REWARD - mid) / beta)).sum()
        )
        assert dual == pytest.approx(value, abs=6e-9)
        implicit = beta * divergence.f_prime(jnp.log(best / PRIOR)) + mid
        np.testing.assert_allclose(implicit, REWARD, atol=1e-9)


def _tree(seed=0):
    """A two-step token tree: policy and reference of the root and of each child."""
    rng = np.random.default_rng(seed)
    shapes = [(3,), (3, 3)]
    policy = [jax.nn.log_softmax(jnp.asarray(rng.normal(size=s))) for s in shapes]
    reference = [jax.nn.log_softmax(jnp.asarray(rng.normal(size=s))) for s in shapes]
    return policy, reference


@pytest.mark.parametrize("divergence", SMOOTH)
def test_token_level_telescoping_is_exact_only_for_kl(divergence):
    """sum_t r_t = beta sum f'(u_t) + V(s_1) - sum c(s_t): c = 0 iff reverse KL.

    Backward induction on the tree with per-token f-regularisation; the optimal policy
    at each state is pi* = ref (f')^-1((Q - lambda)/beta).
    """
    (_, _), reference = _tree()
    beta, rng = 0.6, np.random.default_rng(1)
    reward = jnp.asarray(rng.uniform(size=(3, 3)))

    def solve(q, log_ref):
        def mass(x):
            inverse = divergence.f_prime_inverse((q - x) / beta)
            return float((jnp.exp(log_ref) * inverse).sum())

        low, high = -10.0, 10.0
        for _ in range(80):
            mid = (low + high) / 2
            low, high = (mid, high) if mass(mid) > 1 else (low, mid)
        u = divergence.f_prime_inverse((q - mid) / beta)
        dual = divergence.conjugate((q - mid) / beta)
        return jnp.log(u), mid + beta * float((jnp.exp(log_ref) * dual).sum())

    leaves = [solve(reward[a], reference[1][a]) for a in range(3)]
    values = jnp.array([v for _, v in leaves])
    root, value = solve(values, reference[0])

    def correction(log_u, log_ref):
        dual = divergence.conjugate(divergence.f_prime(log_u))
        return beta * float((jnp.exp(log_ref) * dual).sum())

    error_naive = 0.0
    for a in range(3):
        log_u, _ = leaves[a]
        slopes = divergence.f_prime(root[a]) + divergence.f_prime(log_u)
        fix = correction(root, reference[0]) + correction(log_u, reference[1][a])
        naive = beta * slopes + value
        np.testing.assert_allclose(naive - fix, reward[a], atol=1e-7)
        error_naive = max(error_naive, float(jnp.abs(naive - reward[a]).max()))
    if isinstance(divergence, ReverseKL):
        assert error_naive < 1e-7
    else:
        assert error_naive > 1e-3


VOCABULARY = 6


def _softmax_case():
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=VOCABULARY))
    reference = jax.nn.log_softmax(jnp.asarray(rng.normal(size=VOCABULARY)))
    old = jax.nn.log_softmax(logits + 0.3 * rng.normal(size=VOCABULARY))
    return logits, reference, old


def expected_gradient(penalty, logits, sampled_from, reference, old):
    """Exact expectation over y ~ sampled_from of the penalty's gradient in logits.

    One group holds the whole vocabulary; the row weight is its probability, and the
    penalty is isolated as the difference to the objective without it.
    """
    shape = (1, VOCABULARY, 1)
    probability = jnp.exp(sampled_from)
    batch = Batch(
        mask=jnp.ones(shape),
        weight=VOCABULARY * probability[None],
        reference=reference.reshape(shape),
        old=old.reshape(shape),
    )

    def loss(z, penalty):
        logps = jax.nn.log_softmax(z).reshape(shape)
        objective = Objective(penalty=penalty, aggregation=SequenceSum())
        return objective(logps, batch)[0]

    return jax.grad(loss)(logits, penalty) - jax.grad(loss)(logits, None)


def true_gradient(divergence, logits, reference):
    def value(z):
        return (
            jnp.exp(reference) * divergence.f(jax.nn.log_softmax(z) - reference)
        ).sum()

    return jax.grad(value)(logits)


@pytest.mark.parametrize("divergence", SMOOTH)
def test_which_gradient_each_estimator_has(divergence):
    """k2 on-policy and rho k3 off-policy: grad D_f. k3 as a loss: not, for any f."""
    logits, reference, old = _softmax_case()
    policy = jax.nn.log_softmax(logits)
    true = true_gradient(divergence, logits, reference)

    def gradient(estimator, sampled_from):
        penalty = Penalty(1.0, divergence, estimator)
        return expected_gradient(penalty, logits, sampled_from, reference, old)

    np.testing.assert_allclose(gradient("k2", policy), true, atol=1e-12)
    np.testing.assert_allclose(gradient("importance_k3", old), true, atol=1e-12)
    k3 = gradient("k3", policy)
    assert float(jnp.abs(k3 - true).max()) > 1e-3

    def h_slope(d):  # h' = f' - f/u
        return divergence.f_prime(d) - divergence.k3(d)

    p, d = jnp.exp(policy), policy - reference
    weights = p * h_slope(d)
    np.testing.assert_allclose(k3, weights - p * weights.sum(), atol=1e-12)
    # values: E_pi[f/u] = D_f on-policy, E_old[rho f/u] = D_f off-policy
    value = (jnp.exp(reference) * divergence.f(d)).sum()
    assert float((p * divergence.k3(d)).sum()) == pytest.approx(float(value), rel=1e-12)
    exact = exact_divergence(divergence, policy, reference)
    assert float(exact) == pytest.approx(float(value), rel=1e-12)


def test_k3_as_a_loss_is_forward_kl_and_k1_is_nothing():
    """The two estimators that mislead: GRPO's, and the one that regularises nothing."""
    logits, reference, old = _softmax_case()
    policy = jax.nn.log_softmax(logits)
    kl = {
        e: expected_gradient(Penalty(1.0, estimator=e), logits, policy, reference, old)
        for e in ("k1", "k3")
    }
    np.testing.assert_allclose(kl["k1"], jnp.zeros(VOCABULARY), atol=1e-12)
    forward = true_gradient(ForwardKL(), logits, reference)
    np.testing.assert_allclose(kl["k3"], forward, atol=1e-12)


@pytest.mark.parametrize("divergence", SMOOTH)
def test_penalty_in_reward_is_the_sequence_divergence(divergence):
    """r -= f'(u_seq) through REINFORCE has the gradient of D_f over sequences.

    Exact expectation over the nine sequences of a two-step tree.
    """
    policy, reference = _tree()
    grid = [(a, b) for a in range(3) for b in range(3)]
    rows, cols = (jnp.array(x) for x in zip(*grid, strict=True))

    def tokens(tree):
        root, child = (jax.nn.log_softmax(x) for x in tree)
        return jnp.stack([root[rows], child[rows, cols]], -1)  # [9, 2]

    fixed, prior = tokens(policy), tokens(reference)
    batch = Batch(
        mask=jnp.ones((1, 9, 2)),
        rewards=jnp.zeros((1, 9)),
        weight=9 * jnp.exp(fixed.sum(-1))[None],
        old=fixed[None],
        reference=prior[None],
    )
    objective = Objective(
        signal=Raw(),
        aggregation=SequenceSum(),
        penalty=Penalty(1.0, divergence, "in_reward"),
    )

    def truth(tree):
        d = (tokens(tree) - prior).sum(-1)
        return (jnp.exp(prior.sum(-1)) * divergence.f(d)).sum()

    got = jax.grad(lambda tree: objective(tokens(tree)[None], batch)[0])(policy)
    for a, b in zip(got, jax.grad(truth)(policy), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
