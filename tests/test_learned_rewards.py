"""Rewards that a model gives: its own numbers, text by text, whatever the batch."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import MODEL, SETTING, experiment, lines, rollouts, write_sums

from unipost import presets
from unipost.config import build
from unipost.rewards import (
    ProcessRewardModel,
    Reward,
    RewardModel,
    Sample,
    Weighted,
    WeightedSum,
    exact,
    open_reward,
)
from unipost.rewards.learned import OpenProcessRewardModel, split_at
from unipost.scalar.ends import open_rows
from unipost.scalar.loading import scalar_of
from unipost.scalar.reading import reader
from unipost.scalar.reward_models import BradleyTerry, ProcessReward
from unipost.signals import ZScore
from unipost.sources import Preferences
from unipost.train import train

SAMPLES = [
    Sample("3", "3", "1+2="),
    Sample("44", "5", "1+4="),
    Sample("", "5", "1+4="),
    Sample("123456789012345", "5", "1+4="),
    Sample("7+1", "5", "1+4="),
]
STEPS = [
    Sample("1+2+3", prompt="12="),
    Sample("++", prompt="12="),
    Sample("45", prompt="7="),
    Sample("3+", prompt="7="),
]


def written(folder, labels, layout):
    """A tiny model with a random head, on disk."""
    model = scalar_of(MODEL, labels, layout)
    rng = np.random.default_rng(labels)
    score = {
        k: jnp.asarray(rng.normal(size=x.shape), jnp.float32)
        for k, x in model.params["score"].items()
    }
    model = dataclasses.replace(model, params={**model.params, "score": score})
    model.write(folder, model.params)
    return model


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outcome") / "model"
    return str(folder), written(folder, 1, "sequence")


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process") / "model"
    return str(folder), written(folder, 2, "token")


def scores_alone(model, ids):
    """Scores [S K] of one text without padding."""
    tokens = jnp.asarray([ids])
    return np.asarray(model.policy.logits(model.params, tokens, tokens >= 0))[0]


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_the_score_of_prompt_response_and_end(outcome, rows):
    path, model = outcome
    tokenizer = model.tokenizer
    with open_reward(RewardModel(path, rows=rows)) as grader:
        grades = grader(SAMPLES)
    for sample, value in zip(SAMPLES, grades.values, strict=True):
        ids = tokenizer.encode(sample.prompt) + tokenizer.encode(sample.response)
        if len(ids) + 1 > 16:
            assert math.isnan(value)
            continue
        want = scores_alone(model, [*ids, tokenizer.eos_token])[-1, 0]
        assert value == pytest.approx(float(want), rel=1e-5)
    assert grades.unscored == 1
    assert "sample 3: the text is longer than the reward model's" in grades.reasons[0]


def test_text_that_cannot_be_encoded_costs_its_sample_alone(outcome):
    broken = [*SAMPLES[:2], Sample("a", "1", "1+0=")]
    with open_reward(RewardModel(outcome[0])) as grader:
        grades, whole = grader(broken), grader(SAMPLES)
    np.testing.assert_array_equal(grades.values[:2], whole.values[:2])
    assert math.isnan(grades.values[2])
    assert grades.reasons[0].startswith("sample 2: the reward model cannot read")


@pytest.mark.parametrize("aggregate", ["product", "min", "last", "mean"])
def test_steps_are_read_after_their_separator(process, aggregate):
    path, model = process
    tokenizer = model.tokenizer
    reward = ProcessRewardModel(path, aggregate, separator="+", rows=2)
    with open_reward(reward) as grader:
        grades = grader(STEPS)
    texts = [["1", "2", "3"], [], ["45"], ["3"]]
    reduce = {
        "product": np.prod,
        "min": np.min,
        "last": lambda x: x[-1],
        "mean": np.mean,
    }[aggregate]
    for i, (sample, pieces) in enumerate(zip(STEPS, texts, strict=True)):
        ids, right = tokenizer.encode(sample.prompt), []
        for piece in pieces:
            ids = ids + tokenizer.encode(f"{piece}+")
            wrong_score, right_score = scores_alone(model, ids)[-1]
            right.append(1 / (1 + math.exp(float(wrong_score - right_score))))
        want = float(reduce(right)) if right else 0.0
        assert grades.values[i] == pytest.approx(want, rel=1e-5)
        assert grades.steps is not None
        values = [value for _, value in grades.steps[i]]
        assert values == pytest.approx(right, rel=1e-5)
    assert [end for end, _ in grades.steps[0]] == [1, 3, 5]


def test_openai_prm_score_is_the_product_of_not_wrong():
    """The recorded example of 2305.20050: neutral counted as right."""
    probabilities = [
        (0.387681464904673, 0.01925049232449113),
        (0.9101000509718192, 0.0327972565325028),
        (0.9291714977657496, 0.028413614709511318),
        (0.1384993425138924, 0.11073959768554346),
    ]
    scores = [np.log([1 - sum(p), sum(p)]) for p in probabilities]

    def read(texts):
        return [np.array(scores) for _ in texts]

    opened = ProcessRewardModel("unused", separator="\n")

    class Characters:
        start_tokens = ()

        def encode(self, text):
            return [ord(x) for x in text]

    model = type("Model", (), {"tokenizer": Characters()})()
    reader = OpenProcessRewardModel(opened, model, read)
    grades = reader.score([Sample("a\nb\nc\nd", prompt="q")])
    assert grades.values[0] == pytest.approx(0.09157553704097245, rel=1e-9)


@pytest.mark.parametrize(
    "text, separator, want",
    [
        ("a\nb", "\n", [(0, 1), (2, 3)]),
        ("\na\n\n b \n", "\n", [(1, 2), (4, 7)]),
        ("a; b", "; ", [(0, 1), (3, 4)]),
        ("", "\n", []),
    ],
)
def test_where_steps_are(text, separator, want):
    assert split_at(text, separator) == want


def test_by_name_and_in_a_sum(outcome):
    path, _ = outcome
    made = build(Reward, {"name": "reward_model", "path": path, "rows": 4})
    assert made == RewardModel(path, rows=4)
    parts = {"model": Weighted(made, 0.5), "right": Weighted(exact, 2.0)}
    with open_reward(WeightedSum(parts)) as grader, open_reward(made) as alone:
        grades, plain = grader(SAMPLES[:2]), alone(SAMPLES[:2])
    np.testing.assert_allclose(grades.components[:, 0], plain.values)
    np.testing.assert_allclose(grades.values, 0.5 * plain.values + [2.0, 0.0])


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_rollouts_are_graded_by_a_model(tmp_path, request, kind):
    """One run of GRPO: every reward is the model's own, steps on their tokens."""
    path, _ = request.getfixturevalue(kind)
    sums = write_sums(tmp_path)
    reward = RewardModel(path)
    objective = presets.grpo(kl=None)
    changes: dict = {"group": 2}
    if kind == "process":
        reward = ProcessRewardModel(path, separator="+")
        changes["supervision"] = "process"
        objective = dataclasses.replace(objective, signal=ZScore(supervision="process"))
    data = rollouts(sums, reward=reward, **changes)
    drawn = data.open(SETTING).batch(0, MODEL.params)
    rewards = np.asarray(drawn.batch.rewards)
    ends = np.asarray(drawn.batch.steps) > 0 if kind == "process" else rewards < np.inf
    assert np.isfinite(rewards[ends]).all() and rewards[ends].std() > 0
    whole = experiment(
        "grpo", sums, data=data, objective=objective, evaluation=None, checkpoints=None
    )
    whole = dataclasses.replace(whole, steps=2)
    train(whole, tmp_path / "run")
    found = lines(tmp_path / "run")
    assert all(x["unscored"] == 0 and math.isfinite(x["loss"]) for x in found)
    if kind == "outcome":
        assert found[0]["reward"] == pytest.approx(rewards.mean(), rel=1e-5)
    else:
        assert (rewards[ends] > 0).all() and (rewards[ends] < 1).all()


def test_where_the_pad_token_ends_a_text_it_is_not_looked_at(outcome, tmp_path):
    """In training, in what is written, and in the reward: the token before is read."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "1+2=", "chosen": "3", "rejected": "45"}))
    source = Preferences(str(path), 1, 4, 4)

    class Padded:
        """The tokenizer, padding with its end token."""

        def __getattr__(self, name):
            known = MODEL.tokenizer
            return known.eos_token if name == "pad_token" else getattr(known, name)

    setting = dataclasses.replace(SETTING, tokenizer=Padded())
    plain = source.open(setting).batch(0, None)
    mask = np.asarray(plain.rows.response_mask)
    drawn = open_rows(BradleyTerry(), source, setting).batch(0, None)
    kept = np.asarray(drawn.rows.response_mask)
    np.testing.assert_array_equal(kept.sum(-1), mask.sum(-1) - 1)
    np.testing.assert_array_equal(kept, np.asarray(drawn.batch.mask) > 0)
    for objective in (ProcessReward(), presets.dpo()):
        other = open_rows(objective, source, setting).batch(0, None)
        np.testing.assert_array_equal(np.asarray(other.rows.response_mask), mask)
    model = outcome[1]
    folder = tmp_path / "padded"
    model.write(folder, model.params)
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = model.tokenizer.eos_token
    (folder / "config.json").write_text(json.dumps(config))
    with open_reward(RewardModel(str(folder))) as grader:
        value = grader(SAMPLES[:1]).values[0]
    ids = model.tokenizer.encode("1+2=3")
    assert value == pytest.approx(float(scores_alone(model, ids)[-1, 0]), rel=1e-5)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda o, p: RewardModel(p).open(), "has 2 labels; write a model with 1"),
        (lambda o, p: ProcessRewardModel(o).open(), "has 1 labels; write a model wi"),
        (lambda o, p: RewardModel(o, rows=0), "reward_model.rows: 0; write 1 or more"),
        (lambda o, p: ProcessRewardModel(p, separator=""), "separator: empty"),
        (lambda o, p: RewardModel(o, template="chat").open(), "has no chat template"),
        (lambda o, p: RewardModel("nowhere").open(), "nowhere.config.json"),
    ],
)
def test_refusals(outcome, process, make, words):
    with pytest.raises(ValueError, match=words):
        make(outcome[0], process[0])


def test_few_programs_for_many_lengths(outcome):
    """Texts of up to 16 tokens are traced once, whatever their number."""
    _, model = outcome
    traced = []

    def hidden(params, tokens, segments):
        traced.append(tokens.shape)
        return model.policy.hidden(params, tokens, segments)

    policy = dataclasses.replace(model.policy, hidden=hidden)
    read = reader(dataclasses.replace(model, policy=policy), 4)
    texts = [(list(range(2, 2 + n)), [n - 1]) for n in range(1, 12)]
    read(texts[:1])
    read(texts)
    assert traced == [(4, 16)]
