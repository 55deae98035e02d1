"""Transferability: published numbers, the three forms, where a ratio is none."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from unipost.analysis import (
    domain_index,
    pooled_spread,
    symlog,
    ti_di,
    ti_di_pooled,
    ti_relgain,
    transfer_interval,
)

TABLES = json.loads(
    (Path(__file__).parent.parent / "paper_figs/data/transfer_tables.json").read_text()
)
GROUPS = TABLES["benchmarks"]
PUBLISHED = TABLES["ti_published"]
# rows that the paper's own tables of scores contradict
CONTRADICTED = set(TABLES["ti_not_reproducible_from_scores"])


def scores_of(model):
    """{benchmark: score} of a model of the paper."""
    table = TABLES["scores"][model]
    return {b: s for g in GROUPS for b, s in zip(GROUPS[g], table[g], strict=True)}


def pair_of(model):
    """Scores of the base and of the tuned model."""
    return scores_of(PUBLISHED[model]["base"]), scores_of(model)


# the two ratios of spreads that the published numbers imply
IMPLIED = {
    "math": 1.0,
    "other": 1 / TABLES["ti_implied_constants"]["sqrt_sigma_math_over_other"] ** 2,
    "non": 1 / TABLES["ti_implied_constants"]["sqrt_sigma_math_over_non"] ** 2,
}


@pytest.mark.parametrize("model", sorted(PUBLISHED.keys() - CONTRADICTED))
def test_published_numbers(model):
    """Thirteen rows of the paper come out to 0.6 points, twelve of them to 0.25."""
    found = ti_di_pooled(*pair_of(model), GROUPS, IMPLIED)
    room = 0.6 if model == "1.5B-SimpleRL" else 0.25
    assert found.ratio["other"] == pytest.approx(PUBLISHED[model]["ti_other"], abs=room)
    assert found.ratio["non"] == pytest.approx(PUBLISHED[model]["ti_non"], abs=room)


@pytest.mark.parametrize("model", sorted(CONTRADICTED))
def test_five_rows_are_contradicted_by_their_own_scores(model):
    """What the paper prints for them is off by more than any rounding."""
    found = ti_di_pooled(*pair_of(model), GROUPS, IMPLIED)
    wrong = [
        abs(found.ratio["other"] - PUBLISHED[model]["ti_other"]),
        abs(found.ratio["non"] - PUBLISHED[model]["ti_non"]),
    ]
    assert max(wrong) > 0.7


def test_spread_of_all_models_is_near_what_is_implied():
    """Pooled over the 18 rows the ratios are 0.935 and 0.888, not 0.939 and 0.886."""
    found = pooled_spread((pair_of(m) for m in PUBLISHED), GROUPS)
    assert found["math"] == pytest.approx(16.12, abs=0.01)
    assert (found["math"] / found["other"]) ** 0.5 == pytest.approx(0.935, abs=1e-3)
    assert (found["math"] / found["non"]) ** 0.5 == pytest.approx(0.888, abs=1e-3)


def test_a_spread_of_each_model_does_not_give_the_published_numbers():
    """UniReason with RL: 71.0 and 84.1 by the letter, 82.3 and 52.2 in print."""
    name = next(m for m in PUBLISHED if PUBLISHED[m]["ti_other"] == 82.3)
    found = ti_di(*pair_of(name), GROUPS)
    assert found.ratio["other"] == pytest.approx(71.0, abs=0.1)
    assert found.ratio["non"] == pytest.approx(84.1, abs=0.1)


def test_index_by_hand():
    """Two benchmarks: weights 0.75 and 0.25, roots of 4 and 9 with their signs."""
    found = domain_index([25.0, 75.0], [33.0, 57.0], spread=2.0)
    assert found == pytest.approx(0.75 * 2.0 - 0.25 * 3.0)
    linear = domain_index([25.0, 75.0], [33.0, 57.0], spread=2.0, power=1.0)
    assert linear == pytest.approx(0.75 * 4.0 - 0.25 * 9.0)


def test_a_ratio_to_a_loss_is_none():
    """Losses on both would read as a gain of 100: NaN, with the reason."""
    groups = {"math": ["a", "b"], "other": ["c", "d"]}
    base = dict.fromkeys("abcd", 50.0)
    worse = {"a": 40.0, "b": 30.0, "c": 40.0, "d": 30.0}
    found = ti_di(base, worse, groups)
    assert math.isnan(found.ratio["other"])
    assert found.reason == "math_gain_not_positive"
    assert found.index["math"] == found.index["other"] < 0
    assert found.gain == {"math": -15.0, "other": -15.0}


def test_relative_gain_needs_base_scores():
    """The first form: (10% + 50%) / 2 over (20% + 40%) / 2; none where a base is 0."""
    groups = {"math": ["a", "b"], "other": ["c", "d"]}
    base = {"a": 50.0, "b": 50.0, "c": 10.0, "d": 20.0}
    tuned = {"a": 60.0, "b": 70.0, "c": 11.0, "d": 30.0}
    assert ti_relgain(base, tuned, groups).ratio["other"] == pytest.approx(100)
    found = ti_relgain(base | {"c": 0.0}, tuned, groups)
    assert math.isnan(found.ratio["other"])
    assert found.reason == "a base score of other is 0"


def test_intervals_cover_and_ratios_of_doubt_are_none():
    """Clear gains have an interval; where the source's may be 0, TI has none."""
    rng = np.random.default_rng(0)
    groups, spread = {"math": ["a"], "other": ["b"]}, {"math": 10.0, "other": 10.0}
    before = {"a": rng.random(400) < 0.3, "b": rng.random(400) < 0.4}
    after = {"a": rng.random(400) < 0.6, "b": rng.random(400) < 0.5}
    found = transfer_interval(before, after, groups, spread)
    gains = [100.0 * (after[b].mean() - before[b].mean()) for b in "ab"]
    assert found.index["math"].mean == pytest.approx(math.sqrt(gains[0] / 10))
    ratio = found.ratio["other"]
    assert ratio.mean == pytest.approx(100 * math.sqrt(gains[1] / gains[0]))
    assert ratio.low < ratio.mean < ratio.high
    assert found.reason == ""
    same = {"a": before["a"], "b": after["b"]}
    found = transfer_interval(before, same, groups, spread)
    assert math.isnan(found.ratio["other"].mean)
    assert found.reason == "math_gain_not_positive"
    assert found.index["other"].low > 0


def test_solved_benchmarks_show_forgetting_with_uniform_weights():
    """A base of 100 has no headroom: its loss of 50 counts only with weights 1/B."""
    assert domain_index([100.0, 50.0], [50.0, 50.0], 1.0) == 0.0
    found = domain_index([100.0, 50.0], [50.0, 50.0], 2.0, weight="uniform")
    assert found == pytest.approx(-0.5 * 5.0)


def test_symlog_is_odd_and_linear_near_zero():
    """Nine widths are one decade; near 0 the slope is 1/(width ln 10)."""
    assert symlog([90.0, -90.0, 0.0]) == pytest.approx([1.0, -1.0, 0.0])
    assert symlog(1e-6) == pytest.approx(1e-7 / math.log(10), rel=1e-6)
    with pytest.raises(ValueError, match="width is 0"):
        symlog(1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "maths"}, "'maths' is no group; write one of math, other, non"),
        ({"tuned": {}}, "AIME24 has no score of the tuned model"),
        ({"tuned": "base"}, "gains that are all alike"),
    ],
)
def test_refused(change, message):
    """Groups and scores that do not fit are named."""
    base, tuned = pair_of("DS-R1-7B")
    call = {"base": base, "tuned": tuned, "groups": GROUPS} | change
    if call["tuned"] == "base":
        call["tuned"] = base
    with pytest.raises(ValueError, match=message):
        ti_di(**call)
