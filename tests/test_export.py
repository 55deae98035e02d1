"""unipost export: the model of a checkpoint, as final/ would have been at that step."""

import shutil
from dataclasses import replace

import pytest
from tiny_runs import evaluation, experiment, lines, write_sums

from unipost.adapters import LoRA
from unipost.checkpoint import Checkpoints
from unipost.cli import main
from unipost.loading import load_model
from unipost.retention import Best
from unipost.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five steps with all checkpoints, best by the distance: at step 1."""
    folder = tmp_path_factory.mktemp("export")
    path = write_sums(folder)
    saves = Checkpoints(every=1, keep=4, best=Best("kl_reverse", "min"))
    tasks = replace(evaluation(path), every=1)
    train(
        experiment("sft", path, steps=5, evaluation=tasks, checkpoints=saves),
        folder / "run",
    )
    return folder / "run"


def weights(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_newest_is_the_final_model(run, tmp_path, capsys):
    out = tmp_path / "deep" / "newest"
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: the model of {run} after step 5\n"
    final = run / "final"
    assert weights(out) == weights(final)
    names = {f.name for f in out.iterdir()}
    assert names == {f.name for f in final.iterdir()}
    assert [f.name for f in out.parent.iterdir()] == ["newest"]
    load_model(str(out), 0)


def test_a_step_is_what_a_shorter_run_ends_with(run, tmp_path):
    """Of constant learning rate: the state after three steps is the same."""
    path = write_sums(tmp_path)
    plain = experiment("sft", path, steps=5, evaluation=None)
    optimizer = replace(plain.optimizer, schedule="constant")
    plain = replace(plain, optimizer=optimizer, checkpoints=Checkpoints(1, 9))
    train(plain, tmp_path / "long")
    train(replace(plain, steps=3), tmp_path / "short")
    arguments = [str(tmp_path / "long"), "--step", "3", "--out", str(tmp_path / "out")]
    assert main(["export", *arguments]) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "short" / "final")


def test_the_best_is_that_of_the_lowest_distance(run, tmp_path, capsys):
    measured = [line["kl_reverse"] for line in lines(run, "evaluation")]
    assert measured.index(min(measured)) == 0
    out = tmp_path / "best"
    assert main(["export", str(run), "--best", "--out", str(out)]) == 0
    assert "after step 1\n" in capsys.readouterr().out
    other = tmp_path / "one"
    assert main(["export", str(run), "--step", "1", "--out", str(other)]) == 0
    assert weights(out) == weights(other) != weights(run / "final")


def test_a_save_under_way_is_left_alone(run, tmp_path):
    """A run may be going on: nothing in its folder is touched."""
    going = tmp_path / "run"
    shutil.copytree(run, going)
    partial = going / "checkpoints" / "6.orbax-checkpoint-tmp"
    partial.mkdir()
    before = sorted(going.rglob("*"))
    assert main(["export", str(going), "--out", str(tmp_path / "out")]) == 0
    assert sorted(going.rglob("*")) == before


def test_of_an_adapter_the_adapter(run, tmp_path):
    path = write_sums(tmp_path)
    tuned = experiment("sft", path, steps=2, evaluation=None, lora=LoRA(rank=2))
    train(replace(tuned, model=str(run / "final")), tmp_path / "tuned")
    out = tmp_path / "adapter"
    assert main(["export", str(tmp_path / "tuned"), "--out", str(out)]) == 0
    name = "adapter_model.safetensors"
    final = tmp_path / "tuned" / "final" / name
    assert (out / name).read_bytes() == final.read_bytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--step", "9"], "--step: 9 has no checkpoint; there are 1, 2, 3, 4, 5"),
        (["--step", "4"], "checkpoints/4: checkpoint cannot be read (its numbers are"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, message, run, tmp_path, capsys):
    torn = tmp_path / "run"
    shutil.copytree(run, torn)
    # the weights of another step under this one's checksums
    shutil.rmtree(torn / "checkpoints/4/state")
    shutil.copytree(torn / "checkpoints/3/state", torn / "checkpoints/4/state")
    out = tmp_path / "out"
    assert main(["export", str(torn), *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_refused_runs_and_folders(run, tmp_path, capsys):
    def error_of(*arguments):
        assert main(["export", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    out = tmp_path / "out"
    assert f"{run}: is there already; choose another --out" in error_of(
        run, "--out", run
    )
    assert f"{tmp_path}: holds no config.yaml; give the" in error_of(
        tmp_path, "--out", out
    )
    path = write_sums(tmp_path)
    plain = experiment("sft", path, steps=1, evaluation=None)
    train(replace(plain, checkpoints=None), tmp_path / "none")
    assert "none: has no checkpoints; its model is in " in error_of(
        tmp_path / "none", "--out", out
    )
    train(plain, tmp_path / "plain")
    assert "plain has no checkpoints.best; there are 1" in error_of(
        tmp_path / "plain", "--best", "--out", out
    )
    shutil.rmtree(tmp_path / "plain" / "checkpoints")
    assert "checkpoints: holds no whole checkpoint" in error_of(
        tmp_path / "plain", "--out", out
    )
