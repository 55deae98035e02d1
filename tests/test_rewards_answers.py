"""Answers in text and whether they are right: by hand, on MATH and GSM8K solutions."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from unipost.config import Bound
from unipost.rewards import (
    Sample,
    boxed_answer,
    math,
    numeric,
    open_reward,
    score_texts,
    tagged_answer,
)
from unipost.rewards.answers import boxed, find, lone_number, reference, tagged

FIXTURES = Path(__file__).parent / "fixtures"
MATH = [json.loads(x) for x in (FIXTURES / "math500.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "text, inside",
    [
        (r"so \boxed{24}.", "24"),
        (r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ \{1,2\} }", r"\{1,2\}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{a \boxed{3} b}", "3"),
        (r"\fbox{8} and {then", "8"),
        (r"{x \boxed{7} y", "7"),
        (r"} \boxed{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{2} then \boxed{3", "2"),
        (r"$\boxed 5$", "5"),
        (r"\boxed{\text{\u00e9\U0001f600}}", r"\text{\u00e9\U0001f600}"),
        (r"\boxed{}", ""),
        (r"\boxed{3", None),
        ("boxed{3}", None),
        ("", None),
    ],
)
def test_boxed(text, inside):
    assert boxed(text) == inside


@pytest.mark.parametrize(
    "text, inside",
    [
        ("<answer> 5 </answer>", "5"),
        ("<answer>4</answer> no: <answer>\n5\n</answer> end", "5"),
        ("<answer>4</answer> <answer>5", None),
        ("<answer>4", None),
        ("4</answer>", None),
        ("</answer>4<answer>", None),
        ("<answer></answer>", ""),
        ("", None),
    ],
)
def test_tagged(text, inside):
    assert tagged(text) == inside


@pytest.mark.parametrize(
    "text, value",
    [
        ("24", "24"),
        ("24 apples", "24"),
        ("24 square cm.", "24"),
        (r"24 \text{ cm}^2", "24"),
        ("x = 24", "24"),
        (r"1{,}000", "1000"),
        (r"1\,000", "1000"),
        (r"\$1,000.50", "2001/2"),
        (r"50\%", "50"),
        (r"90^\circ", "90"),
        ("$24$", "24"),
        (r"-\frac{1}{2}", "-1/2"),
        (r"\dfrac12", "1/2"),
        ("\u22125", "-5"),
        ("3/4", "3/4"),
        ("1.5e3", "1500"),
        *[
            (text, None)
            for text in ("2^{10}", "1, 2", "3 or 4", "3 pi", "24x", "2 1/2")
        ],
        *[(text, None) for text in ("", "none", "5-3", "1/0", "9" * 2000, "(1,2)")],
    ],
)
def test_lone_number(text, value):
    assert lone_number(text) == (None if value is None else Fraction(value))


def test_ways_are_tried_in_order():
    text = "<answer>a \\boxed{1}</answer>\n#### 2\n\\boxed{3} and 4"
    ways = ("tag", "boxed", "hashes", "number", "text")
    assert find(text, ways) == ("1", "tag")
    assert find(text, ("tag",)) == ("a \\boxed{1}", "tag")
    assert find(text, ("boxed", "hashes")) == ("3", "boxed")
    assert find(text, ("hashes", "boxed")) == ("2", "hashes")
    assert find(text, ("number",)) == ("2", "number")  # as GSM8K is read
    assert find("1/3 of it", ("tag", "number")) == ("1/3", "number")
    assert find("no", ("tag", "boxed", "hashes", "number")) is None
    assert find("no", ways) == ("no", "text")


def test_boxed_answers():
    assert boxed_answer(r"\boxed{24 \text{ apples}}", "24") == 1.0
    assert boxed_answer(r"\boxed{1,024}", "5 * ... = 1024\n#### 1024") == 1.0
    assert boxed_answer("24", "24") == boxed_answer(r"\boxed{24", "24") == 0.0
    assert boxed_answer(r"\boxed{23, 24}", "24") == 0.0  # no list of guesses
    assert boxed_answer(r"\boxed{2^{24}}", "24") == 0.0
    assert (
        boxed_answer(r"\boxed{3} \boxed{\left( 1, \dfrac{\pi}{2} \right)}", "7") == 0.0
    )
    right = r"(1,\frac{\pi}{2})"
    assert boxed_answer(r"\boxed{\left( 1, \dfrac{\pi}{2} \right)}", right) == 1.0
    assert boxed_answer(r"\boxed{\text{Evelyn}}", "Evelyn") == 1.0
    assert boxed_answer(r"\boxed{3.14}", "3.1416", tolerance=0.01) == 1.0
    assert boxed_answer("nothing", "5").note == "no answer"
    with pytest.raises(ValueError, match="the answer is empty"):
        boxed_answer(r"\boxed{}", " ")
    with pytest.raises(ValueError, match=r"boxed_answer.tolerance: -1 is not finite"):
        boxed_answer("5", "5", -1)


def test_tagged_answers():
    r1 = "<think>so \\boxed{4}, no</think> <answer>{}</answer>"
    for inside in ("5", "it is \\boxed{5}", "x = 5", "thus\n#### 5"):
        assert tagged_answer(r1.replace("{}", inside), "5") == 1.0
    for inside in ("4", "", "4 or 5", "\\boxed{4} 5"):
        assert tagged_answer(r1.replace("{}", inside), "5") == 0.0
    assert tagged_answer("<answer>5", "5") == tagged_answer("5", "5") == 0.0


def test_solutions_of_math_answer_themselves_and_no_other():
    """Every solution against every answer; equal answers by their plain text."""
    answers = [row["answer"] for row in MATH]
    texts = [re.sub(r"\s|\\left|\\right|d(?=frac)", "", a) for a in answers]
    same = np.array([[a == b for b in texts] for a in texts], float)
    assert (
        np.array(
            [[boxed_answer(row["solution"], a) for a in answers] for row in MATH]
        ).tolist()
        == same.tolist()
    )
    # math-verify on each solution's own answer and on one that is another
    own = score_texts(math, [row["solution"] for row in MATH], answers)
    assert own.values.tolist() == [1.0] * len(MATH)
    rolled = score_texts(
        math, [row["solution"] for row in MATH], answers[1:] + answers[:1]
    )
    assert rolled.values.tolist() == [
        same[i, (i + 1) % len(MATH)] for i in range(len(MATH))
    ]


@pytest.mark.parametrize(
    "given, right, value",
    [
        (r"\frac{1}{2}", "0.5", 1),
        (r"x^2-1", "(x-1)(x+1)", 1),
        (r"x^2+1", "(x-1)(x+1)", 0),
        (r"2\sqrt{2}", r"\sqrt{8}", 1),
        (r"\{2,1\}", r"\{1,2\}", 1),
        (r"(2,1)", "(1,2)", 0),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", 1),
        (r"\text{Evelyn}", "Evelyn", 1),
        ("1,000", "1000", 1),
        (r"50\%", "0.5", 1),
        ("24", "24.0", 1),
        ("024", "24", 1),
        ("25", "24", 0),
        ("", "24", 0),
        ("48/2", "24", 1),  # unevaluated is as good: known
        ("x" * 1001, "24", 0),
        ("24 or 25", "24", 0),
    ],
)
def test_math(given, right, value):
    assert math(rf"so \boxed{{{given}}}", right) == value


def test_math_reports_what_it_falls_back_on():
    texts = [
        "it is 24",
        r"\boxed{24}",
        "<answer>24</answer>",
        "none",
        "x\n#### 24",
        "9",
    ]
    graded = open_reward(math)([Sample(t, "24") for t in texts])
    assert graded.values.tolist() == [1, 1, 1, 0, 1, 0]
    assert graded.notes == {"last number": 2, "no answer": 1}
    strict = Bound(math, (("extract", ("boxed",)),))
    graded = open_reward(strict)([Sample(t, "24") for t in texts])
    assert graded.values.tolist() == [0, 1, 0, 0, 0, 0]
    assert graded.notes == {"no answer": 5}
    assert math("The final answer is $x+1$.", "1+x", ("text",)) == 1.0
    with pytest.raises(ValueError, match="math.extract: empty"):
        math("5", "5", ())
    with pytest.raises(ValueError, match="holds no mathematics"):
        math(r"\boxed{5}", "")


def test_worked_solutions_are_references():
    rows = (FIXTURES / "gsm8k.jsonl").read_text().splitlines()
    answers = [json.loads(row)["answer"] for row in rows]
    for answer in answers:
        right = answer.rsplit("#### ", 1)[1]
        assert reference(answer) == right
        boxed_text = rf"<think>{answer}</think> \boxed{{{right}}}"
        for reward in (numeric, boxed_answer, math):
            assert reward(boxed_text, answer) == 1.0
    assert reference(MATH[0]["solution"]) == MATH[0]["answer"]
    assert reference(" 5 ") == "5"
