"""Equations in worked solutions, and rewards of steps."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from unipost.rewards import (
    Sample,
    StepRewards,
    Weighted,
    WeightedSum,
    exact,
    numeric,
    open_reward,
    step_equations,
)
from unipost.rewards.arithmetic import equations, value_of
from unipost.rewards.steps import split_steps

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize(
    "text, verdicts",
    [
        ("16 - 3 - 4 = <<16-3-4=9>>9 eggs", [1]),
        ("so 9 * 2 = $<<9*2=18>>18 daily", [1]),
        ("it is 2+2=5.", [0]),
        ("2+2=4, 3+3=7", [1, 0]),
        ("(1+2)*3 = 9 and 2*-3 = -6", [1, 1]),
        ("50%*8=4", [1]),
        ("$2 * 3 = $6.", [1]),
        ("1,000 + 1 = 1,001", [1]),
        (
            "20 \u00f7 4 = 5; 4 \u00d7 5 = 20; 16 \u2212 3 = 13; 16 \u2013 3 = 13",
            [1] * 4,
        ),
        ("2/3 x 75 = 50", [1]),
        ("8 = 4 + 4 = 2*3", [1, 0]),
        ("10/3=3.33 but 10/3 = 3.34 and 10/3=3", [1, 0, 0]),
        (".5*2 = 1", [1]),
        ("1) 16-3 = 13\n- 16 - 3 = 13\nStep 2: 16 - 3 = 13", [1, 1, 1]),
        *[(t, []) for t in ("y+3 = 8", "2 = 5x", "2^3 = 9", "f(2) = 5", "= 5", "5 =")],
        *[(t, []) for t in ("1/0 = 3", "2 3 = 5", "", "(1 = 1", "5! = 120", "a = b")],
        *[(t, []) for t in ("X + X*80% = $36", "2x + 3 = 5", "\u221a(144) = 12")],
    ],
)
def test_equations(text, verdicts):
    assert equations(text) == [bool(v) for v in verdicts]


def test_arithmetic_is_pythons():
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(300):
        terms = rng.integers(1, 20, 5)
        signs = rng.choice(list("+-*/"), 5)
        text = "".join(f"{t}{s}" for t, s in zip(terms, signs, strict=True))[:-1]
        if rng.random() < 0.5:
            place = text.index(signs[1]) if signs[1] in text else 0
            text = f"({text[:place] or 1}){text[place:] if place else '+' + text}"
        exactly = re.sub(r"(\d+)", r"Fraction(\1)", text)
        try:
            expected = eval(exactly, {"Fraction": Fraction})
        except ZeroDivisionError:
            expected = None
        seen += expected is not None
        assert value_of(text) == expected, text
    assert seen > 250


def test_gsm8ks_notes_hold():
    rows = (FIXTURES / "gsm8k.jsonl").read_text().splitlines()
    answers = [json.loads(row)["answer"] for row in rows]
    notes = [m for a in answers for m in re.findall(r"<<([^>]*)>>", a)]
    assert len(notes) > 50
    assert all(equations(note) == [True] for note in notes)
    spoilt = [re.sub(r"=([\d.])", r"=7\1", note) for note in notes]
    assert not any(all(equations(note)) for note in spoilt)


def test_splits():
    text = "Let me see.\nStep 1: a\nmore\n\n**Step 2:** b \n \nStep 3. c\n"

    def pieces(split):
        return [text[a:b] for a, b in split_steps(text, split)]

    lines = ["Let me see.", "Step 1: a", "more", "**Step 2:** b", "Step 3. c"]
    assert pieces("line") == lines
    blocks = ["Let me see.\nStep 1: a\nmore", "**Step 2:** b", "Step 3. c"]
    assert pieces("paragraph") == blocks
    assert pieces("numbered") == blocks
    assert split_steps("no steps here", "numbered") == [(0, 13)]
    for split in ("line", "paragraph", "numbered"):
        assert split_steps(" \n\n ", split) == split_steps("", split) == []


@pytest.mark.parametrize(
    "total, value",
    [("mean", 1 / 3), ("sum", 1), ("min", -1), ("product", -1), ("last", -1)],
)
def test_step_rewards(total, value):
    text = "1+1=2\n\n2+2=4\n2+3=4"
    shown = [Sample(text), Sample(""), Sample("word")]
    graded = open_reward(StepRewards(total=total))(shown)
    np.testing.assert_allclose(graded.values, [value, 0, 0])
    assert graded.steps == [[(5, 1.0), (12, 1.0), (18, -1.0)], [], [(4, 0.0)]]


def test_a_step_without_a_reward_leaves_its_response_unscored():
    def moody(step, answer):
        return None if step == "none" else float(len(step))

    graded = open_reward(StepRewards(moody, total="last"))(
        [Sample("a\nnone\nab"), Sample("abc\na")]
    )
    np.testing.assert_array_equal(graded.values, [np.nan, 1.0])
    assert graded.steps == [[], [(3, 3.0), (5, 1.0)]]
    assert graded.reasons == ["steps: the reward is None, not a number"]


def test_a_sum_has_the_steps_of_its_parts():
    text = "1+1=2\n7\n"
    reward = WeightedSum(
        {
            "right": Weighted(numeric, 2.0),
            "steps": Weighted(StepRewards(step_equations), 0.5),
            "watched": Weighted(exact, 0.0),
        }
    )
    graded = open_reward(reward)([Sample(text, "7"), Sample("", "7")])
    np.testing.assert_allclose(graded.values, [2.25, 0.0])
    assert graded.steps == [[(5, 0.5), (7, 2.0)], [(0, 0.0)]]
    assert open_reward(WeightedSum({"a": Weighted(exact)}))([Sample("")]).steps is None
