"""Checkpoints on disk: what is saved comes back, on any mesh; which of them stay."""

import shutil
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny_runs import MODEL, evaluation, experiment, lines, write_sums
from tiny_states import state_of

from unipost.checkpoint import Checkpoints
from unipost.checksums import checksums
from unipost.held_out import HeldOut
from unipost.retention import Best, best_first, kept_steps
from unipost.runs import RunError
from unipost.train import train


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = state_of(0.1)
    with Checkpoints().open(tmp_path / "c") as store:
        assert store.latest is None
        store.save(3, state)
    with Checkpoints().open(tmp_path / "c") as store:
        step, found, kept, about = store.restore(jax.tree.map(jnp.zeros_like, state))
    assert step == 3 and kept is None and about["config"] == ""
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
        found = store.restore(state_of(0.0)).state
    jax.tree.map(np.testing.assert_array_equal, found, state_of(1))


def test_another_model_does_not_fit(tmp_path):
    """It is not taken for damage: nothing is set aside."""
    with Checkpoints().open(tmp_path / "c") as store:
        store.save(1, state_of(1.0))
        store.save(2, state_of(2.0))
        store.wait()
        other = state_of(1.0)._replace(params={"w": jnp.zeros((2, 2))})
        with pytest.raises(ValueError, match="c: none of the checkpoints 1, 2") as e:
            store.restore(other)
        assert store.steps == [1, 2]
    assert "\n" not in str(e.value)


def test_an_empty_store_is_refused(tmp_path):
    with Checkpoints().open(tmp_path / "c") as store:
        with pytest.raises(ValueError, match="c: holds no whole checkpoint"):
            store.restore(state_of(1.0))


@pytest.mark.parametrize("name", ["every", "keep"])
def test_refused_settings(name):
    with pytest.raises(ValueError, match=f"checkpoints.{name}: 0; write 1 or more"):
        Checkpoints(**{name: 0})
    with pytest.raises(ValueError, match="checkpoints.best.keep: 0; write 1 or more"):
        Best("loss", "min", keep=0)
    with pytest.raises(ValueError, match="checkpoints.folder: empty; write a folder"):
        Checkpoints(folder=" ")


def test_a_save_does_not_wait_for_the_write(tmp_path, monkeypatch):
    """The run goes on while a checkpoint is written, and waits before the next."""
    written, names = threading.Event(), []
    with Checkpoints().open(tmp_path / "c") as store:
        finish = store._manager._finalize

        def slowly(*args):
            names.append("begun" if written.wait(60) else "never")
            return finish(*args)

        monkeypatch.setattr(store._manager, "_finalize", slowly)
        store.save(1, state_of(1.0))
        names.append("saved")
        written.set()
        store.wait()
        assert names == ["saved", "begun"]
        assert (tmp_path / "c" / "1").exists()


def test_the_best_stay_beside_the_newest():
    numbers = {1: 0.5, 2: 0.9, 4: 0.9, 6: float("nan"), 7: 0.1}
    most, least = Best("m", "max"), Best("m", "min", 2)
    assert best_first(numbers, most) == [2, 4, 1, 7]  # of equal ones the earlier
    assert best_first(numbers, least) == [7, 1, 2, 4]
    steps = [1, 2, 3, 4, 5, 6, 7, 8]
    assert kept_steps(steps, numbers, 2, None) == {7, 8}
    assert kept_steps(steps, numbers, 2, most) == {2, 7, 8}
    assert kept_steps(steps, numbers, 1, least) == {1, 7, 8}
    assert kept_steps([3, 5], numbers, 1, most) == {5}  # not measured: by count alone


def test_the_best_stay_on_disk_and_after_a_restart(tmp_path):
    settings = Checkpoints(keep=1, best=Best("m", "max"))
    for steps in ((1, 2, 3), (4, 5)):
        with settings.open(tmp_path / "c") as store:
            for step in steps:
                if step != 3:
                    store.numbers[step] = {2: 0.9}.get(step, 0.1)
                store.save(step, state_of(step))
    with settings.open(tmp_path / "c") as store:
        assert store.steps == [2, 5] and store.best == 2
        assert store.numbers == {2: 0.9, 5: 0.1}


def test_a_run_keeps_its_best(tmp_path):
    """The distance to the reference grows: its least is at the first save."""
    path = write_sums(tmp_path)
    best = Best("kl_reverse", "min")
    tasks = replace(evaluation(path), every=1)
    run = experiment("sft", path, steps=5, evaluation=tasks)
    run = replace(run, checkpoints=Checkpoints(every=1, keep=1, best=best))
    train(run, tmp_path / "run", model=MODEL)
    measured = [line["kl_reverse"] for line in lines(tmp_path / "run", "evaluation")]
    assert min(measured) == measured[0]
    with run.checkpoints.open(tmp_path / "run" / "checkpoints") as store:
        assert store.steps == [1, 5] and store.best == 1


@pytest.mark.parametrize(
    "metric, changes, message",
    [
        ("sums/greedy", {"evaluation": None}, "'sums/greedy' is never measured; write"),
        ("held_out/loss", {}, "'held_out/loss' is never measured; write held_out"),
        ("sum/greedy", {}, "'sum/greedy' is of no task; write one of sums, as in"),
        (
            "sums/greedy",
            {"steps": 4},
            r"no save before the last \(evaluation.every 3, checkpoints.every 2, steps "
            r"4\); write evaluation.every: 2",
        ),
    ],
)
def test_a_best_that_nothing_measures_is_refused(metric, changes, message, tmp_path):
    saves = Checkpoints(every=2, best=Best(metric, "max"))
    with pytest.raises(ValueError, match=f"checkpoints.best.metric: .*{message}"):
        experiment("sft", write_sums(tmp_path), **{"checkpoints": saves} | changes)


def test_a_best_that_is_not_among_the_numbers_is_named(tmp_path):
    path = write_sums(tmp_path)
    saves = Checkpoints(every=1, best=Best("sums/gredy", "max"))
    run = experiment("sft", path, checkpoints=saves)
    with pytest.raises(RunError, match="'sums/gredy' is not measured; .*sums/greedy"):
        train(run, tmp_path / "run", model=MODEL)
    # a number that is measured at other steps is no mistake
    held = HeldOut(run.data, every=2)
    saves = Checkpoints(every=2, best=Best("held_out/loss", "min"))
    run = replace(run, checkpoints=saves, held_out=held, steps=5)
    train(run, tmp_path / "other", model=MODEL)


def spread(state, *shape):
    """The state with its matrices spread over a mesh of 8 devices of `shape`."""
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("a", "b"))

    def put(x):
        spec = PartitionSpec("a", "b") if x.ndim == 2 else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, state)


def test_a_state_comes_back_on_another_mesh(tmp_path):
    state = state_of(0.1)
    state = state._replace(params={**state.params, "w": jnp.arange(64.0).reshape(8, 8)})
    with Checkpoints().open(tmp_path / "c") as store:
        store.save(1, spread(state, 4, 2))
    for like in (spread(state, 2, 4), spread(state, 1, 8), state):
        with Checkpoints().open(tmp_path / "c") as store:
            found = store.restore(jax.tree.map(jnp.zeros_like, like)).state
        jax.tree.map(np.testing.assert_array_equal, found, state)
        alike = jax.tree.map(lambda x, y: x.sharding == y.sharding, found, like)
        assert all(jax.tree.leaves(alike))


def test_checksums_see_every_entry_and_no_device():
    rng = np.random.default_rng(0)
    tree = {
        "f32": rng.normal(size=(8, 8)).astype(np.float32),
        "f64": rng.normal(size=(8, 2)),
        "i32": rng.integers(-9, 9, (8, 2), dtype=np.int32),
        "bf16": jnp.asarray(rng.normal(size=(8, 2)), jnp.bfloat16),
        "bool": rng.random((8, 2)) < 0.5,
        "one": np.float32(0.5),
    }
    tree = jax.tree.map(jnp.asarray, tree)
    whole = checksums(tree)
    assert checksums(spread(tree, 4, 2)) == whole
    for name, leaf in tree.items():
        for place in np.ndindex(leaf.shape):
            old = leaf[place]
            new = ~old if name == "bool" else old + 1
            other = checksums({name: leaf.at[place].set(new)})
            assert other[name] != whole[name], (name, place)
    turned = checksums({"f32": tree["f32"][::-1]})
    assert turned["f32"] != whole["f32"]


def test_checkpoints_may_lie_apart_from_the_run(tmp_path):
    """There they outlive the run's folder, as on a machine that was pre-empted."""
    path = write_sums(tmp_path)
    apart = Checkpoints(every=2, folder=str(tmp_path / "bucket"))
    run = experiment("sft", path, steps=5, evaluation=None, checkpoints=apart)
    folder = tmp_path / "runs" / "one"
    train(run, folder, model=MODEL)
    place = tmp_path / "bucket" / folder.relative_to("/")
    assert {f.name for f in place.iterdir() if f.name.isdigit()} == {"4", "5"}
    assert not (folder / "checkpoints").exists()
    weights = (folder / "final/model.safetensors").read_bytes()
    for name in (folder, place / "5"):
        shutil.rmtree(name)
    train(run, folder, model=MODEL)
    assert [line["step"] for line in lines(folder)] == [5]
    assert (folder / "final/model.safetensors").read_bytes() == weights
    shutil.rmtree(folder)
    other = replace(run, seed=1)
    with pytest.raises(RunError, match=r"of a run with other settings \(seed: 0 there"):
        train(other, folder, model=MODEL)


def test_a_bucket_is_a_path_like_any_other():
    from etils import epath

    run = epath.Path("/home/me/runs/one")
    place = Checkpoints(folder="gs://mine/checkpoints").place(run)
    assert str(place) == "gs://mine/checkpoints/home/me/runs/one"
