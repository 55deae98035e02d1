"""Checkpoints on disk: what is saved comes back, and damage never goes unnoticed."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import MODEL, experiment, lines, write_sums

from unipost.checkpoint import Checkpoints
from unipost.train import train
from unipost.update import State


def state_of(seed: float) -> State:
    """A state of a megabyte, large enough for a save to take a while."""

    def params():
        return {"w": jnp.full((512, 512), seed, jnp.float32), "b": jnp.arange(3.0)}

    return State(params(), (jnp.float32(seed), params()), jnp.asarray(7, jnp.int32))


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = state_of(0.1)
    with Checkpoints().open(tmp_path / "c") as store:
        assert store.latest is None
        store.save(3, state)
    with Checkpoints().open(tmp_path / "c") as store:
        step, found, kept = store.restore(jax.tree.map(jnp.zeros_like, state))
    assert step == 3 and kept is None
    jax.tree.map(np.testing.assert_array_equal, found, state)
    dtypes = [x.dtype for x in jax.tree.leaves(state)]
    assert [x.dtype for x in jax.tree.leaves(found)] == dtypes


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(keep=2).open(tmp_path / "c") as store:
        for step in (1, 5, 9):
            store.save(step, state_of(step))
        assert store.latest == 9
    names = {f.name for f in (tmp_path / "c").iterdir() if f.name.isdigit()}
    assert names == {"5", "9"}


def test_a_state_may_be_donated_while_it_is_being_written(tmp_path):
    """The next step overwrites the state in place; the checkpoint must not see it."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(keep=9).open(tmp_path / "c") as store:
        for i in range(1, 4):
            state = state_of(i)
            store.save(i, state)
            jax.block_until_ready(step(state))
    for i in range(1, 4):
        for later in range(i + 1, 4):
            shutil.rmtree(tmp_path / "c" / str(later), ignore_errors=True)
    with Checkpoints(keep=9).open(tmp_path / "c") as store:
        _, found, _ = store.restore(state_of(0.0))
    jax.tree.map(np.testing.assert_array_equal, found, state_of(1))


def test_another_model_does_not_fit(tmp_path):
    with Checkpoints().open(tmp_path / "c") as store:
        store.save(1, state_of(1.0))
        other = state_of(1.0)._replace(params={"w": jnp.zeros((2, 2))})
        with pytest.raises(ValueError, match="c/1: checkpoint cannot be read") as e:
            store.restore(other)
    assert "\n" not in str(e.value)


def test_an_empty_store_is_refused(tmp_path):
    with Checkpoints().open(tmp_path / "c") as store:
        with pytest.raises(ValueError, match="c: holds no whole checkpoint"):
            store.restore(state_of(1.0))


@pytest.mark.parametrize("name", ["every", "keep"])
def test_refused_settings(name):
    with pytest.raises(ValueError, match=f"checkpoints.{name}: 0; write 1 or more"):
        Checkpoints(**{name: 0})


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of four steps with checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("finished")
    run = experiment("sft", write_sums(folder), steps=4, evaluation=None)
    train(run, folder / "run", model=MODEL)
    return run, folder / "run"


@pytest.mark.parametrize("damage", [halve, flip, empty, strip])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    damage, finished, tmp_path
):
    run, whole = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    newest = folder / "checkpoints" / "4"
    damage(newest)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError) as caught:
        train(run, folder, model=MODEL)
    message = str(caught.value)
    assert message.startswith(f"{newest}: checkpoint cannot be read; remove it to go")
    assert "\n" not in message
    assert (folder / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(newest)
    train(run, folder, model=MODEL)
    assert len(lines(folder)) == 4
    for name in ("metrics.jsonl", "final/model.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_save_that_cannot_be_written_is_named(finished, tmp_path, monkeypatch):
    with Checkpoints().open(tmp_path / "c") as store:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(store._manager, "save", full)
        with pytest.raises(OSError, match="c: checkpoint 3 could not be written: .*No"):
            store.save(3, state_of(1.0))
