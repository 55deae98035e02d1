"""Damaged checkpoints: never unnoticed, never deleted, the one before serves."""

import json
import resource
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import MODEL, experiment, write_sums
from tiny_states import state_of

from unipost.checkpoint import Checkpoints
from unipost.train import train


def halve(folder):
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(folder):
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))


def empty(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def strip(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def other_numbers(folder):
    """Whole files that hold something else, which no storage format notices."""
    shutil.rmtree(folder / "state")
    shutil.copytree(folder.parent / "2" / "state", folder / "state")


def no_state(folder):
    shutil.rmtree(folder / "state")


def no_memory(folder):
    shutil.rmtree(folder / "kept")


def no_words(folder):
    (folder / "about" / "metadata").unlink()


DAMAGES = [halve, flip, empty, strip, other_numbers, no_state, no_memory, no_words]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of five steps, saved after 2 and 4, each time with a batch drawn ahead."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_sums(folder)
    run = experiment("grpo", path, steps=5, evaluation=None, staleness=1)
    run = replace(run, checkpoints=Checkpoints(every=2, keep=3))
    train(run, folder / "run", model=MODEL)
    shutil.rmtree(folder / "run" / "checkpoints" / "5")
    return run, folder / "run"


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_serves(
    damage, finished, tmp_path, capsys
):
    run, whole = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest = folder / "checkpoints" / "4"
    damage(newest)
    files = sorted(str(f.relative_to(newest)) for f in newest.rglob("*"))
    train(run, folder, model=MODEL)
    said = [x for x in capsys.readouterr().err.splitlines() if "checkpoint" in x]
    assert len(said) == 1
    assert said[0].startswith(f"{newest}: checkpoint cannot be read (")
    assert said[0].endswith("; set aside as 4.damaged, going on from step 2")
    aside = newest.with_name("4.damaged")
    assert sorted(str(f.relative_to(aside)) for f in aside.rglob("*")) == files
    assert newest.exists()  # saved again on the way
    for name in ("metrics.jsonl", "final/model.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_one_damaged_twice_is_kept_twice(tmp_path, capsys):
    for _ in range(2):
        with Checkpoints(keep=9).open(tmp_path / "c") as store:
            for step in (1, 2):
                if step not in store.steps:
                    store.save(step, state_of(step))
        strip(tmp_path / "c" / "2")
        with Checkpoints(keep=9).open(tmp_path / "c") as store:
            assert store.restore(state_of(0.0)).step == 1
            assert store.latest == 1
    assert "aside as 2.damaged-2, going on from step 1" in capsys.readouterr().err


def test_where_none_can_be_read_nothing_is_touched(finished, tmp_path):
    run, whole = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for step in ("2", "4"):
        halve(folder / "checkpoints" / step)

    def bytes_of():
        files = (f for f in folder.rglob("*") if f.is_file() and f.suffix != ".json")
        return {f: f.read_bytes() for f in files}

    before = bytes_of()
    with pytest.raises(ValueError, match="none of the checkpoints 2, 4 can be") as e:
        train(run, folder, model=MODEL)
    assert "\n" not in str(e.value)
    assert bytes_of() == before


def test_lost_checkpoints_are_told(finished, tmp_path, capsys):
    run, whole = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints")
    train(run, folder, model=MODEL)
    assert "checkpoints holds no checkpoint; 5 steps are taken again" in (
        capsys.readouterr().err
    )
    assert (folder / "metrics.jsonl").read_bytes() == (
        whole / "metrics.jsonl"
    ).read_bytes()


def test_a_save_that_cannot_be_written_is_named(tmp_path):
    """The limit on a file's size is met in the middle of the write, as a full disk."""
    noise = jnp.asarray(np.random.default_rng(0).normal(size=2**18))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(keep=1).open(tmp_path / "c") as store:
        store.save(1, {"x": noise})
        store.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        try:
            with pytest.raises(OSError, match="c: the last .* not be written: ") as e:
                store.save(2, {"x": noise})
                store.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(e.value)
    with Checkpoints(keep=1).open(tmp_path / "c") as store:
        assert store.steps == [1]
        found = store.restore({"x": noise * 0}).state
        store.save(2, {"x": noise})
    np.testing.assert_array_equal(found["x"], noise)
    assert [f.name for f in (tmp_path / "c").iterdir()] == ["2"]


def test_a_checkpoint_tells_its_config(finished):
    run, whole = finished
    text = (whole / "checkpoints" / "4" / "about" / "metadata").read_text()
    assert json.loads(text)["config"] == (whole / "config.yaml").read_text()
