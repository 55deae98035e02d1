"""Estimators against enumeration, printed tables and their own coverage."""

import itertools
import math
import time

import numpy as np
import pytest
from scipy import stats

from unipost.analysis.statistics import (
    bootstrap_mean,
    paired_difference,
    verdict,
    wilson,
)
from unipost.evaluate import majority_vote, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = itertools.combinations([1] * c + [0] * (n - c), k)
        hits = [any(draw) for draw in draws]
        assert pass_at_k(n, c, k) == pytest.approx(sum(hits) / len(hits), abs=1e-14)


def test_pass_at_k_is_exact_where_factorials_overflow():
    for n, c, k in [(4096, 3, 1024), (2000, 1000, 512), (1024, 1, 1), (1024, 1000, 25)]:
        exact = 1 - math.comb(n - c, k) / math.comb(n, k)
        assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-12)
    shaped = pass_at_k([[8, 16]], [[0], [4]], 4)
    one = 1 - math.comb(12, 4) / math.comb(16, 4)
    assert shaped == pytest.approx(np.array([[0, 0], [1 - 1 / 70, one]]))


@pytest.mark.parametrize(
    "n, c, k, message",
    [
        (4, 1, 5, "pass_at_k: k = 5 needs 1 <= k <= n, fewest n = 4"),
        ([4, 9], 1, 5, "pass_at_k: k = 5 needs 1 <= k <= n, fewest n = 4"),
        (4, 1, 0, "pass_at_k: k = 0 needs 1 <= k <= n, fewest n = 4"),
        (4, 5, 2, "pass_at_k: the number correct c must lie in 0 <= c <= n"),
        (4, np.nan, 2, "pass_at_k: the number correct c must lie in 0 <= c <= n"),
    ],
)
def test_pass_at_k_refuses_to_extrapolate(n, c, k, message):
    with pytest.raises(ValueError) as caught:
        pass_at_k(n, c, k)
    assert str(caught.value) == message


def test_wilson_agrees_with_scipy_and_is_never_empty():
    for s, n in [(0, 10), (10, 10), (3, 10), (881, 1319), (1, 1)]:
        expected = stats.binomtest(s, n).proportion_ci(method="wilson")
        low, high = wilson(s, n)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert low < high
    low, high = wilson([0, 10], 10)
    assert low[0] == 0.0 and high[1] == 1.0
    with pytest.raises(ValueError, match="needs n >= 1 and 0 <= successes <= n"):
        wilson(0, 0)


def test_majority_vote():
    assert majority_vote(["7", "8", "8", None, None, None]) == "8"
    assert majority_vote(["9", "8", "8", "9"]) == "9"
    assert majority_vote([None, None]) is None and majority_vote([]) is None


def test_bootstrap_matches_exhaustive_enumeration():
    values = np.array([[0.0, 1.0, 4.0], [2.0, 2.0, 7.0]])
    pairs = itertools.product(range(2), repeat=2)
    triples = list(itertools.product(range(3), repeat=3))
    every = [values[np.ix_(s, i)].mean() for s in pairs for i in triples] * 500
    made = bootstrap_mean(values, n_boot=50_000)
    assert made.mean == pytest.approx(values.mean())
    assert (made.low, made.high) == pytest.approx(
        tuple(np.quantile(every, [0.025, 0.975])), abs=1e-9
    )


def test_bootstrap_width_is_the_crossed_standard_error():
    # One draw of items for all seeds: with no seed effect, three seeds do not shrink it
    items = np.random.default_rng(1).normal(size=1375)
    one = bootstrap_mean(items[None])
    three = bootstrap_mean(np.stack([items] * 3))
    error = 2 * 1.96 * items.std() / math.sqrt(items.size)
    assert one.high - one.low == pytest.approx(error, rel=0.05)
    assert three.high - three.low == pytest.approx(error, rel=0.05)


def test_bootstrap_of_seeds_alone():
    values = np.random.default_rng(2).normal(size=40)
    made = bootstrap_mean(values)
    error = 1.96 * values.std() / math.sqrt(40)
    assert made.high - made.mean == pytest.approx(error, rel=0.1)
    assert bootstrap_mean(values[:, None]) == made


def test_bootstrap_is_deterministic_and_fast():
    values = np.random.default_rng(3).random((3, 1375))
    start = time.process_time()
    made = bootstrap_mean(values)
    assert time.process_time() - start < 3.0  # 0.3 s on one idle core
    assert bootstrap_mean(values) == made
    assert bootstrap_mean(values, seed=1) != made
    assert bootstrap_mean(values, seed=1).low == pytest.approx(made.low, abs=2e-3)


def test_a_single_number_has_no_interval_and_no_verdict():
    made = bootstrap_mean([0.5])
    assert made.mean == 0.5 and math.isnan(made.low) and math.isnan(made.high)
    assert verdict(made.low, made.high) == "inconclusive"


def test_paired_difference_removes_what_the_arms_share():
    rng = np.random.default_rng(4)
    difficulty = rng.normal(size=(3, 500))
    a, b = difficulty + 0.1, difficulty + 0.01 * rng.normal(size=(3, 500))
    paired = paired_difference(a, b)
    assert paired == bootstrap_mean(a - b)
    assert verdict(paired.low, paired.high) == "supported"
    alone = bootstrap_mean(a)
    assert paired.high - paired.low < 0.02 * (alone.high - alone.low)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: paired_difference(np.ones((2, 3)), np.ones((3, 2))),
            "paired_difference: shapes (2, 3) and (3, 2) differ",
        ),
        (
            lambda: bootstrap_mean([[1.0, np.nan, np.inf]]),
            "bootstrap_mean: 2 of 3 values not finite",
        ),
        (
            lambda: bootstrap_mean(np.ones((2, 2, 2, 2))),
            "bootstrap_mean: needs [bases, seeds, items], [seeds, items] or [seeds], "
            "got (2, 2, 2, 2)",
        ),
        (
            lambda: bootstrap_mean([]),
            "bootstrap_mean: needs [bases, seeds, items], [seeds, items] or [seeds], "
            "got (0,)",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "low, high, threshold, expected",
    [
        (0.01, 0.2, 0.0, "supported"),
        (0.0, 0.2, 0.0, "inconclusive"),
        (-0.2, 0.0, 0.0, "not supported"),
        (-0.2, 0.1, 0.0, "inconclusive"),
        (0.01, 0.2, 0.05, "inconclusive"),
        (0.01, 0.05, 0.05, "not supported"),
    ],
)
def test_verdict(low, high, threshold, expected):
    assert verdict(low, high, threshold) == expected
