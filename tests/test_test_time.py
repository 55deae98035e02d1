"""Best of n, votes and accuracy against N: published numbers, and enumeration."""

import csv
import dataclasses
import json
import math
from collections import Counter
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import MODEL, write_sums

from unipost.cli import main
from unipost.sampling import Sampling
from unipost.test_time import (
    STEP_RULES,
    Drawn,
    best,
    coded,
    curves,
    expected_best,
    expected_pass,
    majority,
    step_probability,
    step_scores,
    weighted,
)
from unipost.test_time.sample import draw
from unipost.test_time.settings import BestOf
from unipost.wording import Wording

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures" / "test_time"
EXPERIMENTS = HERE.parent / "experiments"


# published numbers


@pytest.fixture(scope="module")
def qwen():
    """100 MATH problems, 8 responses each, by Qwen2.5-Math and its reward model."""
    path = FIXTURES / "qwen_math_cot_100.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    answers = coded([[text or None for text in row["pred"]] for row in rows])
    correct = np.array([row["score"] for row in rows])
    return answers, correct, np.array([row["pred_score"] for row in rows])


def share(correct, chosen) -> float:
    """Share of items whose chosen response is right."""
    right = correct[np.arange(len(correct)), chosen]
    return float((right & (chosen >= 0)).mean())


def test_qwen_numbers(qwen):
    """rm@8, maj@8, avg@8, first and pass@8 as Qwen2.5-Math's evaluation gives them."""
    answers, correct, scores = qwen
    drawn = Drawn(answers, correct, {"rm": scores}, {})
    assert share(correct, best(answers, scores)) == 0.94
    assert share(correct, majority(answers)) == 0.93
    assert expected_pass(drawn, 8).mean() == 0.96
    assert expected_pass(drawn, 1).mean() == pytest.approx(0.91, abs=1e-12)
    assert expected_best(drawn, "rm", 1).mean() == pytest.approx(0.91, abs=1e-12)
    assert correct[:, 0].mean() == 0.90


def test_prm800k_scored_record():
    """The record of PRM800K: product, minimum, and with a neutral step counted wrong.

    Its prm_score is the product of P(+1) + P(0).
    """
    record = json.loads((FIXTURES / "prm800k_scored.json").read_text())
    right = [step_probability(r) for r in record["rating_probs"]]
    strict = [step_probability(r, neutral="wrong") for r in record["rating_probs"]]
    product = step_scores([right], "product")[0]
    assert product == pytest.approx(0.09157553704097245, rel=1e-14)
    assert product == pytest.approx(record["prm_score"], rel=1e-14)
    assert step_scores([right], "min")[0] == pytest.approx(0.249239, abs=5e-7)
    assert step_scores([strict], "product")[0] == pytest.approx(0.0454054, abs=5e-8)


# one choice


def choose_best(answers, scores):
    """The definition: the best score of the answered, the first one of equals."""
    usable = [i for i, a in enumerate(answers) if a >= 0 and not math.isnan(scores[i])]
    return max(usable, key=lambda i: (scores[i], -i), default=-1)


def choose_vote(answers, scores):
    """The definition, in exact fractions: first response of the heaviest answer."""
    totals = Counter()
    for answer, score in zip(answers, scores, strict=True):
        if answer >= 0 and not math.isnan(score):
            totals[answer] += Fraction(score)
    usable = [i for i, a in enumerate(answers) if a >= 0 and not math.isnan(scores[i])]
    return max(usable, key=lambda i: (totals[answers[i]], -i), default=-1)


def random_draw(rng, items=40, n=6):
    """Answers with none among them, scores with ties (in 64ths, exact) and NaN."""
    answers = rng.integers(-1, 3, (items, n))
    scores = rng.integers(0, 6, (items, n)) / 64
    scores[rng.random((items, n)) < 0.15] = math.nan
    answers[0], scores[1] = -1, math.nan
    return answers, scores


def test_choices_are_those_of_the_definitions():
    answers, scores = random_draw(np.random.default_rng(0))
    ones = np.ones(answers.shape)
    for rule, oracle, values in (
        (best, choose_best, scores),
        (weighted, choose_vote, scores),
        (lambda a, _: majority(a), choose_vote, ones),
    ):
        wanted = [oracle(a, s) for a, s in zip(answers, values, strict=True)]
        assert rule(answers, values).tolist() == wanted
        assert wanted[0] == -1


def test_ties_go_to_what_was_drawn_first():
    assert best([1, 0, 2], [0.5, 0.9, 0.9]) == 1
    assert majority([2, 1, 1, 2]) == 0
    assert weighted([0, 1, 1], [0.5, 0.25, 0.25]) == 0


def test_no_answer_is_no_vote_and_no_choice():
    answers = coded([["7", None, None], [None, None, None], ["7", "8"]])
    assert answers.tolist() == [[0, -1, -1], [-1, -1, -1], [0, 1, -1]]
    assert majority(answers).tolist() == [0, -1, 0]
    assert best(answers, [[0.1, 0.9, 0.9]] * 3).tolist() == [0, -1, 1]


def test_openr_rules_differ_where_they_should():
    """min-max, min-vote, last-max and last-vote on steps that each choose otherwise."""
    answers = coded([["a", "b", "b", "c", "d"]])
    steps = [[0.5, 0.9], [0.3, 0.5], [0.3, 0.5], [0.45, 0.8], [0.1, 0.98]]
    low, last = (step_scores(steps, rule)[None] for rule in ("min", "last"))
    assert best(answers, low)[0] == 0
    assert weighted(answers, low)[0] == 1
    assert best(answers, last)[0] == 4
    assert weighted(answers, last)[0] == 1


def test_step_rules_against_plain_arithmetic():
    steps = [[0.5, 0.25, 0.75], [0.125], []]
    wanted = {
        "product": [0.09375, 0.125],
        "min": [0.25, 0.125],
        "last": [0.75, 0.125],
        "mean": [0.5, 0.125],
    }
    assert wanted.keys() == STEP_RULES.keys()
    for rule, values in wanted.items():
        found = step_scores(steps, rule)
        assert found[:2].tolist() == values and math.isnan(found[2])


def test_a_negative_score_is_no_weight():
    with pytest.raises(ValueError, match="a score of -0.5 would count against"):
        weighted([0, 1], [-0.5, 1.0])
    with pytest.raises(ValueError, match=r"answers \(2,\) and scores \(3,\) differ"):
        best([0, 1], [1.0, 2.0, 3.0])


# accuracy against N


def enumerated(answers, correct, values, choose, size):
    """Share [I] of all subsets, in the order of drawing, whose choice is right."""
    found = []
    for a, c, v in zip(answers, correct, values, strict=True):
        hits = []
        for places in map(list, combinations(range(len(a)), size)):
            chosen = choose(a[places], v[places])
            hits.append(chosen >= 0 and bool(c[places][chosen]))
        found.append(np.mean(hits))
    return np.array(found)


@pytest.fixture(scope="module")
def drawn():
    """Forty items with six responses; an answer is right or wrong as a whole."""
    rng = np.random.default_rng(1)
    answers, scores = random_draw(rng)
    correct = (answers == rng.integers(0, 3, (len(answers), 1))) & (answers >= 0)
    return Drawn(answers, correct, {"s": scores}, {"s": scores})


@pytest.mark.parametrize("size", range(1, 7))
def test_closed_forms_are_the_mean_over_all_subsets(drawn, size):
    values = drawn.scores["s"]
    wanted = enumerated(drawn.answers, drawn.correct, values, choose_best, size)
    np.testing.assert_allclose(expected_best(drawn, "s", size), wanted, atol=1e-12)

    def any_right(answers, right):
        return int(right.argmax())

    right = drawn.correct.astype(float)
    wanted = enumerated(drawn.answers, drawn.correct, right, any_right, size)
    np.testing.assert_allclose(expected_pass(drawn, size), wanted, atol=1e-12)


def test_trials_agree_with_all_subsets(drawn):
    """Every rule within four standard errors of the mean over all subsets."""
    count, ones = 600, np.ones(drawn.answers.shape)
    rules = {
        "best of n, s": (choose_best, drawn.scores["s"]),
        "majority": (choose_vote, ones),
        "weighted vote, s": (choose_vote, drawn.weights["s"]),
        "pass@n": (choose_best, drawn.correct.astype(float)),
    }
    points = curves(drawn, (1, 2, 4, 6), count, seed=3)
    assert [*dict.fromkeys(p.rule for p in points)] == [*rules]
    for point in points:
        choose, values = rules[point.rule]
        wanted = enumerated(
            drawn.answers, drawn.correct, values, choose, point.samples
        ).mean()
        assert abs(point.mean - wanted) <= 4 * point.std / math.sqrt(count) + 1e-12
        assert point.low <= wanted <= point.high
        if point.exact is not None:
            assert point.exact == pytest.approx(wanted, abs=1e-12)
        assert (point.std == 0) == (point.samples == 6)


def test_curves_are_the_same_for_a_seed_and_refuse_other_sizes(drawn):
    assert curves(drawn, (2,), 5, 0) == curves(drawn, (2,), 5, 0)
    assert curves(drawn, (2,), 5, 0) != curves(drawn, (2,), 5, 1)
    with pytest.raises(ValueError, match="sizes: 7 of 6 responses; write 1 to 6"):
        curves(drawn, (7,))


# the command

FILE = f"""
path: {EXPERIMENTS}/data/equations_test.jsonl
prompt_length: 16
sampling: {{max_tokens: 12}}
samples: 4
prompts: 8
limit: 12
trials: 20
scores:
  likelihood: likelihood
  short: {{name: graded, reward: "test_test_time:short"}}
"""


def short(response: str, answer: str) -> float:
    """A reward for few characters, in (0, 1]."""
    return 1 / (1 + len(response))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """`unipost best-of` on twelve equations, four responses each."""
    folder = tmp_path_factory.mktemp("best_of")
    file = folder / "small.yaml"
    file.write_text(FILE)
    out = folder / "out"
    arguments = ["best-of", f"{EXPERIMENTS}/base", str(file), "--out", str(out)]
    assert main(arguments) == 0
    return arguments, out


def test_the_command_writes_samples_and_their_curve(sampled):
    """The curve at N = n again from samples.jsonl, by the definitions above."""
    _, out = sampled
    lines = [json.loads(x) for x in (out / "samples.jsonl").read_text().splitlines()]
    assert [(x["item"], x["sample"]) for x in lines] == [
        (i, j) for i in range(12) for j in range(4)
    ]
    assert len({x["response"] for x in lines}) > 12
    for line in lines:
        assert line["scores"]["short"] == 1 / (1 + len(line["response"]))
        assert 0 < line["scores"]["likelihood"] <= 1
        assert line["correct"] in (True, False)
    rows = list(csv.DictReader((out / "curve.csv").open()))
    assert {int(r["samples"]) for r in rows} == {1, 2, 4}
    answers = coded([[x["answer"] for x in lines[i : i + 4]] for i in range(0, 48, 4)])
    correct = np.array([x["correct"] for x in lines]).reshape(12, 4)
    values = np.array([x["scores"]["short"] for x in lines]).reshape(12, 4)
    wanted = {
        "majority": (choose_vote, np.ones((12, 4))),
        "best of n, short": (choose_best, values),
    }
    for rule, (choose, scores) in wanted.items():
        chosen = [choose(a, s) for a, s in zip(answers, scores, strict=True)]
        (row,) = [r for r in rows if (r["rule"], r["samples"]) == (rule, "4")]
        assert float(row["mean"]) == share(correct, np.array(chosen))
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_samples_are_drawn_once(sampled, capsys):
    arguments, out = sampled
    before = (out / "samples.jsonl").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (out / "samples.jsonl").stat().st_mtime_ns == before
    assert "majority" in capsys.readouterr().out
    assert main([*arguments, "seed=1"]) == 2
    assert "other settings (seed: 0 there, 1 here)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override, message",
    [
        ("samples=0", "samples: 0; write 1 or more"),
        ("sizes=[8]", "sizes: 8; write 1 to 4 (samples)"),
        ("sampling.temperature=0.0", "so that all responses are one"),
        ("scores.likelihood.per=word", "unknown 'word'"),
        ("scores.short.steps=product", "the reward gives no steps"),
    ],
)
def test_what_cannot_be_meant_is_refused(sampled, tmp_path, capsys, override, message):
    arguments, _ = sampled
    out = str(tmp_path / "out")
    assert main([*arguments[:-1], out, override]) == 2
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


def test_questions_are_put_as_the_file_says(tmp_path):
    """Worded in the config or written out in the data: the same prompts and draws."""
    plain = write_sums(tmp_path)
    rows = [json.loads(line) for line in Path(plain).read_text().splitlines()]
    name = "prompt" if "prompt" in rows[0] else "question"
    spelled = tmp_path / "spelled.jsonl"
    lines = (json.dumps(row | {name: "0" + row[name]}) for row in rows)
    spelled.write_text("\n".join(lines) + "\n")
    asked = BestOf(plain, 5, Sampling(3), samples=2)
    wording = Wording("0{prompt}", form="text")
    worded = draw(MODEL, dataclasses.replace(asked, wording=wording))
    assert worded == draw(MODEL, dataclasses.replace(asked, path=str(spelled)))
    assert worded != draw(MODEL, asked)
