"""The tasks of experiments/papers against independent brute force."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from experiments.papers import make_tasks, problems, tasks, teacher

ROOT = Path(__file__).parent.parent
DATA = ROOT / "experiments" / "papers" / "data"
PART = {"train": range(90), "valid": range(90, 95), "test": range(95, 100)}


def rows(name):
    lines = (DATA / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def last_digit(prompt):
    """The value of a chain of digits by Python's own integers, reduced at the end."""
    body = prompt[1:-1]
    if prompt[0] == "U":
        return str(sum(map(int, body)) % 10)
    value = int(body[0])
    for sign, digit in zip(body[1::2], body[2::2], strict=True):
        value = eval(f"({value}){sign}{digit}", {"__builtins__": {}})
    return str(value % 10)


def columns(prompt):
    """A chain of three-digit numbers: every place by itself."""
    body, out = prompt[1:-1], ""
    for place in range(3):
        digits = "".join(c for i, c in enumerate(body) if i % 4 in (place, 3))
        out += last_digit(f"M{digits}=")
    return out


def resolved(prompt):
    """The value of the letter asked for, by following references."""
    body, asked = prompt[1:-1].split(",")
    given = dict(zip(body[::2], body[1::2], strict=True))
    while asked.isalpha():
        asked = given[asked]
    return asked


ORACLES = {
    "ch3": last_digit,
    "ch4": last_digit,
    "ch5": last_digit,
    "ch7": last_digit,
    "sum6": last_digit,
    "free": last_digit,
    "v3": columns,
    "v4": columns,
    "sort": lambda p: "".join(sorted(p[1:-1])),
    "count": lambda p: str(Counter(p[2:-1])[p[1]]),
    "var": resolved,
    "copy": lambda p: p[1:-1],
    "rep": lambda p: p[1] * int(p[2]) + p[3] * int(p[4]),
    "look": lambda p: dict(zip(p[1:7:2], p[2:7:2], strict=True))[p[8]],
    "rev": lambda p: p[-2:0:-1],
    "max": lambda p: str(max(map(int, p[1:-1]))),
}


@pytest.mark.parametrize("task", ORACLES)
def test_answers_of_the_committed_rows(task):
    found = rows(f"{task}_test")
    assert 440 < len(found) <= 512
    for row in found:
        assert row["answer"] == ORACLES[task](row["prompt"]), row


def by_enumeration(answer):
    digits, target = answer.split(",")
    out = set()
    for a, b in itertools.permutations(digits, 2):
        for sign in "+-*":
            if eval(f"{a}{sign}{b}", {"__builtins__": {}}) == int(target):
                out.add(f"{a}{sign}{b}")
    return sorted(out)


def test_countdown_knows_all_right_answers_and_no_other():
    every = [f"{a}{s}{b}" for a in range(10) for s in "+-*" for b in range(10)]
    for row in rows("cd_test")[:100]:
        right = [e for e in every if tasks.countdown(e, row["answer"])]
        right = sorted(right)
        assert right == by_enumeration(row["answer"]) == tasks.solutions(row["answer"])
        assert len(right) >= 3
    assert tasks.countdown("4+4", "14567,8") == 0.0  # one 4 only
    assert tasks.countdown("4+4", "14467,8") == 1.0
    assert tasks.countdown("1+7 ", "14567,8") == 0.0
    assert tasks.countdown("", "14567,8") == 0.0


def test_the_split_leaks_nothing():
    for task in problems.TASKS:
        parts = {}
        for part in PART:
            found = problems.drawn(task, part, 200, 3)
            parts[part] = {p.canonical for p in found}
        assert not parts["train"] & parts["test"], task
        assert not parts["train"] & parts["valid"], task
        assert not parts["valid"] & parts["test"], task
    # an order of the same letters or digits is the same problem
    canon = {
        "sort": lambda p: sorted(p[1:-1]),
        "cd": lambda p: sorted(p[1:6]) + [p[6:]],
    }
    for task, same in canon.items():
        test = {str(same(r["prompt"])) for r in rows(f"{task}_test")}
        base = problems.drawn(task, "train", 3000, 0)
        assert not test & {str(same(p.prompt)) for p in base}


def test_the_base_never_sees_a_test_problem():
    seen = make_tasks.pretraining(6000, make_tasks.STYLES, 5)
    prompts = {row["prompt"] for row in seen}
    for task in make_tasks.SHARES:
        assert task == "fact" or not prompts & {
            r["prompt"] for r in rows(f"{task}_test")
        }


@pytest.mark.parametrize("task", ["ch4", "cd", "sort", "look"])
def test_the_committed_rows_are_made_again(task):
    found = problems.drawn(task, "test", 512, 0)
    made = make_tasks.questions(found, task in problems.CHAINS)
    assert made == rows(f"{task}_test")
    if task in make_tasks.TRAIN_ROWS:
        again = make_tasks.training(task)
        for row, _ in zip(rows(f"{task}_train"), range(50), strict=False):
            assert row == next(again)


@pytest.mark.parametrize("style", ["cot", "direct", "verbose", "dotted"])
def test_every_style_is_read_as_itself_and_right(style):
    for task in ("ch3", "ch5", "sum6", "v3", "v4"):
        for problem in problems.drawn(task, "test", 30, 1):
            text = tasks.written(tasks.steps(problem.prompt), style)
            assert tasks.style_of(text) == style
            assert tasks.chain(text, problem.answer) == 1.0
            for other in ("cot", "direct", "verbose"):
                assert getattr(tasks, other)(text, "") == float(style == other)
            other = str((int(problem.answer[-1]) + 1) % 10)
            assert tasks.chain(text[:-1] + other, problem.answer) == 0.0


@pytest.mark.parametrize("text", ["", "7", "w", "1,", ",1", "w1,2", "#1+2>3", "wz1"])
def test_what_is_no_chain_has_no_style_and_no_reward(text):
    assert tasks.style_of(text) is None
    assert tasks.chain(text, "1") == 0.0


def test_the_worked_examples_of_the_documentation():
    worked = tasks.steps("M7*3+5-8=")
    assert tasks.written(worked, "cot") == "1,6,8"
    assert tasks.written(worked, "direct") == "w8"
    assert tasks.written(worked, "verbose") == "#7*3>1;1+5>6;6-8>8!8"
    assert tasks.free("zzz8", "8") == 1.0 and tasks.free("zz8z", "8") == 0.0


def test_styles_of_the_base_have_their_shares():
    found = Counter()
    for row in make_tasks.pretraining(30_000, make_tasks.STYLES, 7):
        if row["prompt"][0] == "M":
            found[tasks.style_of(row["completion"])] += 1
    for style, share in make_tasks.STYLES.items():
        assert abs(found[style] / found.total() - share) < 0.02
    assert None not in found


def test_a_teacher_slips_as_often_as_it_says_and_is_the_same_when_asked_again():
    one = teacher.Teacher(group=8, style="verbose", mistakes=0.4)
    right = []
    for row in rows("ch4_train")[:200]:
        for g in range(8):
            text = one.response(row["prompt"], g)
            assert tasks.style_of(text) == "verbose"
            right.append(tasks.chain(text, row["answer"]))
    assert 0.56 < sum(right) / len(right) < 0.64
    assert text == one.response(row["prompt"], 7)
    assert teacher.Teacher(8, "cot").response("M7*3+5-8=", 3) == "1,6,8"


def test_a_slip_is_carried_on_from():
    for seed in range(50):
        worked = teacher.slipped("M7*3+5-8=", random.Random(seed))
        assert all(a[3] == b[0] for a, b in itertools.pairwise(worked))
        wrong = [w for w in worked if tasks.step(*w[:3]) != w[3]]
        assert len(wrong) == 1 and worked[-1][3] != "8"


def test_labels_of_the_oracle_experiment():
    for row in rows("cd_train")[:300]:
        right = by_enumeration(row["answer"])
        assert row["uniform"] in right
        first = [e for sign in "*-+" for e in right if e[1] == sign]
        assert row["canonical"] == first[0]


def test_oracle_labels_are_right_answers_to_problems_of_the_training_part():
    asked = {row["prompt"] for row in rows("cd_train")}
    found = rows("cd_oracle")
    assert len(found) > 4000 and {row["prompt"] for row in found} <= asked
    for row in found:
        assert tasks.countdown(row["completion"], row["answer"]) == 1.0
