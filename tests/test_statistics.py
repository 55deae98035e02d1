"""Statistics against enumeration, scipy, hand examples and their own coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from unipost.analysis.statistics import (
    Weights,
    at_accuracy,
    bootstrap_mean,
    equivalence,
    holm,
    matched,
    mcnemar,
    paired_difference,
    paired_t,
    percentiles,
    quadratic_r2,
    relation,
    sign_flip,
    slope,
    spearman,
    wilcoxon,
)


def test_bases_seeds_and_items_are_drawn_in_this_order():
    values = np.random.default_rng(0).normal(size=(2, 2, 2))
    pairs = [*itertools.product(range(2), repeat=2)]
    every = []
    for bases in pairs:
        for first, second in itertools.product(pairs, repeat=2):
            for items in pairs:
                rows = [values[bases[0]][list(first)], values[bases[1]][list(second)]]
                every.append(np.concatenate(rows)[:, list(items)].mean())
    assert len(every) == 4**4
    made = bootstrap_mean(values, n_boot=40_000)
    assert made.mean == pytest.approx(values.mean())
    drawn = np.quantile(every, [0.025, 0.975])
    assert (made.low, made.high) == pytest.approx(tuple(drawn), abs=0.02)


def test_one_base_is_the_table_without_that_axis():
    values = np.random.default_rng(1).random((3, 40))
    assert bootstrap_mean(values[None]) == bootstrap_mean(values)
    a, b = values[None], values[None] ** 2
    assert paired_difference(a, b) == bootstrap_mean(a - b)


def test_alpha_is_the_share_outside():
    draws = np.arange(1001) / 1000
    assert percentiles(draws, 0.1) == pytest.approx((0.05, 0.95))
    assert percentiles([*draws, np.nan], 0.1) == pytest.approx((0.05, 0.95))
    assert np.isnan(percentiles([np.nan])).all()
    with pytest.raises(ValueError, match="alpha = 5; write a share"):
        percentiles(draws, 5)
    values = np.random.default_rng(2).random((4, 50))
    wide, narrow = (bootstrap_mean(values, alpha=a) for a in (0.01, 0.2))
    assert wide.low < narrow.low < narrow.high < wide.high


def _covers(seeds: int, between: float, studies: int = 300) -> float:
    """How often the 95% interval holds the true mean of a crossed design."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(studies):
        difficulty = rng.normal(size=150)
        level = between * rng.normal(size=(seeds, 1))
        noise = rng.normal(size=(seeds, 150))
        made = bootstrap_mean(difficulty + level + noise, n_boot=400)
        hits += made.low <= 0.0 <= made.high
    return hits / studies


def test_coverage_of_the_interval():
    # nothing between seeds: items alone vary, and there are many of them
    assert 0.92 <= _covers(seeds=5, between=0.0) <= 0.99
    # between seeds as much as between 100 items
    assert 0.90 <= _covers(seeds=8, between=0.1) <= 0.98
    # three seeds that differ much: too short, as the module says
    assert _covers(seeds=3, between=1.0) < 0.85


def test_weights_give_the_bootstrap_of_any_table():
    rng = np.random.default_rng(4)
    table, shift = rng.random((3, 60)), rng.random((3, 60))
    weights = Weights(1, 3, n_boot=4000)
    draws = weights.over_runs(weights.over_items("a", table))
    assert draws[0] == pytest.approx(table.mean())
    direct = bootstrap_mean(table, n_boot=4000)
    assert percentiles(draws[1:]) == pytest.approx(direct[1:], abs=0.01)
    # paired: the difference of two is that of their difference
    other = weights.over_runs(weights.over_items("a", shift))
    both = weights.over_runs(weights.over_items("a", table - shift))
    np.testing.assert_allclose(draws - other, both, atol=1e-12)
    # another task has draws of its own, and changes nothing
    assert not np.array_equal(weights.items("a", 60), weights.items("b", 60))
    again = Weights(1, 3, n_boot=4000)
    again.items("b", 60)
    assert np.array_equal(weights.items("a", 60), again.items("a", 60))


def test_runs_without_a_number_are_left_out_of_a_mean():
    weights = Weights(1, 2, n_boot=200)
    values = np.tile([1.0, np.nan], (201, 1))
    found = weights.over_runs(values)
    assert found[0] == 1.0
    # one draw in four takes the run without a number twice
    assert np.isnan(found).mean() == pytest.approx(0.25, abs=0.1)
    assert set(found[~np.isnan(found)]) == {1.0}


def test_equivalence_is_two_one_sided_tests():
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.0, 1.0, (1, 400)), rng.normal(0.0, 1.0, (1, 400))
    difference = (a - b)[0]
    for margin in (0.05, 0.1, 0.15, 0.3):
        high = stats.ttest_1samp(difference, margin, alternative="less")[1]
        low = stats.ttest_1samp(difference, -margin, alternative="greater")[1]
        expected = max(low, high) < 0.05
        assert (equivalence(a, b, margin).verdict == "supported") == expected
    made = equivalence(a, b, 1.0)
    assert made.interval == paired_difference(a, b, alpha=0.1)
    assert equivalence(a + 1, b, 0.5).verdict == "not supported"
    assert equivalence(a + 0.5, b, 0.5).verdict == "inconclusive"
    with pytest.raises(ValueError, match="margin = 0; write a number above 0"):
        equivalence(a, b, 0.0)


def test_holm_by_hand():
    # 4 x .005, 3 x .01, 2 x .03, 1 x .04, none below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_paired_tests_are_scipys_and_exact_ones_are_enumerated():
    rng = np.random.default_rng(6)
    values = rng.normal(0.3, 1.0, 30)
    assert wilcoxon(values) == pytest.approx(stats.wilcoxon(values)[1])
    assert paired_t(values) == pytest.approx(stats.ttest_1samp(values, 0)[1])
    assert wilcoxon([0.0, 0.0]) == 1.0 and paired_t([0.0, 0.0]) == 1.0
    assert paired_t([2.0, 2.0]) == 0.0
    # five of one sign: 2 of 32 patterns are as extreme
    assert sign_flip([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)
    # |+-1 +-2 +-3| >= 4: 1+2+3, -1+2+3 and their mirror images
    assert sign_flip([-1.0, 2.0, 3.0]) == pytest.approx(4 / 8)
    many = rng.normal(0.2, 1.0, 100)
    assert sign_flip(many) == pytest.approx(paired_t(many), abs=0.02)
    # 5 items only a solves, 1 only b: 2 P(Bin(6, 1/2) <= 1)
    a = np.array([1] * 5 + [0] + [1, 0])
    b = np.array([0] * 5 + [1] + [1, 0])
    assert mcnemar(a, b) == pytest.approx(2 * 7 / 64)
    assert mcnemar([1, 0], [1, 0]) == 1.0
    for call in (
        lambda: wilcoxon([]),
        lambda: sign_flip([np.nan]),
        lambda: paired_t([1.0]),
        lambda: mcnemar([0.5], [1]),
    ):
        with pytest.raises(ValueError, match="needs"):
            call()


def test_quadratic_r2_is_that_of_polyfit_and_one_on_a_parabola():
    rng = np.random.default_rng(7)
    x = 1e3 + rng.random(20)
    assert quadratic_r2(x, 3 - 2 * x + 5 * x**2) == pytest.approx(1.0)
    y = rng.random(20)
    fitted = np.polyval(np.polyfit(x - x.mean(), y, 2), x - x.mean())
    expected = 1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert quadratic_r2(x, y) == pytest.approx(expected)
    assert np.isnan(quadratic_r2(x[:3], y[:3])) and np.isnan(quadratic_r2(x, 0 * x))
    with pytest.raises(ValueError, match="needs x"):
        quadratic_r2(x, y[:4])


def test_spearman_is_scipys_with_ties():
    rng = np.random.default_rng(8)
    x, y = rng.integers(0, 5, 40), rng.integers(0, 5, 40)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert np.isnan(spearman(x, np.ones(40)))


def test_a_relation_draws_groups_whole():
    x = np.repeat(np.arange(6.0), 4)
    y = x**2 + np.tile([0.0, 0.1, -0.1, 0.0], 6)
    whole = relation(spearman, x, y, np.repeat([*"abcdef"], 4), n_boot=500)
    alone = relation(spearman, x, y, np.arange(24), n_boot=500)
    assert whole.mean == alone.mean == spearman(x, y)
    assert whole.low < alone.low <= whole.mean


def test_slope_of_rows():
    found = slope([0, 1, 2], [[1.0, 3.0, 5.0], [0.0, 0.0, 3.0]])
    assert found == pytest.approx([2.0, 1.5])
    with pytest.raises(ValueError, match="two values"):
        slope([1, 1], [0.0, 1.0])


def test_matched_accuracy_by_hand():
    accuracy, value = [50.0, 80.0, 100.0], [0.0, -3.0, -9.0]
    # 90 is half of the way from the second point to the third
    assert at_accuracy(accuracy, value, 90) == pytest.approx(-6.0)
    assert at_accuracy(accuracy, value, 80) == pytest.approx(-3.0)
    assert at_accuracy(accuracy, value, 65) == pytest.approx(-1.5)
    assert at_accuracy(accuracy, value, 40) == pytest.approx(0.0)
    # the first point that reaches it, also where the curve falls again
    assert at_accuracy([0.0, 90.0, 10.0, 95.0], [0, 1, 2, 3], 90) == 1.0
    assert np.isnan(at_accuracy(accuracy, value, 101))
    found = matched({"a": (accuracy, value), "b": ([10.0, 20.0], [0.0, 1.0])}, 90)
    assert found.values == {"a": pytest.approx(-6.0)} and found.censored == ("b",)
    both = at_accuracy([accuracy, [0, 0, 0]], [value, value], 90)
    assert both[0] == pytest.approx(-6.0) and np.isnan(both[1])
