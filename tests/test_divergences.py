"""Every divergence against the written-out table at 120 digits, and its identities."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from divergence_oracle import ALL, SMOOTH

import unipost
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
from unipost.divergences import DIVERGENCES
from unipost.parametric import (
    Adjoint,
    Alpha,
    HockeyStick,
    LogOdds,
    Shaping,
    SkewJensenShannon,
)
from unipost.special import exp_plus_inverse

LOG_U = [-80, -40, -20.5, -5, -2.01, -1.99, -1.01, -0.99, -0.51, -0.49, -0.1, -1e-2]
LOG_U = [*LOG_U, -1e-3, 0, *(-x for x in reversed(LOG_U)), 1e-3]
DUAL = [-80, -5, -1.5, -0.5, -1e-3, 0, 1e-3, 0.3, 0.45, 0.5, 0.69, 0.9, 1.3, 5, 60]
DTYPES = {jnp.float32: 2e-5, jnp.float64: 1e-12}
P = np.array([0.05, 0.10, 0.15, 0.20, 0.22, 0.18, 0.10])
Q = np.array([0.20, 0.05, 0.10, 0.25, 0.10, 0.10, 0.20])


def agree(got, want, dtype, where):
    """`got` is `want` to the dtype's tolerance, or the right infinity beyond it."""
    largest = float(jnp.finfo(dtype).max)
    if abs(want) > largest:
        assert np.isinf(got) and np.sign(got) == mp.sign(want), where
    else:
        error = abs(mp.mpf(float(got)) - want) / max(abs(want), mp.mpf("1e-37"))
        assert np.isfinite(got) and error < DTYPES[dtype], (where, got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_functions_of_log_u(name, dtype):
    """f, f', k2 = K and k3 = f(u)/u on log u in [-80, 80] within the domain."""
    oracle = ALL[name]
    d = jnp.asarray([x for x in LOG_U if x < oracle.top], dtype)
    exact = [mp.mpf(float(x)) for x in d]
    divergence = oracle.divergence
    columns = {
        "f": (divergence.f, lambda x: oracle.f(mp.exp(x))),
        "f_prime": (divergence.f_prime, lambda x: oracle.f_prime(mp.exp(x))),
        "k2": (divergence.k2, oracle.k),
        "k3": (divergence.k3, lambda x: oracle.f(mp.exp(x)) * mp.exp(-x)),
    }
    if oracle.k is None:  # K is from u = 1, which is outside the domain
        del columns["k2"]
    for column, (got, want) in columns.items():
        values = got(d)
        assert values.dtype == dtype
        for x, value in zip(exact, np.array(values), strict=True):
            agree(value, want(x), dtype, (name, column, float(x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMOOTH)
def test_dual_functions(name, dtype):
    """(f')^-1, f* and phi inside the dual domain."""
    oracle = SMOOTH[name]
    divergence = oracle.divergence
    low = max(float(divergence.slope_at_zero), -1e9)
    high = float(divergence.slope_at_infinity)
    for t in (dtype(t) for t in DUAL if low < t < high):
        exact = mp.mpf(float(t))
        u = oracle.inverse(exact)
        conjugate = exact * u - oracle.f(u)
        where = (name, float(t))
        agree(divergence.f_prime_inverse(t), u, dtype, where)
        agree(divergence.conjugate(t), conjugate, dtype, where)
        agree(divergence.phi(-t), -conjugate, dtype, where)


@pytest.mark.parametrize("name", ALL)
def test_derivatives_at_every_log_u(name):
    """d f / d log u = u f'(u), d k2 / d log u = f'(u): finite, by autodiff."""
    divergence = ALL[name].divergence
    for x in (x for x in [-3.0, -0.6, 0.3, 0.9, 1.5, 4.0] if x < ALL[name].top):
        slope = divergence.f_prime(x)
        grad = jax.grad(divergence.f)(x)
        assert grad == pytest.approx(float(jnp.exp(x) * slope), rel=1e-9, abs=1e-12)
        assert jax.grad(divergence.k2)(x) == pytest.approx(float(slope), rel=1e-9)
    for x in jnp.array([-80.0, 80.0], jnp.float32):
        for fn in (divergence.f, divergence.f_prime, divergence.k2, divergence.k3):
            assert not np.isnan(jax.grad(fn)(x)), (name, fn, x)


UNCENTRED = ("shaping", "log_odds")


@pytest.mark.parametrize("name", sorted(set(SMOOTH) - {"log_odds"}))
def test_constants(name):
    """f''(1) by central differences; f'(0+), f'(inf), f(0+) as limits of the table."""
    oracle = SMOOTH[name]
    divergence = oracle.divergence
    h = mp.mpf("1e-20")
    curvature = (oracle.f_prime(1 + h) - oracle.f_prime(1 - h)) / (2 * h)
    assert float(divergence.curvature) == pytest.approx(float(curvature), rel=1e-9)
    tiny, huge = mp.mpf(10) ** -3000, mp.mpf(10) ** 3000
    limits = {
        "f_at_zero": (oracle.f, tiny),
        "slope_at_zero": (oracle.f_prime, tiny),
        "slope_at_infinity": (oracle.f_prime, huge),
    }
    with mp.workdps(7000):
        for column, (fn, at) in limits.items():
            want, got = fn(at), float(getattr(divergence, column))
            if abs(want) > 500:
                assert got == float(mp.sign(want)) * np.inf, (name, column)
            else:
                assert got == pytest.approx(float(want), rel=1e-6), (name, column)
    assert divergence.centred == (name not in UNCENTRED)


@pytest.mark.parametrize("name", sorted(set(ALL) - set(UNCENTRED)))
def test_canonical_normalisation(name):
    """f(1) = f'(1) = 0, phi(0) = 0, f, k2, k3 >= 0; phi'(0) = 1 where f is curved."""
    divergence = ALL[name].divergence
    zero = jnp.float64(0.0)
    assert float(divergence.f(zero)) == 0.0
    assert float(divergence.f_prime(zero)) == 0.0
    assert float(divergence.phi(zero)) == pytest.approx(0.0, abs=1e-15)
    d = jnp.linspace(-30, 30, 121)
    for fn in (divergence.f, divergence.k2, divergence.k3):
        assert float(fn(d).min()) >= -1e-12
    if divergence.curvature is not None:
        assert jax.grad(divergence.phi)(zero) == pytest.approx(1.0)
        bend = jax.grad(jax.grad(divergence.phi))(zero)
        assert bend == pytest.approx(-1 / float(divergence.curvature), rel=1e-6)


@pytest.mark.parametrize("name", SMOOTH)
def test_conjugate_is_the_supremum(name):
    """f*(t) against a grid supremum of t u - f(u) over u >= 0 (no inverse used)."""
    divergence = SMOOTH[name].divergence
    u = np.concatenate([[0.0], np.exp(np.linspace(-18, 18, 400_001))])
    with np.errstate(divide="ignore"):
        f = np.array(divergence.f(jnp.log(jnp.maximum(u, 1e-300))))
    f[0] = float(divergence.f_at_zero)
    high = min(float(divergence.slope_at_infinity), 1e9)
    for t in [-5.0, -2.5, -1.0, -0.5, -0.1, 0.1, 0.3, 0.45]:
        if t < high:
            best = np.nanmax(t * u - f)
            assert float(divergence.conjugate(t)) == pytest.approx(best, abs=2e-7)


def test_saturating_branches_and_domains():
    """phi where f* is flat or infinite: Pearson, TV, hockey stick, and the domains."""
    assert [float(PearsonChi2().phi(x)) for x in (1.0, 2.0, 5.0)] == [0.75, 1.0, 1.0]
    tv = TotalVariation().phi(jnp.array([-0.6, -0.5, 0.2, 0.5, 0.9]))
    np.testing.assert_array_equal(tv, [-np.inf, -0.5, 0.2, 0.5, 0.5])
    stick = HockeyStick(1.5).phi(jnp.array([-1.1, -1.0, -0.5, 0.0, 2.0]))
    np.testing.assert_array_equal(stick, [-np.inf, -1.5, -0.75, 0.0, 0.0])
    edges = {ForwardKL(): 1, JensenShannon(): np.log(2), SquaredHellinger(): 1}
    for divergence, edge in ({NeymanChi2(): 1, Alpha(0.5): 2} | edges).items():
        assert float(divergence.phi(-edge - 0.01)) == -np.inf
        assert np.isfinite(float(divergence.phi(-edge + 0.01)))
        assert not np.isnan(jax.grad(divergence.phi)(-edge - 0.01))
    assert float(Alpha(-1.0).phi(3.0)) == pytest.approx(0.5)  # f(0) of half Pearson


def test_log_odds_end_at_a_probability_of_one():
    """f(0) = f(1) = 0, f' from -inf to inf; +inf, and never NaN, from u = 1 on."""
    odds = LogOdds()
    assert (odds.f_at_zero, odds.slope_at_zero) == (0.0, -np.inf)
    assert (odds.slope_at_infinity, odds.centred) == (np.inf, False)
    beyond = jnp.array([0.0, 1.0, 80.0])
    for fn in (odds.f, odds.f_prime):
        np.testing.assert_array_equal(fn(beyond), np.inf)
        assert not np.isnan(jax.vmap(jax.grad(fn))(beyond)).any()
    assert float(odds.f(-1e-12)) == pytest.approx(0.0, abs=1e-10)


def test_skewed_jensen_shannon_by_its_definition():
    """w KL(Q || M) + (1-w) KL(P || M), M = w Q + (1-w) P; its ends, scaled, are KLs."""
    log_u = jnp.log(P / Q)
    for w in (0.2, 0.5, 0.9):
        middle = w * Q + (1 - w) * P
        other = (Q * np.log(Q / middle)).sum()
        own = (P * np.log(P / middle)).sum()
        value = float((Q * SkewJensenShannon(w).f(log_u)).sum())
        assert value == pytest.approx(w * other + (1 - w) * own, rel=1e-12)
    half, whole = SkewJensenShannon(0.5), JensenShannon()
    np.testing.assert_allclose(2 * half.f(log_u), whole.f(log_u), rtol=1e-12)
    for w, limit in ((1e-6, ForwardKL()), (1 - 1e-6, ReverseKL())):
        scaled = SkewJensenShannon(w).f(log_u) / (w * (1 - w))
        np.testing.assert_allclose(scaled, limit.f(log_u), rtol=1e-5)


TABLE = {  # D_f(P || Q) of the divergence table, policy first
    ReverseKL(): 0.2261385569,
    ForwardKL(): 0.2588459238,
    JensenShannon(): 0.1161372763,
    PearsonChi2(): 0.4555,
    NeymanChi2(): 0.7051767677,
    SquaredHellinger(): 0.1185972647,
    Jeffreys(): 0.4849844807,
    Chi2KL(): 0.4538885569,
    TotalVariation(): 0.3,
    Alpha(0.3): 0.2316594678,
    Alpha(0.5): 0.2371945295,
    Alpha(0.7): 0.2444064563,
}


@pytest.mark.parametrize("divergence", TABLE)
def test_divergence_of_two_distributions(divergence):
    """E_Q f = E_P f/u = the table's value = the value of the dual at t = f'(P/Q)."""
    log_u = jnp.log(P / Q)
    value = TABLE[divergence]
    assert float((Q * divergence.f(log_u)).sum()) == pytest.approx(value, abs=6e-11)
    assert float((P * divergence.k3(log_u)).sum()) == pytest.approx(value, abs=6e-11)
    t = divergence.f_prime(log_u)
    dual = (P * t).sum() - (Q * divergence.conjugate(t)).sum()
    assert float(dual) == pytest.approx(value, abs=6e-11)


CLOSED = [ReverseKL(), PearsonChi2(), Alpha(0.3), JensenShannon(), Jeffreys()]


@pytest.mark.parametrize("divergence", [*CLOSED, Chi2KL(), Shaping(), Alpha(-1.0)])
def test_adjoint_swaps_the_arguments(divergence):
    swapped = unipost.adjoint(divergence)
    log_u = jnp.log(P / Q)
    forward = (Q * swapped.f(log_u)).sum()
    backward = (P * divergence.f(-log_u)).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-12)
    for x in (-2.0, 0.4, 3.0):
        slope = jax.grad(swapped.f)(x) * np.exp(-x)
        assert float(swapped.f_prime(x)) == pytest.approx(float(slope), rel=1e-9)
    again = unipost.adjoint(swapped)
    np.testing.assert_allclose(again.f(log_u), divergence.f(log_u), rtol=1e-12)


@pytest.mark.parametrize("divergence", CLOSED[:2])
def test_generic_adjoint_equals_the_closed_form(divergence):
    """The wrapper, with its numeric inverse, against the partner written out."""
    generic, closed = Adjoint(divergence), unipost.adjoint(divergence)
    d = jnp.asarray(LOG_U, jnp.float32)
    for column in ("f", "f_prime", "k3"):
        got, want = getattr(generic, column)(d), getattr(closed, column)(d)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-37)
    near = jnp.array([-5.0, -0.1, 0.0, 0.2, 3.0])
    np.testing.assert_allclose(generic.k2(near), closed.k2(near), rtol=1e-9)
    t = jnp.array([-3.0, -1.5, -0.2, 0.0, 0.3, 0.8])
    np.testing.assert_allclose(
        generic.f_prime_inverse(t), closed.f_prime_inverse(t), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(generic.phi(-t), closed.phi(-t), rtol=1e-9, atol=1e-12)
    for column in ("curvature", "f_at_zero", "slope_at_zero", "slope_at_infinity"):
        assert float(getattr(generic, column)) == float(getattr(closed, column))


def test_alpha_limits():
    """a -> 0 reverse_kl, a -> 1 forward_kl, 1/2 twice Hellinger, -1 half Pearson."""
    d = jnp.linspace(-5, 5, 41)
    pairs = {
        1e-7: (ReverseKL(), 1.0),
        1 - 1e-9: (ForwardKL(), 1.0),
        0.5: (SquaredHellinger(), 2.0),
        -1.0: (PearsonChi2(), 0.5),
    }
    for a, (limit, scale) in pairs.items():
        for column in ("f", "f_prime", "k2", "k3"):
            got = getattr(Alpha(a), column)(d)
            want = scale * getattr(limit, column)(d)
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-12)


def test_a_traced_parameter_sweeps_through_zero_in_one_compilation():
    traces = []

    @jax.jit
    def sweep(a, d):
        traces.append(1)
        return Alpha(a).f_prime(d)

    got = [float(sweep(a, 0.7)) for a in (-1.0, 0.0, 0.5)]
    want = [np.exp(0.7) - 1, 0.7, 2 * (1 - np.exp(-0.35))]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert len(traces) == 1
    swept = jax.vmap(lambda a: Alpha(a).k2(0.7))(jnp.array([-1.0, 0.5]))
    want = [float(Alpha(-1.0).k2(0.7)), float(Alpha(0.5).k2(0.7))]
    np.testing.assert_allclose(swept, want, rtol=1e-12)


def test_wright_omega_far_out():
    """omega(1e4) solves w + log w = 1e4, where lambertw(exp(z)) has overflowed."""
    w = float(jnp.exp(exp_plus_inverse(jnp.float64(1e4 - 1))))
    assert w + np.log(w) == pytest.approx(1e4, rel=1e-13)


@unipost.part
class LeCam(unipost.Divergence):
    """sum (p - q)^2 / (p + q): only f and f' are given."""

    def f(self, log_u):
        return jnp.expm1(log_u) * jnp.tanh(log_u / 2)

    def f_prime(self, log_u):
        return jnp.tanh(log_u / 2) * (1 + 2 * jax.nn.sigmoid(-log_u))


@unipost.part
class OwnKL(unipost.Divergence):
    """Reverse KL from f and f' alone, so that every fallback has an oracle."""

    def f(self, log_u):
        return jnp.exp(log_u) * (log_u - 1) + 1

    def f_prime(self, log_u):
        return log_u


def test_a_divergence_of_ones_own():
    """f and f' suffice: D_f by its definition, the fallbacks against closed forms."""
    direct = ((P - Q) ** 2 / (P + Q)).sum()
    assert float((Q * LeCam().f(jnp.log(P / Q))).sum()) == pytest.approx(direct)
    assert float(LeCam().curvature) == pytest.approx(1.0, rel=1e-5)
    assert LeCam().slope_at_infinity == pytest.approx(1.0)
    assert LeCam().slope_at_zero == pytest.approx(-3.0)
    own, closed = OwnKL(), ReverseKL()
    d = jnp.linspace(-4, 4, 17)
    np.testing.assert_allclose(own.k2(d), closed.k2(d), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(own.k3(d), closed.k3(d), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own.phi(d), closed.phi(d), rtol=1e-9, atol=1e-12)
    assert own.constants() == closed.constants()
    grads = jax.vmap(jax.grad(own.phi))(d), jax.vmap(jax.grad(closed.phi))(d)
    np.testing.assert_allclose(*grads, rtol=1e-9)


REFUSED = {
    "alpha.a: 1 is outside a < 1": lambda: Alpha(1.0),
    "alpha.a: 0 is outside a < 1, a != 0": lambda: Alpha(0.0),
    "hockey_stick.gamma: 0.5 is not above 1": lambda: HockeyStick(0.5),
    "shaping.gamma: 0 is not positive": lambda: Shaping(0.0),
    "has no curvature": lambda: unipost.unit_curvature(TotalVariation()),
    "f' has no inverse": lambda: TotalVariation().f_prime_inverse(0.1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        REFUSED[message]()


def test_every_listed_divergence_is_tested():
    """A new name in the registry must get a row in the oracle (or be a transform)."""
    tested = {name.split("_0")[0].split("_-")[0] for name in ALL}
    assert set(DIVERGENCES) - {"unit_curvature", "adjoint"} <= tested
