"""Checkpoints in and out, bit for bit, and every damage named; nothing half-written."""

import json
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoints import MODELS, NAMES
from safetensors.numpy import load_file, save_file

from unipost.hf import (
    export,
    load_pretrained,
    named_tensors,
    read_generation,
    save_pretrained,
    staging,
)
from unipost.model import ModelConfig, init_params
from unipost.tokenizer import CharTokenizer, load_tokenizer

TIED, SHARDED = MODELS / "llama_gqa_tied", MODELS / "llama_sharded"
FUSED = MODELS / "phi3_full"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"
CONFIG = ModelConfig(
    vocab_size=7,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
)
PARAMS = init_params(CONFIG, 0)


@pytest.fixture
def copy(tmp_path):
    """A checkpoint folder to damage."""
    return Path(shutil.copytree(TIED, tmp_path / "copy"))


@pytest.fixture
def shards(tmp_path):
    """A checkpoint of three files to damage."""
    return Path(shutil.copytree(SHARDED, tmp_path / "shards"))


def tensors_of(folder):
    """Every tensor of a folder, as the safetensors library reads them."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def retensor(folder, change, file=WEIGHTS):
    """Rewrites a file after change(tensors)."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(folder, words):
    """Loading fails in one line that has these words."""
    with pytest.raises(ValueError, match=words) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_read_is_written_bit_for_bit(tmp_path, name):
    config, params, _ = load_pretrained(MODELS / name)
    generation = read_generation(MODELS / name)
    save_pretrained(
        tmp_path / "out", config, params, limit=30_000, generation=generation
    )
    theirs, ours = tensors_of(MODELS / name), tensors_of(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[key], err_msg=key)
    again = load_pretrained(tmp_path / "out").config
    assert again == config and read_generation(tmp_path / "out") == generation


def test_several_files_have_an_index_as_that_of_transformers(tmp_path):
    config, params, _ = load_pretrained(SHARDED)
    save_pretrained(tmp_path / "out", config, params, limit=50_000)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    theirs = json.loads((SHARDED / INDEX).read_text())
    size = index["metadata"]["total_size"]
    assert size == theirs["metadata"]["total_size"]
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        tensors = load_file(file)
        assert {
            name for name, f in index["weight_map"].items() if f == file.name
        } == set(tensors)
        assert len(tensors) == 1 or sum(x.nbytes for x in tensors.values()) <= 50_000
    save_pretrained(tmp_path / "one", config, params)
    assert not (tmp_path / "one" / INDEX).exists()
    assert (tmp_path / "one" / WEIGHTS).stat().st_size > size


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_every_dtype_are_rounded_at_most_once(copy, stored, dtype):
    exact = load_pretrained(copy).params
    through = {"bfloat16": ml_dtypes.bfloat16}.get(stored, np.dtype(stored))

    def recast(tensors):
        tensors.update({name: x.astype(through) for name, x in tensors.items()})

    retensor(copy, recast)
    got = load_pretrained(copy, dtype=dtype).params
    want = jax.tree.map(lambda x: np.asarray(x).astype(through).astype(dtype), exact)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(dtype)}


def test_stored_bfloat16_is_the_rounded_weight(tmp_path):
    save_pretrained(tmp_path / "out", CONFIG, PARAMS, dtype="bfloat16")
    named = dict(named_tensors(CONFIG, PARAMS, np.dtype(np.float32)))
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert tensor.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(tensor, named[name].astype(tensor.dtype))


def test_transformers_reads_configs_and_ends(tmp_path):
    from transformers import AutoConfig, GenerationConfig

    tokenizer = CharTokenizer("abcde")
    save_pretrained(tmp_path / "out", CONFIG, PARAMS, tokenizer)
    found = AutoConfig.from_pretrained(tmp_path / "out")
    assert found.architectures == ["LlamaForCausalLM"]
    assert found.eos_token_id == 1 and found.pad_token_id == 0
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 1
    folder = load_pretrained(tmp_path / "out").tokenizer
    assert folder is not None and load_tokenizer(folder) == tokenizer
    generation = {"eos_token_id": [1, 3], "bos_token_id": 2, "temperature": 0.6}
    save_pretrained(tmp_path / "out", CONFIG, PARAMS, tokenizer, generation=generation)
    assert GenerationConfig.from_pretrained(tmp_path / "out").temperature == 0.6
    found = AutoConfig.from_pretrained(tmp_path / "out")
    assert found.eos_token_id == [1, 3] and found.bos_token_id == 2


def narrow(tensors):
    tensors[UP] = np.zeros((96, 47), np.float32)


def untie(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["lm_head.weight"][159, 47] += 1


def one(name, value):
    """Sets one entry of a tensor."""

    def change(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name][-1, -1] = value

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop(UP), f"copy: tensor {UP} is missing; config.json asks for it"),
        (
            lambda t: t.update(bias=np.zeros(3, np.float32)),
            f"{WEIGHTS}: tensor bias is not part of the model that config.json",
        ),
        (narrow, rf"{WEIGHTS}: tensor {UP} has shape \(96, 47\); .* \(96, 48\)"),
        (
            lambda t: t.update({UP: t[UP].astype(np.int8)}),
            f"tensor {UP} is .* as I8; s",
        ),
        (
            lambda t: t.update({UP: t[UP].astype(ml_dtypes.float8_e4m3fn)}),
            f"tensor {UP} is stored as F8_E4M3; store it as F32, BF16, F16",
        ),
        (lambda t: t.update({UP: t[UP].astype(np.float64)}), f"{UP} is stored as F64"),
        (untie, "lm_head.weight differs from model.embed_tokens.weight but config.jso"),
        (one(UP, np.nan), f"{WEIGHTS}: tensor {UP} has entries that are NaN or infin"),
        (one("model.embed_tokens.weight", -np.inf), "embed_tokens.weight has entries"),
    ],
)
def test_wrong_tensors_are_named(copy, change, words):
    retensor(copy, change)
    refused(copy, words)


def test_a_fused_matrix_of_another_size_is_named(tmp_path):
    folder = Path(shutil.copytree(FUSED, tmp_path / "copy"))
    name = "model.layers.0.self_attn.qkv_proj.weight"
    retensor(folder, lambda tensors: tensors.update({name: tensors[name][:-1].copy()}))
    refused(folder, f"{WEIGHTS}: tensor {name} has shape")


def test_copies_that_carry_no_information_are_accepted(copy):
    before = load_pretrained(copy).params

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(6, np.float32)

    retensor(copy, add)
    jax.tree.map(np.testing.assert_array_equal, before, load_pretrained(copy).params)


def header(length, text):
    return length.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: whole[:100],
        lambda whole: whole[:5],
        lambda whole: b"",
        lambda whole: header(1 << 60, whole[8:]),
        lambda whole: header(20, b"not a json header at all"),
        lambda whole: header(2, b"[]"),
        lambda whole: header(14, b'{"a":{"b":[]}}'),
        lambda whole: whole.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1),
        lambda whole: whole.replace(b"[48,48]", b"[48,49]", 1),
        lambda whole: whole.replace(b"[48,48]", b"[48,-1]", 1),
    ],
)
def test_damaged_files_are_named(copy, damage):
    weights = copy / WEIGHTS
    whole = weights.read_bytes()
    assert damage(whole) != whole
    weights.write_bytes(damage(whole))
    refused(copy, f"copy/{WEIGHTS}: damaged or cut short .*; copy it again")


def test_absent_files_are_named(copy, tmp_path):
    weights = copy / WEIGHTS
    weights.unlink()
    refused(copy, f"{WEIGHTS}: not found; weights are read from safetensors files")
    (copy / "pytorch_model.bin").write_bytes(b"\x80")
    refused(copy, "pytorch_model.bin: only safetensors files are read; load this fold")
    (copy / "config.json").write_text("{")
    refused(copy, "config.json: not valid JSON")
    (copy / "config.json").write_text("[]")
    refused(copy, "config.json: holds no JSON object")
    refused(tmp_path / "nowhere", "nowhere/config.json: not found; give a checkpoint")
    refused(MODELS / "llama_gqa_tied_lora", "this folder is an adapter: load its base")


def test_an_index_that_is_not_true_is_named(shards):
    file = json.loads((shards / INDEX).read_text())["weight_map"][UP]
    retensor(shards, lambda tensors: tensors.pop(UP), file)
    refused(shards, f"{file}: tensor {UP} is missing, but {INDEX} says it is there")
    (shards / file).unlink()
    refused(shards, f"{file}: not found, but {INDEX} names it")
    edit(shards / INDEX, weight_map={UP: 3})
    refused(shards, f"{INDEX}: weight_map names 3; give file names")
    edit(shards / INDEX, weight_map={})
    refused(shards, f"{INDEX}: weight_map is missing or empty")


def test_a_cut_shard_is_named(shards):
    file = sorted(shards.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-7])
    refused(shards, f"{file.name}: damaged or cut short")


def test_saving_replaces_a_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save_pretrained(out, CONFIG, PARAMS)
    save_pretrained(out, CONFIG, init_params(CONFIG, 5), limit=300)
    kept = tensors_of(out)
    assert not (out / WEIGHTS).exists()

    def fail(*arguments):
        raise RuntimeError("power cut")

    monkeypatch.setattr(export.json, "dumps", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        save_pretrained(out, CONFIG, PARAMS)
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, tensors_of(out), kept)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="no checkpoint .*; give an empty"):
        save_pretrained(tmp_path / "notes", CONFIG, PARAMS)
    with pytest.raises(ValueError, match="a.txt: is a file; give a new folder"):
        save_pretrained(tmp_path / "notes" / "a.txt", CONFIG, PARAMS)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save_pretrained(out, CONFIG, PARAMS)
    kept = tensors_of(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OSError, match="out: not written .*what was there") as error:
            save_pretrained(out, CONFIG, init_params(CONFIG, 5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    nearly = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: nearly)
    with pytest.raises(
        OSError, match=r"too small: .* GB needed, 1e-06 GB free\); what"
    ):
        save_pretrained(out, CONFIG, init_params(CONFIG, 5))
    jax.tree.map(np.testing.assert_array_equal, tensors_of(out), kept)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_saving_and_loading_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="'int8' unknown; give float32 or bfloat16"):
        save_pretrained(tmp_path / "out", CONFIG, PARAMS, dtype="int8")
    with pytest.raises(ValueError, match="'float64' unknown; give float32 or bfloat"):
        load_pretrained(TIED, dtype="float64")
    other = ModelConfig(**{**vars(CONFIG), "hidden_size": 6})
    with pytest.raises(ValueError, match="shapes of config"):
        save_pretrained(tmp_path / "out", other, PARAMS)
    assert not list(tmp_path.iterdir())
