"""Checkpoints on disk: what is saved comes back, and damage never goes unnoticed."""

import json
import resource
import shutil
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny_runs import MODEL, evaluation, experiment, lines, write_sums

from unipost.checkpoint import Checkpoints
from unipost.checksums import checksums
from unipost.held_out import HeldOut
from unipost.retention import Best, best_first, kept_steps
from unipost.runs import RunError
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


# ---- which stay


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


# ---- many devices


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


# ---- damage


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


def one_byte(folder):
    """Change a byte in the middle of the largest file, as a bad disk does."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat()[6])
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(bytes(data))


def no_state(folder):
    shutil.rmtree(folder / "state")


def no_memory(folder):
    shutil.rmtree(folder / "kept")


def no_words(folder):
    (folder / "about" / "metadata").unlink()


DAMAGES = [halve, flip, empty, strip, one_byte, no_state, no_memory, no_words]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of five steps with checkpoints at 2 and 4, each with a batch drawn ahead."""
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
        one_byte(folder / "checkpoints" / step)

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


# ---- what is in it, and where


def test_a_checkpoint_tells_its_config(finished):
    run, whole = finished
    text = (whole / "checkpoints" / "4" / "about" / "metadata").read_text()
    assert json.loads(text)["config"] == (whole / "config.yaml").read_text()


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
