"""Claims on results whose truth is known: estimates by hand, verdicts, Holm."""

import math

import numpy as np
import pytest
from claimed_results import ITEMS, noisy, point, results

from unipost.analysis.statistics import bootstrap_mean, paired_difference
from unipost.studies.claim_table import claimed, claims_text, interval, p_text
from unipost.studies.outcomes import compact, expanded, scores_of
from unipost.studies.sample import Sample
from unipost.studies.series import series, value
from unipost.studies.verdicts import differences, found_of, with_verdicts

BASE = point(0.5, 0.8, 0.6, kl=0.0)
# accuracy on the new task, then on the old one, at steps 5, 10, 20, 40
FAST = [(0.6, 0.8), (0.8, 0.7), (0.9, 0.6), (0.95, 0.5)]
SLOW = [(0.5, 0.8), (0.6, 0.7), (0.65, 0.6), (0.75, 0.5)]
NEVER = [(0.5, 0.8), (0.5, 0.8), (0.5, 0.8), (0.5, 0.8)]


def runs(curve, seeds=3, kl=1.0):
    """The same curve under every seed, a little more KL with each."""
    return [
        [
            point(new, old, 0.6, kl=kl * (i + 1) + 0.01 * seed)
            for i, (new, old) in enumerate(curve)
        ]
        for seed in range(seeds)
    ]


ARMS = {"fast": runs(FAST), "slow": runs(SLOW, kl=2.0), "never": runs(NEVER, kl=0.1)}


def found(test, arms=None, n_boot=400, **changed):
    made = results(arms or ARMS, BASE, {"c": {"test": test}}, **changed)
    return found_of(made, n_boot)["c"]


def estimate(test, **kwargs):
    return found(test, **kwargs)["effects"][0][1]


def difference(of, what, at="final", **bound):
    bound = bound or {"above": 0}
    return {"name": "difference", "of": [*of], "what": what, "at": at, **bound}


@pytest.mark.parametrize(
    "what, at, expected",
    [
        ("new", "final", 20.0),
        ("new/pass@3", "final", 20.0),
        ("new/sampled", 10, 20.0),
        ("gain", 5, 10.0),
        ("old", 40, 0.0),
        # old falls by 30 points in both, far is as it was: the mean of the two tasks
        ("retention", "final", 0.0),
        # fast reaches 70 half of the way from 60 to 80: old 75, that is -5 points;
        # slow half of the way from 65 to 75: old 55, that is -25 points
        ("retention", "matched", 10.0),
        ("old", "matched", 20.0),
        ("kl", "final", -4.0),
        ("kl", "matched", 1.5 - 7.0),
    ],
)
def test_differences_by_hand(what, at, expected):
    made = found(difference(["fast", "slow"], what, at), curve=[5, 10, 20, 40])
    assert made["effects"][0][1] == pytest.approx(expected)
    assert made["seeds"] == 3


def test_groups_weigh_alike_and_leave_the_targets_out():
    groups = {"math": ["new"], "other": ["old"], "non": ["far"]}
    arms = {"a": [[point(0.5, 0.6, 0.5)] * 4] * 2}
    test = {"name": "above", "arm": "a", "what": "retention", "above": -100}
    assert estimate(test, arms=arms, groups=groups) == pytest.approx(-15)
    both = {"math": ["new", "old"], "non": ["far"]}
    assert estimate(test, arms=arms, groups=both) == pytest.approx(-10)
    named = test | {"what": "math"}
    assert estimate(named, arms=arms, groups=both) == pytest.approx(55)


def test_a_family_is_the_mean_of_its_members_seed_by_seed():
    arms = {"a@1": runs(FAST), "a@2": runs(SLOW), "b": runs(NEVER)}
    made = found(difference(["a", "b"], "new"), arms=arms)
    assert made["effects"][0][1] == pytest.approx(85 - 50)
    # at matched accuracy b has no run, so nothing is said and all are listed
    made = found(difference(["a", "b"], "old", "matched"), arms=arms)
    assert made["censored"] == ["b/0", "b/1", "b/2"]
    assert made["verdict"] == "inconclusive" and "no run reaches" in made["note"]


def test_seeds_that_never_reach_the_accuracy_are_left_out_in_both_and_listed():
    arms = {"a": [*runs(FAST, 2), runs(NEVER, 1)[0]], "b": runs(SLOW)}
    made = found(difference(["a", "b"], "old", "matched"), arms=arms)
    assert made["censored"] == ["a/2"]
    assert made["effects"][0][1] == pytest.approx(20.0)


def _scattered(seeds=4):
    rng = np.random.default_rng(0)
    shares = {"a": 0.7, "b": 0.6}
    return {
        name: [[noisy(point(x, x), rng) for _ in range(4)] for _ in range(seeds)]
        for name, x in shares.items()
    }


def test_the_interval_is_that_of_the_paired_bootstrap():
    arms = _scattered()
    made = results(arms, BASE, {"c": {"test": difference(["a", "b"], "new")}})
    one = found_of(made)["c"]
    tables = [scores_of(made, arm, "new", "greedy")[:, 0] for arm in ("a", "b")]
    direct = paired_difference(100 * tables[0], 100 * tables[1])
    label, mean, low, high, lower, upper = one["effects"][0]
    assert (mean, lower, upper) == (pytest.approx(direct.mean), 0, None)
    assert (low, high) == pytest.approx(direct[1:], abs=0.5)
    assert one["level"] == 0.95 and one["items"] == ITEMS["new"]
    sample = Sample(made)
    alone = sample.mean("a", "new", "final")
    assert alone[0] == pytest.approx(bootstrap_mean(100 * tables[0]).mean)
    # items that both arms find hard are drawn for both: paired, so it is shorter
    assert np.std(sample.difference("a", "a", "new", "final")) == 0


@pytest.mark.parametrize(
    "test, expected, verdict",
    [
        (difference(["fast", "slow"], "kl", below=-3), -4.0, "supported"),
        (difference(["fast", "slow"], "kl", below=-5), -4.0, "not supported"),
        (difference(["fast", "base"], "old", above=-50), -30.0, "supported"),
        (
            {"name": "equivalence", "of": ["fast", "slow"], "what": "old", "margin": 2},
            0.0,
            "supported",
        ),
        (
            {"name": "equivalence", "of": ["fast", "slow"], "what": "kl", "margin": 2},
            -4.0,
            "not supported",
        ),
        ({"name": "above", "arm": "fast", "what": "kl", "above": 3}, 4.01, "supported"),
        (
            {"name": "below", "arm": "fast", "what": "kl", "below": 3},
            4.01,
            "not supported",
        ),
        (
            {"name": "order", "arms": ["slow", "fast", "never"], "what": "kl"},
            4.01 - 0.41,
            "supported",
        ),
        (
            {"name": "order", "arms": ["fast", "slow", "never"], "what": "kl"},
            -4.0,
            "not supported",
        ),
        (
            {"name": "ratio", "of": ["slow", "fast"], "what": "kl", "above": 1.9},
            8.01 / 4.01,
            "supported",
        ),
        # slow has (75 - 50) / (95 - 50) of the gain
        (
            {"name": "recovery", "arm": "slow", "worse": "never", "better": "fast"}
            | {"what": "new", "above": 0.1},
            25 / 45,
            "supported",
        ),
        # the first 150 of 200 items are solved by both, 40 more by fast alone
        (
            {"name": "exclusive", "of": ["fast", "slow"], "what": "new", "above": 9},
            20.0,
            "supported",
        ),
        (
            {"name": "exclusive", "of": ["slow", "fast"], "what": "new", "above": 0},
            0.0,
            "not supported",
        ),
        (
            {"name": "peak", "arms": ["fast", "slow"], "others": ["slow", "fast"]}
            | {"what": "kl", "above": 0},
            1.0,
            "supported",
        ),
    ],
)
def test_every_test_by_hand(test, expected, verdict):
    made = found(test)
    label, mean, low, high, *_ = made["effects"][0]
    assert mean == pytest.approx(expected, rel=1e-4)
    assert low <= mean <= high
    assert made["verdict"] == verdict


def test_slopes_are_per_hundred_steps_and_the_base_is_step_0():
    steps, kl = np.array([0, 5, 10, 20, 40]), np.array([0.01, 1.01, 2.01, 3.01, 4.01])
    kl[0] = 0.0  # the base has no noise of seeds
    test = {"name": "slope", "of": ["fast"], "what": "kl", "above": 0}
    expected = 100 * np.polyfit(steps, kl, 1)[0]
    assert estimate(test) == pytest.approx(expected)
    late = test | {"since": 10}
    assert estimate(late) == pytest.approx(100 * np.polyfit(steps[2:], kl[2:], 1)[0])
    both = test | {"of": ["slow", "fast"], "since": 5}
    fast, slow = (100 * np.polyfit(steps[1:], k * kl[1:], 1)[0] for k in (1, 2))
    assert estimate(both) == pytest.approx(slow - fast, rel=1e-2)
    accuracy = test | {"what": "new"}
    shares = [50, 60, 80, 90, 95]
    assert estimate(accuracy) == pytest.approx(100 * np.polyfit(steps, shares, 1)[0])


def _spread_arms(n=8):
    """Arms whose old accuracy is a parabola of kl, and noise of another number."""
    rng, arms = np.random.default_rng(1), {}
    for i in range(n):
        x = i / (n - 1)
        run = [point(0.8, 0.9 - 0.5 * x**2, 0.6, kl=x, other=rng.random())] * 4
        arms[f"arm{i}"] = [run] * 3
    return arms


def test_predictors_over_runs():
    arms = _spread_arms()
    test = {"name": "predictor", "x": "kl", "y": "retention", "over": [*arms]}
    # the noise of the items is that of rounding: 100 of them
    assert estimate(test | {"at_least": 0.9}, arms=arms) > 0.99
    made = found(test | {"more_than": "other"}, arms=arms)
    assert made["verdict"] == "supported" and made["items"] == ITEMS["old"] + 50
    turned = test | {"x": "other", "more_than": "kl"}
    assert found(turned, arms=arms)["verdict"] == "not supported"
    ranked = test | {"statistic": "spearman", "at_least": -1.5}
    assert estimate(ranked, arms=arms) == pytest.approx(-1.0, abs=0.01)
    converged = test | {"points": "converged", "at_least": 0.9}
    assert estimate(converged, arms=arms) > 0.99
    none = found(converged, arms=arms, matched={"task": "new", "reach": 90})
    assert none["verdict"] == "inconclusive" and none["note"]


def test_all_of_several_is_decided_by_the_weakest():
    above = {"name": "above", "arm": "fast", "what": "kl", "above": 3}
    tests = [above, difference(["fast", "slow"], "old")]
    made = found({"name": "all_of", "tests": tests})
    assert made["verdict"] == "not supported"
    assert len(made["effects"]) == 2 and made["effects"][0][1] == 0.0
    fine = [above, difference(["fast", "slow"], "new")]
    assert found({"name": "all_of", "tests": fine})["verdict"] == "supported"


def test_holm_widens_the_intervals_of_the_confirmatory_claims_alone():
    arms = _scattered()
    tests = {
        f"c{i}": {"test": difference(["a", "b"], "new", above=x)}
        for i, x in enumerate([0.0, 9.0, -20.0])
    }
    tests["free"] = {"test": difference(["a", "b"], "new"), "status": "exploratory"}
    tests["late"] = {
        "test": difference(["a", "b"], "new"),
        "registered": "after the run",
    }
    made = found_of(results(arms, BASE, tests), 4000)
    order = sorted(("c0", "c1", "c2"), key=lambda name: made[name]["p"])
    assert order[-1] == "c1" and made["c1"]["verdict"] == "inconclusive"
    levels = [made[name]["level"] for name in order]
    assert levels == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 2, 0.95])
    assert [made[n]["holm"] for n in order] == pytest.approx(
        [
            3 * made[order[0]]["p"],
            max(3 * made[order[0]]["p"], 2 * made[order[1]]["p"]),
            made["c1"]["p"],
        ],
        rel=1e-4,
    )
    for name in ("free", "late"):
        assert made[name]["holm"] is None and made[name]["level"] == 0.95
    # after the first claim that is open no other is decided
    many = {f"c{i}": tests["c1"] for i in range(20)} | {"edge": tests["c0"]}
    made = found_of(results(arms, BASE, many), 4000)
    assert {made[f"c{i}"]["level"] for i in range(20)} == {0.9975}


def test_one_number_of_one_seed_decides_nothing():
    arms = {"a": runs(FAST, 1), "b": runs(SLOW, 1)}
    made = found(difference(["a", "b"], "kl"), arms=arms)
    assert made["verdict"] == "inconclusive" and "more seeds" in made["note"]
    assert made["effects"][0][2] is None
    missing = found(difference(["fast", "slow"], "margin"))
    assert missing["verdict"] == "inconclusive" and "not measured" in missing["note"]


def test_a_recovered_share_needs_a_gap():
    test = {"name": "recovery", "arm": "slow", "worse": "fast", "better": "never"}
    made = found(test | {"what": "new", "above": 0.1})
    assert made["verdict"] != "supported"


def test_paired_tests_stand_beside_the_interval():
    arms = _scattered()
    made = found(difference(["a", "b"], "new"), arms=arms)
    assert 0 < made["paired"] < 0.05
    # three seeds: 2 of 8 patterns of signs
    assert found(difference(["fast", "slow"], "kl"))["paired"] == pytest.approx(0.25)
    assert found(difference(["fast", "slow"], "kl", "matched"))["paired"] is None


def test_results_come_back_from_their_compact_form():
    arms = _scattered()
    claims = {"c": {"test": difference(["a", "b"], "new")}}
    made = with_verdicts(results(arms, BASE, claims))
    text = compact(made)
    task = text["arms"]["a"]["runs"][0]["curve"][1]["tasks"]["new"]
    assert task["greedy"].startswith("bits:") and len(task["greedy"]) == 5 + 50
    for name, arm in expanded(text)["arms"].items():
        for run, before in zip(arm["runs"], made["arms"][name]["runs"], strict=True):
            for one, other in zip(
                (run, *run["curve"]), (before, *before["curve"]), strict=True
            ):
                for task, outcome in other["tasks"].items():
                    got = one["tasks"][task]
                    assert {k: got[k] for k in outcome} == outcome
    assert found_of(expanded(text)) == found_of(made)
    text["base"]["tasks"]["old"]["greedy"] = "bits:00"
    with pytest.raises(ValueError, match="'bits:00' is no outcome of 100 items"):
        expanded(text)


def test_fractions_and_many_samples_stay_as_they_are():
    arms = {"a": [[point(0.5, 0.5)] * 4]}
    made = results(arms, BASE)
    made["tasks"]["new"]["samples"] = 64
    made["tasks"]["new"]["pass_at"] = []
    task = made["base"]["tasks"]["new"]
    task["sampled"] = [3 / 64] * 200
    task["greedy"] = [0.25] * 200
    text = compact(made)["base"]["tasks"]["new"]
    assert text["sampled"] == [3] * 200 and text["greedy"] == [0.25] * 200
    assert expanded(compact(made))["base"]["tasks"]["new"]["sampled"] == [3 / 64] * 200


def test_stored_verdicts_that_differ_are_told():
    claims = {"c": {"test": difference(["fast", "slow"], "kl")}}
    made = with_verdicts(results(ARMS, BASE, claims))
    now = found_of(made)
    assert differences(made["claims"], now) == []
    made["claims"]["c"]["found"]["effects"][0][1] += 1
    assert "is stored, it is" in differences(made["claims"], now)[0]
    del made["claims"]["c"]["found"]
    assert "no verdict is stored" in differences(made["claims"], now)[0]


def test_the_table_says_effect_claim_and_verdict():
    claims = {
        "far": {"test": difference(["fast", "slow"], "retention", "matched")}
        | {"paper": "2507.00432", "item": "Figure 2", "published": "+9"},
        "never": {"test": difference(["fast", "never"], "old", "matched")},
    }
    text = "\n".join(claims_text(with_verdicts(results(ARMS, BASE, claims))))
    assert "fast - slow, retention, at matched accuracy" in text
    assert "| > 0 points" in text.replace("  ", "") and "| +9 |" in " ".join(
        text.split()
    )
    assert (
        "(2507.00432, Figure 2)" in text
        and "Never reaches the accuracy: never/0" in text
    )
    assert claims_text(results(ARMS, BASE)) == []
    assert interval([1.26, None, 2], "points") == "+1.3 [-, 2.0] points"
    assert interval([0.123456, 0.1, 0.2], "") == "0.123 [0.1, 0.2]"
    assert claimed(-2, 2, "points") == "within -2 to 2 points"
    assert claimed(None, 5, "%") == "< 5 %"
    assert [p_text(p) for p in (None, 0.0001, 0.25)] == ["-", "<0.001", "0.250"]


def test_unknown_names_in_stored_claims_are_refused():
    claims = {"c": {"test": difference(["fast", "slow"], "speed")}}
    with pytest.raises(ValueError, match="claims.c.test: 'speed' is no task, group"):
        found_of(results(ARMS, BASE, claims))
    assert math.isnan(Sample(results(ARMS, BASE)).mean("fast", "margin", "final")[0])


def test_series_of_a_figure_are_the_values_of_the_claims():
    made = results(ARMS, BASE)
    found = series(made, "fast", "new")
    assert found.steps == [0, 5, 10, 20, 40] and found.unit == "%"
    assert [x.mean for x in found.values] == pytest.approx([50, 60, 80, 90, 95])
    assert all(x.low < x.mean < x.high for x in found.values)
    kept = series(made, "fast", "retention")
    assert [x.mean for x in kept.values] == pytest.approx([0, 0, -5, -10, -15])
    assert value(made, "fast", "retention", "matched").mean == pytest.approx(-2.5)
    assert math.isnan(value(made, "never", "old", "matched").mean)
    with pytest.raises(ValueError, match="at: 7 is no step of the curve"):
        value(made, "fast", "old", 7)
