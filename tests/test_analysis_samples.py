"""Curves over k, diversity, calibration and gradient norms, against enumeration."""

import json
import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from tiny_models import MEAN, forward, rows_and_batch

from unipost.analysis import (
    answer_entropy,
    bleu,
    brier,
    confidences,
    crossing,
    delta_se,
    distinct_answers,
    distinct_n,
    ece,
    indicators,
    maj_curve,
    matched_temperature,
    pass_curve,
    reliability,
    self_bleu,
    separation,
    state_entropy,
)

BLEU = json.loads((Path(__file__).parent / "fixtures/analysis/bleu.json").read_text())
WORDS = [text.split() for text in BLEU["texts"]]


# curves over k


def test_curves_by_all_subsets():
    """pass@k and maj@k of 6 samples are means over all subsets of k of them."""
    answers = np.array([[0, 1, 1, 2, 0, 0], [0, 0, 1, 1, 1, -1]])
    correct = np.array([[1, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 0]], bool)
    sizes = (1, 3, 6)
    passes, votes = [], []
    for a, c in zip(answers, correct, strict=True):
        passes.append([])
        votes.append([])
        for k in sizes:
            some, most = [], []
            for chosen in combinations(range(6), k):
                some.append(any(c[list(chosen)]))
                counts = Counter(a[i] for i in chosen if a[i] >= 0)
                # the commonest, of equals the first drawn
                best = max(counts, key=lambda x, n=counts: n[x]) if counts else None
                most.append(any(a[i] == best and c[i] for i in chosen))
            passes[-1].append(np.mean(some))
            votes[-1].append(np.mean(most))
    np.testing.assert_allclose(pass_curve(correct, sizes), passes, rtol=1e-12)
    found = maj_curve(answers, correct, sizes, trials=4000)
    np.testing.assert_allclose(found, votes, atol=0.04)
    assert (found[:, -1] == [1.0, 1.0]).all()
    assert pass_curve(correct).shape == (2, 4)
    with pytest.raises(ValueError, match="sizes: 7 of 6 answers"):
        maj_curve(answers, correct, [1, 7])


def test_published_gap_and_crossing():
    """Table 2 of 2504.13837, test: base 10.2 to 69.1, GRPO 25.1 to 68.3."""
    base, tuned = [0.102, 0.691], [0.251, 0.683]
    assert delta_se(base, tuned) == pytest.approx(0.440, abs=1e-9)
    found = crossing([1, 256], base, tuned)
    # on a line in log k: 0.149 above, 0.008 below
    assert found == pytest.approx(math.exp(math.log(256) * 0.149 / 0.157))
    assert crossing([1, 256], tuned, base) is None
    assert crossing([2, 256], [0.5, 0.6], [0.4, 0.5]) == 2.0
    assert crossing([1, 2, 4], [0.1, 0.4, 0.3], [0.2, 0.3, 0.4]) is None


def test_entropies_are_matched():
    """The temperature found gives the target's entropy; T = 1 is the scoring's."""
    rows = rows_and_batch("grpo")[0]
    entropy = state_entropy(MEAN.policy, MEAN.params, rows)
    kept = np.asarray(rows.response_mask)
    own = np.asarray(forward(MEAN.params, rows).entropy)[kept].mean()
    assert entropy(1.0) == pytest.approx(own, rel=1e-9)
    found = matched_temperature(entropy, own, tolerance=1e-6)
    assert found == pytest.approx(1.0, abs=1e-5)
    higher = matched_temperature(entropy, 1.1 * own, tolerance=1e-6)
    assert higher > 1 and entropy(higher) == pytest.approx(1.1 * own, rel=1e-5)
    with pytest.raises(ValueError, match="the target is 9; write other ends"):
        matched_temperature(entropy, 9.0)


# diversity


def test_bleu_is_that_of_nltk():
    """Five sentences, each against the others."""
    for i, expected in enumerate(BLEU["bleu"]):
        found = bleu(WORDS[i], [*WORDS[:i], *WORDS[i + 1 :]])
        assert found == pytest.approx(expected, rel=1e-12)
    assert self_bleu(WORDS) == pytest.approx(np.mean(BLEU["bleu"]), rel=1e-12)


def test_bleu_by_hand():
    """abcd against abce and bcd: 4/4, 3/3, 2/2 and 0.1/1 n-grams, as long as one."""
    found = bleu("abcd", ["abce", "bcd"])
    assert found == pytest.approx((1 * 1 * 1 * 0.1) ** 0.25)
    # ab has no 3-grams; its nearest reference is twice as long
    assert bleu("ab", ["abcd"]) == pytest.approx(math.exp(1 - 4 / 2))
    # of two at the same distance the shorter one counts
    assert bleu("abc", ["abcd", "ab"], order=1) == 1.0
    assert bleu("", ["ab"]) == 0.0


def test_self_bleu_of_copies_is_one_and_needs_two():
    """Copies agree wholly; a single response has nothing to agree with."""
    assert self_bleu(["abcde"] * 3) == pytest.approx(1.0)
    assert math.isnan(self_bleu(["abc"]))


def test_distinct_by_hand():
    """aab, ab: 2 letters of 5, and aa, ab of three pairs."""
    assert distinct_n(["aab", "ab"], 1) == 2 / 5
    assert distinct_n(["aab", "ab"], 2) == 2 / 3
    assert math.isnan(distinct_n(["a"], 2))


def test_answers():
    """Shares 1/2, 1/4, 1/4; one answer has no entropy."""
    assert answer_entropy(["7", "7", "8", None]) == pytest.approx(1.5 * math.log(2))
    assert distinct_answers(["7", "7", "8", None]) == 3
    assert str(answer_entropy(["7"])) == "0.0"


# calibration


def test_calibration_by_hand():
    """Two bins: 0.15 against 1/2, 0.9 against 1; an edge belongs to the bin below."""
    conf, right = [0.1, 0.2, 0.9], [0, 1, 1]
    assert ece(conf, right, 2) == pytest.approx((2 * 0.35 + 1 * 0.1) / 3)
    table = reliability(conf, right)
    assert [b.count for b in table] == [1, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    assert math.isnan(table[4].accuracy)
    assert reliability([0.0, 1.0], [0, 1])[0].count == 1
    assert brier(conf, right) == pytest.approx((0.01 + 0.64 + 0.01) / 3)


def test_ece_of_a_calibrated_model_is_small():
    """Right with the probability it says: only chance is left."""
    rng = np.random.default_rng(0)
    conf = rng.random(50_000)
    assert ece(conf, rng.random(50_000) < conf) < 0.01
    assert ece(conf, rng.random(50_000) < conf / 2) > 0.2


def test_confidence_is_the_geometric_mean():
    """exp of the mean log-prob over real tokens, NaN for none."""
    logps = np.log([[0.5, 0.125, 0.9], [0.3, 0.3, 0.3]])
    mask = [[True, True, False], [False] * 3]
    found = confidences(logps, mask)
    assert found[0] == pytest.approx(0.25) and math.isnan(found[1])


def test_calibration_refused():
    """Log-probs in the place of confidences, and lengths that differ."""
    with pytest.raises(ValueError, match=r"one number in 0 \.\.\. 1"):
        ece([-0.5], [1])
    with pytest.raises(ValueError, match=r"\(2,\) confidences for \(1,\)"):
        brier([0.1, 0.2], [1])


def test_separation_by_all_pairs():
    """The share of pairs in which the right one is higher, ties half."""
    scores, right = np.array([3, 1, 2, 2, 0.0]), np.array([1, 0, 1, 0, 0])
    pairs = [
        (a > b) + 0.5 * (a == b)
        for a, x in zip(scores, right, strict=True)
        for b, y in zip(scores, right, strict=True)
        if x and not y
    ]
    assert separation(scores, right) == pytest.approx(np.mean(pairs))
    assert math.isnan(separation(scores, np.ones(5)))


# gradient norms


def test_indicators_by_hand():
    """A fall from 10 by 1 a step to 5, then waves of 4 and 6."""
    g = np.array([10.0, 9, 8, 7, 6, *([4.0, 6.0] * 10)])
    found = indicators(g)
    assert found.early_slope == pytest.approx(-1.0)
    assert found.half == 6  # the early mean is 8
    assert found.total == pytest.approx(140.0)
    assert found.late_mean == pytest.approx(5.2)
    assert found.late_variance == pytest.approx(np.var([6, 4, 6, 4, 6]))
    assert found.decay == pytest.approx(math.log(5.2 / 8))
    assert found.oscillation == pytest.approx(2 / 5.2)
    assert math.isnan(indicators(np.ones(10)).half)


@pytest.mark.parametrize("norms", [np.ones(9), [*np.ones(9), np.nan], -np.ones(10)])
def test_indicators_refused(norms):
    """Too few steps, and numbers that are no norms."""
    with pytest.raises(ValueError, match="indicators: norms"):
        indicators(norms)
