"""Numbers read out of text, and rewards that fail without taking the run with them."""

import json
import math
import re
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from unipost.rewards import REWARDS, exact, last_number, numeric, score_texts

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(
    "text, value",
    [
        ("72", "72"),
        ("it is 72.", "72"),
        ("first 3, then 4", "4"),
        (".5", "1/2"),
        ("0.50", "1/2"),
        ("1,000", "1000"),
        ("$1,234,567.50.", "2469135/2"),
        ("1,2,3", "3"),
        ("3/4", "3/4"),
        ("3 / 4 of it", "3/4"),
        ("-3/4", "-3/4"),
        (r"\frac{3}{4}", "3/4"),
        (r"so -\dfrac{1}{2}$", "-1/2"),
        (r"\boxed{24}", "24"),
        ("50%", "50"),
        ("1.5e3", "1500"),
        ("2E-2", "1/50"),
        ("-7", "-7"),
        ("\u22127", "-7"),
        ("x = -3", "-3"),
        ("$-3", "-3"),
        ("-$3", "-3"),
        ("(-3)", "-3"),
        ("**-3**", "-3"),
        ("5-3", "3"),
        ("5 - 3", "3"),
        ("(2+1)-3", "3"),
        ("<<48/2=24>>24", "24"),
        ("16-3-4=<<16-3-4=9>>9 eggs", "9"),
        ("steps 1 2 3\n#### 24", "24"),
        ("#### 24\nQuestion: 5 apples", "24"),
        ("#### 1,024", "1024"),
        ("#### -5", "-5"),
    ],
)
def test_last_number(text, value):
    assert last_number(text) == Fraction(value)


@pytest.mark.parametrize(
    "text", ["", "none at all", "3/0", "#### ", "5 #### no idea\n7", "9" * 5000, "$ %"]
)
def test_no_number_scores_zero(text):
    assert last_number(text) is None
    assert numeric(text, "24") == 0.0


def test_absurd_numbers_cost_nothing():
    start = time.process_time()
    for text in [
        "1e999999999",
        "9" * 4000,
        "1," * 20_000,
        "-$" * 20_000,
        "1e999/1e999",
    ]:
        last_number(text)
    assert time.process_time() - start < 2.0


def test_numeric_is_exact_unless_told_otherwise():
    assert numeric("0.1 + 0.2 = 0.3", "3/10") == 1.0
    assert numeric("0.30000000000000001", "0.3") == 0.0
    assert numeric("24.0", "24") == 1.0 and numeric("$24%", "24") == 1.0
    assert numeric("101", "100", tolerance=0.01) == 1.0
    assert numeric("13", "10", tolerance=0.3) == 1.0
    assert numeric("101.1", "100", tolerance=0.01) == 0.0
    assert numeric("-101", "-100", tolerance=0.01) == 1.0
    assert numeric("0.001", "0", tolerance=0.5) == 0.0


def test_numeric_refuses_what_cannot_be_judged():
    with pytest.raises(ValueError) as caught:
        numeric("5", "five")
    message = "the answer 'five' holds no number; use the reward exact"
    assert str(caught.value) == message
    with pytest.raises(ValueError) as caught:
        numeric("5", "5", tolerance=-1)
    assert str(caught.value) == "numeric.tolerance: -1 is not finite and >= 0"


def test_gsm8k_answers_reward_themselves_and_no_other():
    lines = (FIXTURES / "gsm8k.jsonl").read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    # Independent reading: the plain integer after the marker.
    marked = [re.search(r"#### ([-0-9,]+)$", a) for a in answers]
    truth = [m.group(1).replace(",", "") for m in marked if m]
    assert len(truth) == len(answers)
    table = [[numeric(response, t) for t in truth] for response in answers]
    assert (np.array(table) == np.equal.outer(truth, truth)).all()


def test_exact():
    assert exact(" B\n", "B") == 1.0
    assert exact("b", "B") == 0.0
    assert REWARDS["numeric"] is numeric and REWARDS["exact"] is exact


def test_failing_rewards_leave_samples_unscored():
    def moody(response, answer):
        if response == "raise":
            raise KeyError("gone")
        return {"nan": math.nan, "inf": math.inf, "none": None}.get(response, 0.5)

    responses = ["fine", "raise", "nan", "inf", "none", "fine"]
    scores = score_texts(moody, responses, ["a"] * 6)
    assert scores.unscored == 4
    assert scores.reason == "sample 1: KeyError: 'gone'"
    assert np.isnan(scores.values).tolist() == [False, True, True, True, True, False]
    assert scores.values[[0, 5]].tolist() == [0.5, 0.5]


def test_scores_follow_the_samples():
    scores = score_texts(numeric, ["7", "no", "= 3"], ["7", "7", "3"])
    assert scores.values.tolist() == [1.0, 0.0, 1.0]
    assert (scores.unscored, scores.reason) == (0, "")
    scores = score_texts(numeric, ["7", "7"], ["7", "x"])
    reason = (
        "sample 1: ValueError: the answer 'x' holds no number; use the reward exact"
    )
    assert (scores.unscored, scores.reason) == (1, reason)
    with pytest.raises(ValueError):
        score_texts(numeric, ["1"], ["1", "2"])
