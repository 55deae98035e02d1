"""Composed rewards: sums, their parts and failures, and how a config writes them."""

import dataclasses
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from config_schema import refusal, write

from unipost import config
from unipost.choices import REGISTRIES
from unipost.config import Bound, build, dump_tree, load, to_tree
from unipost.rewards import (
    REWARDS,
    Grades,
    KimiLength,
    Noted,
    Reward,
    Sample,
    Weighted,
    WeightedSum,
    boxed_answer,
    boxed_format,
    exact,
    numeric,
    open_reward,
)
from unipost.rewards.grades import grades_of

TREE = yaml.safe_load(
    """
    name: sum
    parts:
      accuracy: {reward: boxed_answer}
      format: {reward: boxed_format, weight: 0.1}
    """
)


PAGE = (Path(__file__).parents[1] / "docs" / "rewards_of_text.md").read_text()
OWN = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
"""The rewards that the page lists."""


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    monkeypatch.setattr(config, "CHOICES", REGISTRIES)


@dataclasses.dataclass(frozen=True)
class Data:
    reward: Reward = numeric
    other: Reward | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    data: Data = Data()


def shown(*texts, answer="24"):
    return [Sample(text, answer, group=i // 2) for i, text in enumerate(texts)]


def test_the_yaml_builds_and_comes_back():
    reward = build(Reward, TREE)
    parts = {
        "accuracy": Weighted(boxed_answer),
        "format": Weighted(boxed_format, weight=0.1),
    }
    assert reward == WeightedSum(parts)
    tree = to_tree(reward, Reward)
    assert yaml.safe_load(dump_tree(tree)) == tree and build(Reward, tree) == reward
    experiment = build(Experiment, {"data": {"reward": TREE, "other": "exact"}})
    assert experiment.data == Data(reward, exact)
    assert build(Experiment, to_tree(experiment)) == experiment
    assert build(Experiment, to_tree(Experiment())) == Experiment()


def test_parts_are_overridden_by_their_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, dump_tree({"data": {"reward": TREE}}))
    made = load(Experiment, file, ["data.reward.parts.format.weight=0.2"])
    assert made.data.reward.parts["format"] == Weighted(boxed_format, 0.2)
    assert made.data.reward.parts["accuracy"] == Weighted(boxed_answer, 1.0)
    changed = "data.reward.parts.accuracy.reward={name: numeric, tolerance: 0.5}"
    made = load(Experiment, file, [changed])
    near = Bound(numeric, (("tolerance", 0.5),))
    assert made.data.reward.parts["accuracy"].reward == near
    message = refusal(load, Experiment, file, ["data.reward.parts.format.wight=1"])
    assert message.endswith("did you mean 'weight'? (Weighted takes reward, weight)")


@pytest.mark.parametrize(
    "node, message",
    [
        ({"name": "sum", "parts": {}}, "sum.parts: empty; write at least one reward"),
        ({"name": "sum"}, "missing 'parts' (sum takes parts)"),
        (
            {"name": "sum", "parts": {"a": {"reward": "exact", "weight": "x"}}},
            "parts.a.weight: expected a number, got 'x'",
        ),
        ({"name": "soft_overlong", "cache": -1}, "soft_overlong.cache: -1; write 0"),
        ({"name": "think_format", "opened_by": "me"}, "opened_by: unknown 'me'"),
        ({"name": "kimi_length", "answer": 1}, "unknown 'answer' (kimi_length takes"),
    ],
)
def test_refusals(node, message):
    assert message in refusal(build, Reward, node)


def test_every_name_builds_and_comes_back():
    needs = {"soft_overlong": {"cache": 4}, "sum": {"parts": TREE["parts"]}}
    for name in OWN:
        reward = build(Reward, {"name": name, **needs.get(name, {})})
        assert build(Reward, to_tree(reward, Reward)) == reward
    nested = {"name": "kimi_length", "accuracy": {"name": "numeric", "tolerance": 0.5}}
    reward = build(Reward, nested)
    assert reward == KimiLength(Bound(numeric, (("tolerance", 0.5),)))
    assert build(Reward, to_tree(reward, Reward)) == reward


def test_a_sum_by_hand():
    grader = open_reward(build(Reward, TREE))
    graded = grader(shown(r"\boxed{24}", r"\boxed{25}", "24", ""))
    np.testing.assert_allclose(graded.values, [1.1, 0.1, 0.0, 0.0])
    assert graded.components.tolist() == [[1, 1], [0, 1], [0, 0], [0, 0]]
    assert graded.names == ("accuracy", "format")
    assert (graded.unscored, graded.reasons) == (0, [])
    assert graded.notes == {"accuracy: no answer": 2}
    empty = grader([])
    assert empty.values.shape == (0,) and empty.components.shape == (0, 2)


def test_a_part_that_fails_leaves_the_total_unscored():
    def moody(response, answer):
        return {"raise": 1 / (response != "raise"), "nan": math.nan}.get(response, 2.0)

    texts = ["a", "raise", "nan", "b"]
    parts = {"mood": Weighted(moody, -2.0), "same": Weighted(exact)}
    graded = open_reward(WeightedSum(parts))(shown(*texts, answer="b"))
    np.testing.assert_array_equal(graded.values, [-4, np.nan, np.nan, -3])
    nan = np.nan
    np.testing.assert_array_equal(
        graded.components, [[2, 0], [nan, 0], [nan, 0], [2, 1]]
    )
    assert graded.unscored == 2
    assert graded.reasons == [
        "mood: sample 1: ZeroDivisionError: division by zero",
        "mood: sample 2: the reward is nan",
    ]
    watched = parts | {"mood": Weighted(moody, 0.0)}
    graded = open_reward(WeightedSum(watched))(shown(*texts, answer="b"))
    assert graded.values.tolist() == [0, 0, 0, 1] and graded.unscored == 0
    assert np.isnan(graded.components[:, 0]).tolist() == [False, True, True, False]


def test_sums_within_sums_and_numbers_out_of_range():
    inner = WeightedSum({"a": Weighted(exact, 3.0), "b": Weighted(numeric, 2.0)})
    outer = WeightedSum({"inner": Weighted(inner, 10.0), "b": Weighted(numeric)})
    graded = open_reward(outer)(shown("24", "x 24"))
    assert graded.values.tolist() == [51, 21]
    assert graded.components.tolist() == [[5, 1], [2, 1]]
    huge = WeightedSum({"a": Weighted(exact, 2e6)})
    graded = open_reward(huge)(shown("24", "0"))
    np.testing.assert_array_equal(graded.values, [np.nan, 0])
    assert graded.reasons == ["sample 0: the reward is 2e+06, beyond 1e+06"]
    with pytest.raises(ValueError, match="weight: inf; write a finite number"):
        Weighted(exact, math.inf)


def test_equal_parts_are_asked_once():
    asked = []

    def counted(response, answer):
        asked.append(response)
        return Noted(1.0, "asked")

    parts = {"a": Weighted(counted), "b": Weighted(KimiLength(counted))}
    grader = open_reward(WeightedSum(parts))
    samples = [Sample(t, tokens=len(t)) for t in ("x", "yyy")]
    for _ in range(2):
        graded = grader(samples)
        assert graded.values.tolist() == [1.5, 0.5]
        assert graded.notes == {"a: asked": 2, "b: accuracy: asked": 2}
    assert asked == ["x", "yyy"] * 2


@dataclasses.dataclass(frozen=True)
class Learned:
    """A reward that is opened: the letters of a response by the model's value."""

    value: float
    log: list = dataclasses.field(default_factory=list, compare=False)

    def open(self):
        self.log.append("open")
        return Opened(self.value, self.log)


@dataclasses.dataclass
class Opened:
    value: float
    log: list

    def score(self, samples):
        self.log.append(len(samples))
        if any(s.response == "raise" for s in samples):
            raise RuntimeError("out\nof memory")
        values = [self.value * len(s.response) for s in samples]
        if any(s.response == "steps" for s in samples):
            steps = [[(len(s.response), 2.0), (0, 1.0)] for s in samples]
            return grades_of(values, steps=steps, notes={"stepped": 1})
        return values

    def close(self):
        self.log.append("close")


def test_an_opened_reward_is_opened_once_and_closed():
    reward = Learned(2.0)
    with open_reward(reward, time_limit=5.0) as grader:
        assert reward.log == ["open"]
        assert grader(shown("a", "bb")).values.tolist() == [2.0, 4.0]
        graded = grader(shown("a", "b", "raise", "c", "d", "steps"))
    np.testing.assert_array_equal(graded.values, [2, 2, np.nan, np.nan, 2, 10])
    why = "RuntimeError: out of memory"
    assert graded.reasons == [f"sample 2: {why}", f"sample 3: {why}"]
    assert graded.notes == {"stepped": 1}
    assert graded.steps == [[], [], [], [], [(0, 1.0), (1, 2.0)], [(0, 1.0), (5, 2.0)]]
    # all at once, then group by group where that failed
    assert reward.log == ["open", 2, 6, 2, 2, 2, "close"]


@pytest.mark.parametrize(
    "given, why",
    [
        ([1.0], "1 rewards for 2 samples"),
        (None, "'NoneType' object is not iterable"),
        (grades_of([1, 2], steps=[[]]), "steps of 1 samples for 2 samples"),
        (grades_of([1, 2], steps=[[(9, 1.0)], []]), "a step at 9 of 1 with 1.0"),
        (grades_of([1, 2], steps=[[(1, math.nan)], []]), "a step at 1 of 1 with nan"),
    ],
)
def test_a_scorer_that_answers_nonsense(given, why):
    @dataclasses.dataclass(frozen=True)
    class Odd:
        def score(self, samples):
            return given

    graded = open_reward(Odd())([Sample("a"), Sample("b")])
    assert isinstance(graded, Grades) and graded.unscored == 2
    assert all(why in line for line in graded.reasons) and len(graded.reasons) == 2


def test_a_composite_of_ones_own():
    @dataclasses.dataclass(frozen=True)
    class Gated:
        """The accuracy, where the form is right."""

        gate: Reward = boxed_format
        accuracy: Reward = boxed_answer

        @property
        def rewards(self):
            return {"gate": self.gate, "accuracy": self.accuracy}

        def combine(self, samples, parts):
            if len(samples) > 2:
                raise LookupError("three are too many")
            return parts["gate"].values * parts["accuracy"].values

    grader = open_reward(Gated(), time_limit=5.0)
    assert grader(shown(r"\boxed{24}", "24")).values.tolist() == [1.0, 0.0]
    graded = grader(shown("a", "b", "c"))
    assert graded.unscored == 3
    assert graded.reasons[-1] == "sample 2: LookupError: three are too many"


def test_the_page_is_about_what_is_there(tmp_path, monkeypatch):
    assert set(OWN) <= set(REWARDS) and len(OWN) == 16
    first, second = (
        yaml.safe_load(x) for x in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    )
    assert build(Reward, first["data"]["reward"]) == build(Reward, TREE)
    function, scorer = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    source = "from dataclasses import dataclass\n" + function + scorer
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    samples = [Sample(t, tokens=len(t)) for t in ("Thanks!", "Please")]
    polite = build(Reward, second["reward"])
    longest = build(Reward, "my_rewards:Longest")
    for reward, values in ((polite, [1.0, 0.0]), (longest, [1.0, 0.0])):
        with open_reward(reward, time_limit=20.0) as grader:
            assert grader(samples).values.tolist() == values
    monkeypatch.delitem(sys.modules, "my_rewards")
