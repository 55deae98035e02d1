"""Runs whose texts share rows: the same numbers, and texts that do not fit."""

import json
from dataclasses import replace

import pytest
from tiny_runs import (
    MODEL,
    SETTING,
    demonstrations,
    experiment,
    lines,
    rollouts,
    write_sums,
)

from unipost.data import DataError
from unipost.optimizers import SGD
from unipost.rollouts import Demonstration
from unipost.runs import RunError
from unipost.sampling import Sampling
from unipost.sources import Mixture
from unipost.train import train


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def run(folder, kind, path, **changes):
    """metrics.jsonl of a run of two steps."""
    common = {"steps": 2, "evaluation": None, "checkpoints": None}
    train(experiment(kind, path, **common, **changes), folder, model=MODEL)
    return lines(folder, "metrics")


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_packing_changes_no_number_of_a_run(kind, sums, tmp_path):
    settings = {"optimizer": SGD(0.1), "minibatches": 2, "microbatches": 2}
    plain = run(tmp_path / "plain", kind, sums, **settings)
    packed = run(tmp_path / "packed", kind, sums, packed_length=13, **settings)
    for one, other in zip(packed, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_a_row_of_many_texts_may_be_longer_than_the_model_reads(sums, tmp_path):
    """The model has 16 positions; a text takes 6."""
    packed = run(tmp_path / "packed", "sft", sums, packed_length=40)
    plain = run(tmp_path / "plain", "sft", sums)
    assert packed[0] == pytest.approx(plain[0], rel=1e-4)


def test_a_text_that_does_not_fit_is_named_before_the_first_step(tmp_path):
    rows = [{"prompt": "1+2=", "completion": "3"}, {"prompt": "1=", "completion": "12"}]
    rows += [{"prompt": "12+34=", "completion": "46"}] + rows
    path = tmp_path / "late.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wide = replace(demonstrations(str(path)), prompt_length=8)
    for data in (wide, Mixture((replace(wide, prompts=2), replace(wide, prompts=2)))):
        settings = experiment("sft", str(path), data=data, packed_length=7)
        with pytest.raises(RunError) as caught:
            train(settings, tmp_path / "run", model=MODEL)
        assert str(caught.value) == (
            f"packed_length: 7; {path}: row 3 needs 8 tokens, write 8 or more"
        )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_samples_that_may_not_fit_are_refused_at_construction(sums):
    with pytest.raises(ValueError, match="packed_length: 5; prompt_length and"):
        experiment("grpo", sums, packed_length=5)
    assert experiment("grpo", sums, packed_length=6).packed_length == 6
    with pytest.raises(ValueError, match="packed_length: 0; write 1 or more"):
        experiment("sft", sums, packed_length=0)


def test_a_worked_solution_must_fit_only_where_it_is_a_row(tmp_path):
    path = tmp_path / "worked.jsonl"
    row = {"prompt": "1+2=", "answer": "3", "demonstration": "1+1+1=3"}
    path.write_text(4 * (json.dumps(row) + "\n"))
    source = rollouts(str(path), sampling=Sampling(3))
    rows, *_ = source.open(SETTING).batch(0, MODEL.params)
    assert rows.response.shape[-1] == 3
    with pytest.raises(DataError, match="8 tokens with the end token, sampling.max_to"):
        replace(source, guidance=(Demonstration(),)).open(SETTING)
    with pytest.raises(ValueError, match="data.stop: '<eos>' is a special token"):
        replace(source, stop=("<eos>",)).open(SETTING)
