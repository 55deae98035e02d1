"""Weights go into sharded arrays in place, and each process reads only its slices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import MODELS
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from safetensors.numpy import load_file

from unipost.hf import load, load_pretrained, shards

MESH = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("one", "two"))
PROCESS = Path(__file__).parent / "streaming_process.py"


def over(axes):
    """Shards axis i of a leaf, from the last, over mesh axis axes[i] if it divides."""

    def place(path, shape):
        spec = [None] * len(shape)
        for axis, name in axes.items():
            if len(shape) >= -axis and shape[axis] % 2 == 0:
                spec[axis] = name
        return NamedSharding(MESH, PartitionSpec(*spec))

    return place


PLACES = {
    "outputs": over({-1: "one"}),
    "inputs": over({-2: "two"}),
    "both": over({-1: "two", -2: "one"}),
    "layers": over({-3: "one", -4: "two"}),
    "copies": over({}),
    "device": lambda path, shape: SingleDeviceSharding(jax.devices()[2]),
}


def counted(monkeypatch):
    """Bytes read, by name of the tensor, from now on."""
    found, fill = {}, load.fill

    def count(leaves, stored, held):
        found[stored.name] = fill(leaves, stored, held)
        return found[stored.name]

    monkeypatch.setattr(load, "fill", count)
    return found


@pytest.mark.parametrize(
    "name, place",
    [
        *(("llama_sharded", place) for place in PLACES),
        ("phi3_full", "both"),
        ("mixtral", "layers"),
    ],
)
def test_sharded_parameters_are_those_of_one_device(name, place, monkeypatch):
    whole = load_pretrained(MODELS / name).params
    monkeypatch.setattr(shards, "BLOCK", 4000)
    read = counted(monkeypatch)
    parts = load_pretrained(MODELS / name, sharding=PLACES[place]).params
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
        keys = tuple(key.key for key in path)
        assert leaf.sharding == PLACES[place](keys, leaf.shape), keys
    # every byte once, however many devices hold it
    stored = {}
    for file in (MODELS / name).glob("*.safetensors"):
        stored |= load_file(file)
    assert read == {name: tensor.nbytes for name, tensor in stored.items()}


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_blocks_of_any_size_give_the_same(block, monkeypatch):
    whole = load_pretrained(MODELS / "llama_sharded").params
    monkeypatch.setattr(shards, "BLOCK", block * 48)
    parts = load_pretrained(MODELS / "llama_sharded").params
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_a_write_is_in_place():
    part = jnp.zeros((3, 64, 48), jnp.bfloat16)
    where = part.unsafe_buffer_pointer()
    value = np.arange(48 * 32, dtype=np.float32).reshape(48, 32)
    after, finite = shards._write(part, value, np.array([1, 16, 0], np.int32), True)
    assert part.is_deleted() and after.unsafe_buffer_pointer() == where
    want = np.zeros((3, 64, 48), jnp.bfloat16)
    want[1, 16:48] = value.T
    np.testing.assert_array_equal(after, want)
    assert bool(finite)


def test_an_entry_that_is_not_finite_is_found_on_every_device(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in (MODELS / "llama_gqa_tied").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    name = "model.layers.1.mlp.down_proj.weight"
    start, end = json.loads(whole[8 : 8 + size])[name]["data_offsets"]
    for place in (start, (start + end) // 8 * 4, end - 4):
        changed = bytearray(whole)
        changed[8 + size + place : 12 + size + place] = np.float32("nan").tobytes()
        weights.write_bytes(changed)
        with pytest.raises(ValueError, match=f"tensor {name} has entries that are NaN"):
            load_pretrained(folder, sharding=PLACES["both"])


def test_a_sharding_that_does_not_divide_is_named():
    mesh = Mesh(np.array(jax.devices()[:5]), ("all",))

    def place(path, shape):
        return NamedSharding(mesh, PartitionSpec("all"))

    with pytest.raises(ValueError, match=r"sharding of embedding \(160, 48\)|of norm"):
        load_pretrained(MODELS / "llama_gqa_tied", sharding=place)


def test_two_processes_read_half_each_and_write_the_whole(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[1]
    flags = (
        "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    )
    env = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": flags}
    source = MODELS / "llama_sharded"
    command = [sys.executable, PROCESS, str(port), str(source), str(tmp_path / "out")]
    running = [
        subprocess.Popen([*command, str(rank)], env=env, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    spoken = [each.communicate(timeout=120)[0] for each in running]
    told = [json.loads(lines.splitlines()[-1]) for lines in spoken]
    assert [each.returncode for each in running] == [0, 0]
    theirs, ours = {}, {}
    for folder, found in ((source, theirs), (tmp_path / "out", ours)):
        for file in folder.glob("*.safetensors"):
            found |= load_file(file)
    for one, other in (told, told[::-1]):
        for name, tensor in theirs.items():
            # norms are on every device, matrices are cut in two over the processes
            share = 1 if tensor.ndim == 1 else 2
            assert one[name] * share == tensor.nbytes, name
        assert one.keys() == other.keys()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)
