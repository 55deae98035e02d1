"""pass@k at equal entropy: its counts and sums by hand, its verdicts from the store."""

import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.papers import entropy_claims as claims
from experiments.papers.entropy_match import answer, below, counted, verified
from unipost.analysis import delta_se

STORED = Path("paper_figs/data/entropy_match.json")


def made_up() -> dict[str, Any]:
    """Two problems with four samples, three seeds alike, every condition the same."""
    run = {"right": [1, 3], "verified": [0, 3], "nll": [0.2, 0.4], "below": [50, 50]}
    run["maj"] = {str(k): [250, 1000] for k in claims.VOTES}
    arms = {arm: [run] * 3 for arm in claims.CONDITIONS}
    return {"samples": 4, "settings": {name: arms for name in claims.SETTINGS}}


def test_pass_at_k_of_counts_is_that_of_all_subsets():
    found = made_up()
    for k in (1, 2, 3, 4):
        expected = [
            100 * np.mean([any(x) for x in combinations(row, k)])
            for row in ([1, 0, 0, 0], [1, 1, 1, 0])
        ]
        own = claims.values(found, "plain", "grpo", f"pass@{k}")
        assert own.shape == (3, 2)
        np.testing.assert_allclose(own[1], expected, rtol=1e-12)
    strict = claims.values(found, "hard", "grpo", "verified@1")[0]
    np.testing.assert_allclose(strict, [0, 75])
    votes = claims.values(found, "hard", "start", "maj@64")[0]
    np.testing.assert_allclose(votes, [25, 100])


def test_a_sum_has_the_weighted_mean_and_pairs_cancel():
    found = made_up()
    whole = claims.summed(found, "plain", ((0.5, "start", "pass@4"),))
    assert whole.mean == pytest.approx(50)
    for run in found["settings"]["hard"]["grpo"]:
        run["right"] = [64, 0]
    found["samples"] = 256
    gap = claims.summed(found, "hard", claims.less_at_one("grpo", "grpo"))
    # of two problems one is solved within 256 samples, in a quarter of them
    assert gap.mean == pytest.approx(100 * delta_se([0.125, 0.5], [0.125, 0.5]))
    nothing = claims.summed(found, "plain", claims.less("grpo", "start", "pass@1"))
    assert tuple(nothing) == (0, 0, 0)


def test_what_a_response_votes_for():
    assert [answer(t) for t in ("w314", "932,314", "#1+2>3!314")] == ["314"] * 3
    assert answer("w0314") == "0314" and answer("w1") == "1"
    assert answer("932,,314") is None and answer("314") is None


def test_verified_needs_every_step():
    prompt = "N692-760-628="
    assert verified(prompt, "932,314")
    for wrong in ("931,314", "932,315", "932", "932,314,000", "w314", "314"):
        assert not verified(prompt, wrong)


def test_percentile_among_own_responses():
    own, other = np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0]])
    # 2 lies above one and ties with one of three, 4 above all
    np.testing.assert_allclose(below(own, other), [100 * (1.5 / 3 + 1) / 2])
    np.testing.assert_allclose(below(own, own), [50])


def test_counts_of_responses():
    texts = ["932,314", "931,314", "w000", "x", "w1", "w1", "w2", ""]
    given = SimpleNamespace(
        prompts=["N692-760-628=", "N111+111+111="], answers=["314", "333"]
    )
    many: Any = SimpleNamespace(
        given=given,
        shape=(2, 64),
        texts=(texts[:2] + texts[2:4] * 31) + (texts[4:] * 16),
    )
    found = counted(many)
    assert found["right"] == [2, 0] and found["verified"] == [1, 0]
    # 31 of w000 beat 2 right ones; of one sample 2 in 64 are right
    assert found["maj"]["64"] == [0, 0] and found["maj"]["1"][0] < 120


@pytest.mark.parametrize("name", ["plain", "hard"])
def test_stored_verdicts_follow_from_what_is_stored(name):
    tree = json.loads(STORED.read_text())
    again = claims.judged(tree)
    assert set(again) == set(tree["claims"])
    for claim in (c for c in again if c.startswith(name)):
        own, stored = again[claim]["found"], tree["claims"][claim]["found"]
        assert own["verdict"] == stored["verdict"]
        both = (x["effects"][0][1:] for x in (own, stored))
        np.testing.assert_allclose(*both, rtol=1e-3, atol=1e-3)
    for condition, target in (("start_matched", "grpo"), ("grpo_matched", "start")):
        arms = tree["settings"][name]
        for run, other in zip(arms[condition], arms[target], strict=True):
            assert run["entropy"] == pytest.approx(other["entropy"], rel=0.1)
