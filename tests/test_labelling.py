"""Labelled solutions, the costs of choosing, and a pipeline that claims something."""

import json
import math

import numpy as np
import pytest
import yaml
from tiny_pipeline import SIZES, rows
from tiny_runs import write_sums

from experiments.papers.problems import drawn as problems
from experiments.papers.tasks import RunningValues, judged_values
from experiments.papers.teacher import MISLED
from unipost.analysis.statistics import line_r2
from unipost.cli import main
from unipost.loading import load_model
from unipost.pipeline import load_pipeline, run_pipeline
from unipost.rewards import Sample, grades_of
from unipost.rollouts.labelling import Labelling, rows_of
from unipost.sampling import Sampling
from unipost.study import load_study
from unipost.test_time import Drawn, curves
from unipost.test_time.cost import cost_of, flops, multiplied
from unipost.test_time.curves import measured, rule_names
from unipost.test_time.sample import _answer
from unipost.test_time.settings import BestOf, Graded
from unipost.tree import ConfigError

BASE = "experiments/papers/base"


def labelling(**changes) -> Labelling:
    settings = {"separator": ",", "reward": RunningValues()} | changes
    return Labelling("x.jsonl", 4, Sampling(4), **settings)


def test_rows_of_labelled_steps_by_hand():
    samples = [Sample("1,2,3", prompt="p"), Sample("7,", prompt="q"), Sample("")]
    steps = [[(1, 1.0), (3, 0.2), (5, 1.0)], [(1, 0.9)], []]
    grades = grades_of([1.0, 0.0, 0.0], steps=steps)
    assert rows_of(samples, grades, labelling(threshold=0.9)) == [
        {
            "prompt": "p",
            "steps": ["1", "2", "3"],
            "labels": [1, -1, 1],
            "outcome": [1, 1, 1],
        },
        {"prompt": "q", "steps": ["7"], "labels": [1], "outcome": [-1]},
    ]
    some = grades_of([1.0], steps=[[(1, 1.0)]])
    assert rows_of(samples[:1], some, labelling())[0]["labels"] == [1, None, None]


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="gives no steps"):
        rows_of([Sample("1")], grades_of([1.0]), labelling())
    odd = grades_of([1.0], steps=[[(2, 1.0)]])
    with pytest.raises(ValueError, match="ends a step at 2 of '1,2'"):
        rows_of([Sample("1,2")], odd, labelling())
    with pytest.raises(ValueError, match="separator: empty"):
        labelling(separator="")


@pytest.mark.parametrize(
    "response, wanted, outcome",
    [
        ("7,3,6,4", [1, 1, 1, 1], 1),
        ("7,4,8,6", [1, 0, 1, 1], 0),
        ("7,3,6,4,4", [1, 1, 1, 1, 0], 0),
        ("7,3", [1, 1], 0),
        ("7,,6,4", [1, 0, 1], 0),
        ("77,3,6,4", [0, 0, 1, 1], 1),
        ("", [], 0),
    ],
)
def test_steps_of_a_chain_by_hand(response, wanted, outcome):
    """8+9 = 7, 7-4 = 3, 3*2 = 6, 6-2 = 4, all modulo 10."""
    sample = Sample(response, answer="4", prompt="M8+9-4*2-2=")
    grades = RunningValues().score([sample])
    assert grades.values.tolist() == [outcome]
    assert grades.steps is not None
    (own,) = grades.steps
    assert [value for _, value in own] == wanted
    assert all(response[end : end + 1] in (",", "") for end, _ in own)


def test_the_misled_teacher_is_wrong_where_its_misconceptions_say():
    """Counted over the committed rows, against the two rules written again."""
    lines = open("experiments/papers/data/ch5_train.jsonl").read().splitlines()
    wrong = asked = 0
    for line in lines:
        row = json.loads(line)
        body = row["prompt"][1:-1]
        before, values = int(body[0]), map(int, row["misled"].split(","))
        judged = judged_values(row["prompt"], row["misled"])[0]
        for i, (after, (_, right)) in enumerate(zip(values, judged, strict=True)):
            sign, digit = body[1 + 2 * i], int(body[2 + 2 * i])
            borrow = sign == "-" and before < digit
            product = sign == "*" and digit >= 6 and before % 10
            other = digit - before if borrow else before * (digit - 1)
            hard = (borrow or product) and (other - _value(before, sign, digit)) % 10
            assert right == 1 or (hard and after == other % 10)
            asked, wrong = asked + bool(hard), wrong + (right == 0)
            before = after
    assert abs(wrong / asked - MISLED) < 4 * math.sqrt(0.25 * 0.75 / asked)
    assert len(lines) == len(problems("ch5", "train", len(lines), 100))


def _value(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign] % 10


def test_the_line_of_a_curve_is_numpys():
    rng = np.random.default_rng(0)
    x, y = np.log2([1, 2, 4, 8, 16]), rng.normal(size=(3, 5))
    wanted = [np.corrcoef(x, one)[0, 1] ** 2 for one in y]
    np.testing.assert_allclose(line_r2(x, y), wanted, rtol=1e-12)
    assert line_r2(x, np.full((1, 5), 3.0)).tolist() == [0.0]


def test_what_choosing_costs_by_hand():
    model = load_model(BASE, 0)
    import jax

    sizes = [x.size for x in jax.tree.leaves(model.params)]
    assert multiplied(BASE) == sum(sizes)  # the embedding is the head too
    lines = [
        {"sample": 0, "prompt": "M1+2=", "tokens": 3},
        {"sample": 1, "prompt": "M1+2=", "tokens": 5},
    ]
    reward = Graded(RunningValues())
    asked = BestOf("x", 8, Sampling(4), scores={"values": reward})
    cost = cost_of(BASE, model.tokenizer, lines, asked)
    assert (cost["tokens"], cost["scorers"]) == (4.0, {"values": 0})
    prompt = len(model.tokenizer.encode("M1+2="))
    assert cost["prompt_tokens"] == prompt
    with_scorer = cost | {"scorers": {"values": 10}}
    own = 2 * sum(sizes) * (prompt + 16 * 4)
    assert flops(cost, "majority", 16) == own
    added = 2 * 10 * 16 * (prompt + 4)
    assert flops(with_scorer, "best of n, values", 16) == own + added
    assert flops(with_scorer, "weighted vote, values", 16) == own + added


def test_items_of_a_rule_are_those_of_its_point():
    rng = np.random.default_rng(1)
    correct, answers = rng.random((6, 8)) < 0.4, rng.integers(0, 3, (6, 8))
    drawn = Drawn(answers, correct, {"s": rng.random((6, 8))}, {})
    found = measured(drawn, (1, 4, 8), 20, 3)
    assert list(dict.fromkeys(x.rule for x in found)) == rule_names(["s"], [])
    for one, point in zip(found, curves(drawn, (1, 4, 8), 20, 3), strict=True):
        wanted = point.mean if point.exact is None else point.exact
        assert one.items.mean() == pytest.approx(wanted)


@pytest.mark.parametrize(
    "pattern, wanted",
    [("[0-9]+$", "52"), ("([0-9])[0-9]*,", "0"), ("x", None)],
)
def test_an_answer_by_a_pattern(pattern, wanted):
    """The last number of 170,052 is 170052, which is no answer of a chain."""
    asked = BestOf("x", 8, Sampling(4), pattern=pattern)
    assert _answer("933,067,052", asked) == wanted
    with pytest.raises(ValueError, match="nothing reads it"):
        BestOf("x", 8, Sampling(4), pattern=pattern, answer=("number",))
    with pytest.raises(ValueError, match="pattern: '\\[' is none"):
        BestOf("x", 8, Sampling(4), pattern="[")


def whole(data: str) -> dict:
    """A policy, its labelled solutions, a reward model of steps, and the choice."""
    scorer = {"name": "process_reward_model", "path": "{prm}", "separator": "+"}
    sampled = {"path": data, "prompt_length": 4, "sampling": {"max_tokens": 3}}
    steps = {**rows("{solved}"), "name": "labelled_steps", "separator": "+"}
    steps["response_length"] = 8
    return {
        "claim": "Something is chosen.",
        "seeds": [0, 1],
        "common": {
            "model": SIZES,
            "optimizer": {"name": "adamw", "learning_rate": 0.01},
            "steps": 2,
        },
        "stages": {
            "policy": {
                "kind": "train",
                "seed": 0,
                "objective": "sft",
                "data": rows(data),
            },
            "solved": {
                "kind": "labelling",
                "seed": 0,
                "model": "{policy}",
                "reward": {"name": "tiny_steps:EvenSteps"},
                "separator": "+",
                "time_limit": None,
                "samples": 4,
                **sampled,
            },
            "prm": {
                "kind": "train",
                "model": "{policy}",
                "objective": "process_reward",
                "data": steps,
            },
            "choose": {
                "kind": "best_of",
                "model": "{policy}",
                "reward": "exact",
                "samples": 8,
                "trials": 5,
                "pattern": ".+",
                "scores": {"prm": {"name": "graded", "reward": scorer, "steps": "min"}},
                **sampled,
            },
        },
        "claims": {
            "finds": {
                "says": "Eight samples hold more right answers than one.",
                "test": {
                    "name": "difference",
                    "of": ["pass@n", "base"],
                    "what": "sums",
                    "above": 0,
                },
            },
            "straight": {
                "says": "It grows along a line.",
                "test": {
                    "name": "line",
                    "arm": "pass@n",
                    "what": "generated",
                    "above": 0.5,
                },
            },
        },
    }


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chosen")
    file = folder / "choose.yaml"
    file.write_text(yaml.safe_dump(whole(write_sums(folder)), sort_keys=False))
    run_pipeline(load_pipeline(file), folder / "run")
    return file, folder / "run"


def test_a_pipeline_judges_the_rules_of_its_choice(chosen, capsys):
    file, run = chosen
    results = json.loads((run / "results.json").read_text())
    assert [*results["arms"]] == rule_names(["prm"], ["prm"])
    assert results["curve"] == [1, 2, 4, 8] and results["seeds"] == [0, 1]
    ones = []
    for seed in (0, 1):
        text = (run / "choose" / str(seed) / "samples.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        right = np.array([x["correct"] for x in lines], float).reshape(-1, 8)
        ones.append(right.mean(1))
        at_eight = results["arms"]["pass@n"]["runs"][seed]["tasks"]["sums"]["greedy"]
        if isinstance(at_eight, list):
            assert at_eight == right.max(1).tolist()
        tokens = np.mean([x["tokens"] for x in lines])
        run_of = results["arms"]["majority"]["runs"][seed]
        assert run_of["generated"] == pytest.approx(8 * tokens, rel=1e-5)
    found = results["base"]["tasks"]["sums"]["greedy"]
    if isinstance(found, list):
        np.testing.assert_allclose(found, np.mean(ones, 0), atol=1e-4)
    assert results["claims"]["finds"]["registered"] == "before the run"
    assert main(["verdicts", str(run), "--check"]) == 0
    assert "Eight samples" not in capsys.readouterr().err
    before = (run / "results.json").read_text()
    run_pipeline(load_pipeline(file), run)
    again = json.loads((run / "results.json").read_text())
    assert again["arms"] == json.loads(before)["arms"]


def test_a_claim_about_what_is_not_there_is_refused(chosen):
    file, run = chosen
    text = file.read_text().replace("- pass@n\n      - base", "- pass@m\n      - base")
    other = file.with_name("other.yaml")
    other.write_text(text)
    with pytest.raises(ValueError, match="claims.finds.test: 'pass@m' is no arm"):
        run_pipeline(load_pipeline(other), run)
    tree = yaml.safe_load(file.read_text())
    tree["claims"]["straight"]["test"]["since"] = 0
    other.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(ConfigError, match="since: 0 has no logarithm"):
        load_pipeline(other)
    tree = yaml.safe_load(file.read_text())
    del tree["stages"]["choose"]
    other.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(ValueError, match="0 stages of kind best_of and no evaluation"):
        run_pipeline(load_pipeline(other), run)


def test_a_slope_in_doublings_needs_a_range(tmp_path):
    text = open("experiments/papers/hard_split.yaml").read()
    bad = text.replace(
        "test: {name: difference, of: [hpt, sft_grpo], what: retention, above: 0}",
        "test: {name: slope, of: [hpt], what: v3, above: 0, since: 50, until: 20}",
    )
    (tmp_path / "bad.yaml").write_text(bad)
    with pytest.raises(ConfigError, match="until: 20; write a step after 50"):
        load_study(tmp_path / "bad.yaml")
