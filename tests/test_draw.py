"""The distribution of a draw against a numpy oracle of the cuts, and draws from it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.sampling import Sampling, candidates, draw
from unipost.sampling.distribution import TIE, locate

CUTS = list(itertools.product((None, 5), (None, 0.7), (None, 0.2)))
WIDTH = 300  # three blocks, the last not full


def truncated(logits, temperature, top_k=None, top_p=None, min_p=None):
    """Probabilities [V], one token after the other, in plain Python."""
    order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
    if temperature == 0:
        return np.eye(len(logits))[order[0]]
    wide = np.asarray(logits, np.float64)
    weights = np.exp((wide - wide.max()) / temperature)
    order = order[:top_k]
    total, nucleus, mass = sum(weights[order]), [], 0.0
    for v in order:
        if nucleus and top_p is not None and mass >= (top_p - TIE) * total:
            break
        nucleus.append(v)
        mass += weights[v]
    heaviest = weights[order[0]]
    kept = [v for v in nucleus if min_p is None or weights[v] >= min_p * heaviest]
    law = np.zeros(len(logits))
    law[kept] = weights[kept] / sum(weights[kept])
    return law


def logits_of(width, dtype, rows=6):
    """Random logits with many ties, and tokens that cannot be drawn."""
    rng = np.random.default_rng(width)
    logits = rng.normal(size=(rows, width)).round(0) + rng.integers(0, 3, (rows, 1))
    logits[:, rng.integers(0, width, 3)] = -np.inf
    logits[0] = 0.0
    logits[1, 2:] = -200.0
    return logits.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("top_k, top_p, min_p", CUTS)
def test_every_combination_of_cuts_is_the_oracles(top_k, top_p, min_p, dtype):
    close = 1e-6 if dtype == np.float32 else 1e-12

    @jax.jit
    def law_and_draws(logits, keys, sampling):
        return candidates(logits, sampling), draw(logits, keys, sampling)

    logits = logits_of(WIDTH, dtype)
    for temperature in (0.0, 0.6, 1.7):
        sampling = Sampling(1, jnp.asarray(temperature, dtype), top_k, top_p, min_p)
        keys = jax.random.split(jax.random.key(1), len(logits))
        (logps, ids), (tokens, drawn) = law_and_draws(logits, keys, sampling)
        for row, line in enumerate(logits):
            want = truncated(line, temperature, top_k, top_p, min_p)
            got = np.zeros(WIDTH)
            got[np.asarray(ids[row])] = np.exp(logps[row])
            np.testing.assert_allclose(got, want, atol=close)
            np.testing.assert_array_equal(got > 0, want > np.finfo(dtype).tiny)
            assert want[tokens[row]] > 0
            np.testing.assert_allclose(np.exp(drawn[row]), want[tokens[row]], rtol=1e-5)


def counts_of(logits, sampling, draws, rows=1000):
    """How often each token comes in `draws` draws from logits [V]."""
    width = len(logits)
    keys = jax.random.split(jax.random.key(7), draws).reshape(-1, rows)

    @jax.jit
    def count(logits, keys):  # arguments: XLA would fold constants, for minutes
        many = jnp.broadcast_to(logits, (rows, width))

        def block(counts, keys):
            return counts.at[draw(many, keys, sampling)[0]].add(1), None

        return jax.lax.scan(block, jnp.zeros(width, jnp.int32), keys)[0]

    return np.asarray(count(logits, keys))


@pytest.mark.parametrize(
    "width, sampling",
    [
        (13, Sampling(1)),
        (700, Sampling(1, 0.7)),
        (700, Sampling(1, 1.3, top_k=40, top_p=0.9, min_p=0.05)),
        (700, Sampling(1, top_p=0.8)),
    ],
)
def test_frequencies_are_the_law(width, sampling):
    rng = np.random.default_rng(width)
    logits = (1.5 * rng.normal(size=width)).astype(np.float32)
    law = truncated(
        logits, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p
    )
    draws = 100_000
    counts = counts_of(logits, sampling, draws)
    assert counts.sum() == draws and (counts[law == 0] == 0).all()
    # tokens expected less than five times are counted as one
    common = law * draws >= 5
    expected = np.append(law[common], law[~common].sum()) * draws
    seen = np.append(counts[common], counts[~common].sum())
    expected, seen = expected[expected > 0], seen[expected > 0]
    chi_square = ((seen - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_rare_tokens_of_a_large_vocabulary_get_their_due():
    """19,999 tokens of 5e-6 each beside one of 0.9: no grid of 2^-23, no lost tail."""
    width, draws = 20_000, 40_000
    probabilities = np.full(width, 0.1 / (width - 1))
    probabilities[4321] = 0.9
    counts = counts_of(np.log(probabilities).astype(np.float32), Sampling(1), draws, 50)
    tail = draws - counts[4321]
    assert abs(tail - 0.1 * draws) < 4 * np.sqrt(0.09 * draws)
    rest = np.delete(counts, 4321).reshape(-1, 19_999 // 7)
    chi_square = ((rest.sum(1) - tail / 7) ** 2 / (tail / 7)).sum()
    assert chi_square < 6 + 4 * np.sqrt(12)
    # draws with replacement: pairs of equal tokens, expected tail^2 / 2V
    pairs = (rest * (rest - 1) / 2).sum()
    expected = tail**2 / (2 * width)
    assert abs(pairs - expected) < 5 * np.sqrt(expected)


def test_log_probs_keep_their_digits_at_a_real_vocabulary():
    logits = (3 * np.random.default_rng(0).normal(size=(4, 151_936))).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    tokens, logps = jax.jit(draw)(logits, keys, Sampling(1))
    wide = logits.astype(np.float64)
    lse = np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1)) + wide.max(-1)
    want = wide[np.arange(4), np.asarray(tokens)] - lse
    np.testing.assert_allclose(logps, want, rtol=2e-6)


def test_located_indices_have_weight():
    """Also at the ends of the unit interval and where rounding passes the total."""
    weights = jnp.array([[0.0, 0.3, 0.0, 1e-30, 0.7, 0.0]], jnp.float32)
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    for uniform in (0.0, 0.25, 0.3, 0.31, below_one, 1.0):
        index, total = locate(weights, jnp.full((1, 1), uniform, jnp.float32))
        assert index[0, 0] == (1 if uniform < 0.3 else 4), uniform
        assert float(total[0, 0]) == pytest.approx(1)


def test_a_small_temperature_does_not_overflow():
    logits = jnp.array([[1.0, 3.0, 3.0, -2.0]], jnp.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    for temperature, logp in ((1e-37, np.log(0.5)), (0.0, 0.0)):
        token, got = draw(logits, keys, Sampling(1, temperature))
        assert int(token[0]) in (1, 2)
        assert float(got[0]) == pytest.approx(logp)
    assert int(draw(logits, keys, Sampling(1, 0.0))[0][0]) == 1


def test_a_draw_depends_on_its_own_row_only():
    logits = logits_of(WIDTH, np.float32)
    keys = jax.random.split(jax.random.key(3), len(logits))
    fast = jax.jit(draw)
    whole = fast(logits, keys, Sampling(1, 2.0))[0]
    others = fast(logits[::-1], keys[::-1], Sampling(1, 2.0))[0]
    np.testing.assert_array_equal(whole, others[::-1])
    assert len(np.unique(whole)) > 2
