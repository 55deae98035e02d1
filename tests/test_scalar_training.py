"""Reward models trained by the one trainer: they learn, resume, and are read again."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_runs import MODEL, SETTING, TINY, demonstrations, lines

from unipost import presets
from unipost.adapters import LoRA
from unipost.checkpoint import Checkpoints
from unipost.config import build, dump_tree, to_tree
from unipost.evaluation import Evaluation, Task
from unipost.held_out import HeldOut
from unipost.loading import setting_of
from unipost.optimizers import AdamW
from unipost.rewards import ProcessRewardModel, RewardModel, Sample, open_reward
from unipost.rollouts import Rollouts
from unipost.sampling import Sampling
from unipost.scalar.hf import load_classifier
from unipost.scalar.loading import open_model
from unipost.scalar.reward_models import BradleyTerry, ProcessReward
from unipost.scalar.steps import LabelledSteps
from unipost.sources import Preferences
from unipost.train import Experiment, train
from unipost.tree import load_tree
from unipost.update import streams_of

ANSWERS = {"answer": "chosen"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Twelve pairs, an even digit over an odd one."""
    path, rng = (
        tmp_path_factory.mktemp("pairs") / "pairs.jsonl",
        np.random.default_rng(0),
    )
    rows = []
    for i in range(12):
        even, odd = 2 * rng.integers(0, 5, 2) + [0, 1]
        row = {"prompt": f"{i % 10}+1=", "chosen": str(even), "rejected": str(odd)}
        rows.append(json.dumps(row) + "\n")
    path.write_text("".join(rows))
    return str(path)


@pytest.fixture(scope="module")
def solutions(tmp_path_factory):
    """Steps "+"-separated; an odd digit is wrong, 4 neutral."""
    label = {str(d): -1 if d % 2 else 0 if d == 4 else 1 for d in range(10)}
    rng, rows = np.random.default_rng(0), []
    for _ in range(24):
        steps = [str(d) for d in rng.integers(0, 10, 3)]
        row = {"prompt": "1=", "steps": steps, "labels": [label[s] for s in steps]}
        rows.append(json.dumps(row) + "\n")
    path = tmp_path_factory.mktemp("steps") / "steps.jsonl"
    path.write_text("".join(rows))
    return str(path)


def outcome_run(path, **changes):
    data = Preferences(path, 4, 4, 3)
    whole = Experiment(TINY, data, BradleyTerry(), AdamW(1e-2), 20)
    held = HeldOut(dataclasses.replace(data, prompts=5), every=10)
    return dataclasses.replace(whole, **{"held_out": held, **changes})


def process_run(path, **changes):
    data = LabelledSteps(path, 8, 4, 6, separator="+")
    whole = Experiment(TINY, data, ProcessReward(until="all"), AdamW(2e-2), 20)
    return dataclasses.replace(whole, held_out=HeldOut(data), **changes)


def test_a_reward_model_learns_its_pairs_and_grades_text(pairs, tmp_path):
    result = train(outcome_run(pairs, steps=30), tmp_path / "run")
    measured = lines(tmp_path / "run", "evaluation")
    assert [x["step"] for x in measured] == [10, 20, 30]
    last = measured[-1]
    assert last["held_out/groups"] == 12
    first = lines(tmp_path / "run")[0]
    # a head of zeros: no preference at all
    assert first["loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert last["held_out/loss"] < 0.3 and last["held_out/accuracy"] > 0.9
    found = load_classifier(tmp_path / "run" / "final")
    assert found.layout == "sequence"
    jax.tree.map(np.testing.assert_array_equal, found.params, result.params)
    samples, right = [], []
    for line in open(pairs):
        row = json.loads(line)
        samples += [
            Sample(row[x], prompt=row["prompt"]) for x in ("chosen", "rejected")
        ]
    with open_reward(RewardModel(str(tmp_path / "run" / "final"))) as grader:
        scores = grader(samples).values.reshape(-1, 2)
    right = (scores[:, 0] > scores[:, 1]).mean()
    assert right == pytest.approx(last["held_out/accuracy"])
    chosen = scores[:, 0].mean()
    assert chosen == pytest.approx(last["held_out/chosen_reward"], rel=1e-4)


def test_a_process_reward_model_learns_its_steps(solutions, tmp_path):
    train(process_run(solutions, steps=60), tmp_path / "run")
    last = lines(tmp_path / "run", "evaluation")[-1]
    assert last["held_out/accuracy"] > 0.9
    found = load_classifier(tmp_path / "run" / "final")
    assert found.layout == "token" and found.params["score"]["bias"].shape == (2,)
    reward = ProcessRewardModel(str(tmp_path / "run" / "final"), "min", "+")
    with open_reward(reward) as grader:
        grades = grader([Sample("8+2+6", prompt="1="), Sample("8+3+6", prompt="1=")])
    assert grades.values[0] > 0.5 > grades.values[1]


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_pieces_and_resuming_change_nothing(tmp_path, request, kind, pairs, solutions):
    made = outcome_run(pairs) if kind == "outcome" else process_run(solutions)
    held = dataclasses.replace(made.held_out, every=2)
    made = dataclasses.replace(
        made, steps=4, held_out=held, lora=LoRA(rank=2), checkpoints=Checkpoints(2)
    )
    train(made, tmp_path / "whole")
    train(made, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "cut" / "final")
    train(made, tmp_path / "cut")
    for name in ("metrics.jsonl", "evaluation.jsonl", "final/model.safetensors"):
        ours, theirs = (tmp_path / x / name for x in ("cut", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()
    pieces = dataclasses.replace(made, microbatches=4, checkpoints=None)
    train(pieces, tmp_path / "pieces")
    both = zip(lines(tmp_path / "pieces"), lines(tmp_path / "whole"), strict=True)
    for one, two in both:
        for name, value in two.items():
            assert one[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_an_adapter_leaves_the_trunk_and_trains_the_head(pairs, tmp_path):
    made = outcome_run(pairs, steps=3, lora=LoRA(rank=2, targets=("query",)))
    train(made, tmp_path / "run")
    found = load_classifier(tmp_path / "run" / "final").params
    start = MODEL.params
    for part in ("key", "down"):
        ours = found["trunk"]["blocks"][part]["kernel"]
        np.testing.assert_array_equal(ours, start["blocks"][part]["kernel"])
    changed = found["trunk"]["blocks"]["query"]["kernel"]
    assert np.abs(changed - start["blocks"]["query"]["kernel"]).max() > 0
    assert np.abs(found["score"]["kernel"]).max() > 0


def test_training_goes_on_from_a_reward_model(pairs, tmp_path):
    train(outcome_run(pairs, steps=20), tmp_path / "first")
    folder = str(tmp_path / "first" / "final")
    train(outcome_run(pairs, steps=1, model=folder), tmp_path / "more")
    assert lines(tmp_path / "more")[0]["loss"] < 0.5 * np.log(2)
    setting = setting_of(open_model(BradleyTerry(), folder, 0), 0)
    with pytest.raises(ValueError, match="a scalar head writes no text"):
        Rollouts(pairs, 4, 4, 2, Sampling(max_tokens=3), columns=ANSWERS).open(
            setting
        ).batch(0, setting.params)


def test_margins_come_from_their_column(pairs, tmp_path):
    rows = [json.loads(line) for line in open(pairs)]
    path = tmp_path / "margins.jsonl"
    path.write_text(
        "".join(json.dumps(row | {"gap": i / 4}) + "\n" for i, row in enumerate(rows))
    )
    data = Preferences(str(path), 12, 4, 3, columns={"margin": "gap"})
    batch = data.open(SETTING).batch(0, None).batch
    assert batch.margin is not None and batch.margin.shape == (12, 2)
    np.testing.assert_allclose(np.sort(batch.margin[:, 0]), np.arange(12) / 4)
    made = outcome_run(pairs, steps=1, held_out=None)
    column = dataclasses.replace(made, data=data, objective=BradleyTerry("column"))
    train(column, tmp_path / "run")
    want = np.log1p(np.exp(np.arange(12) / 4)).mean()
    assert lines(tmp_path / "run")[0]["loss"] == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match="reads no margin; leave it out"):
        dataclasses.replace(made, data=data)
    with pytest.raises(ValueError, match="needs batch.margin, margins of pairs; write"):
        dataclasses.replace(made, objective=BradleyTerry("column"))
    path.write_text(json.dumps(rows[0] | {"gap": "wide"}) + "\n")
    with pytest.raises(ValueError, match="'gap' is 'wide'; expected a number"):
        data.open(SETTING)


def test_held_out_is_the_loss_of_all_rows_at_once(pairs, tmp_path):
    """Of DPO's cousin SFT: the mean over all tokens, by one forward pass."""
    path = tmp_path / "sums.jsonl"
    rows = [json.loads(line) for line in open(pairs)]
    path.write_text(
        "".join(
            json.dumps({"prompt": r["prompt"], "completion": r["chosen"] * (1 + i % 2)})
            + "\n"
            for i, r in enumerate(rows[:7])
        )
    )
    data = demonstrations(str(path))
    held = HeldOut(data)
    measure = held.open(presets.sft(), MODEL.policy, SETTING)
    numbers = measure(MODEL.params)
    stream = dataclasses.replace(data, prompts=7).open(SETTING)
    whole = stream.batch(0, None).rows
    logps = streams_of(MODEL.policy, MODEL.params, whole).policy
    want = -float(logps.sum() / whole.response_mask.sum())
    assert numbers["held_out/loss"] == pytest.approx(want, rel=1e-6)
    assert numbers["held_out/groups"] == 7


def test_the_config_says_it_all(pairs):
    made = outcome_run(pairs, objective=BradleyTerry(centering=0.1))
    tree = to_tree(made)
    assert tree["objective"]["name"] == "bradley_terry"
    assert build(Experiment, json.loads(json.dumps(tree))) == made
    assert "bradley_terry" in dump_tree(tree)
    file = load_tree("experiments/reward_model.yaml")
    assert isinstance(build(Experiment, file).objective, BradleyTerry)


def steps_of(path):
    return LabelledSteps(str(path), 4, 4, 6)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda run, path: {
                "evaluation": Evaluation({"sums": Task(path, 4, 3)}),
            },
            "evaluation: tasks are answered in text, and BradleyTerry trains a model",
        ),
        (lambda run, path: {"packed_length": 8}, "packed_length: BradleyTerry reads"),
        (
            lambda run, path: {"objective": ProcessReward()},
            "data: gives preferences, the objective follows steps; write labelled_st",
        ),
        (
            lambda run, path: {"data": steps_of(path)},
            "data: gives steps, the objective follows preferences",
        ),
        (
            lambda run, path: {"objective": presets.dpo()},
            "held_out: the objective reads batch.reference, which only training fills",
        ),
        (
            lambda run, path: {
                "held_out": HeldOut(Rollouts(path, 4, 4, 2, Sampling(max_tokens=3)))
            },
            "held_out.data: Rollouts come from the policy as it trains",
        ),
        (
            lambda run, path: {"held_out": HeldOut(demonstrations(path))},
            "held_out.data: gives demonstrations, the objective follows preferences",
        ),
        (lambda run, path: {"reference": "x"}, "reference: x, but the objective reads"),
    ],
)
def test_what_does_not_fit_is_refused(pairs, change, words):
    run = outcome_run(pairs)
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(run, **change(run, pairs))
