"""Checkpoints of transformers read with the same numbers; round trips; refusals."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from unipost import hf
from unipost.hf import load_pretrained, save_pretrained
from unipost.model import ModelConfig, init_params, transformer_policy
from unipost.sampling import Sampling, sample
from unipost.tokenizer import CharTokenizer, load_tokenizer

MODELS = Path(__file__).parent / "fixtures" / "hf_models"
TIED, SHARDED = MODELS / "llama_gqa_tied", MODELS / "llama_sharded"
QWEN2 = MODELS / "qwen2"
CONFIG = ModelConfig(
    vocab_size=7,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    rope_theta=5000.0,
)
PARAMS = init_params(CONFIG, 0)
FULL = "full_attention"


@pytest.fixture
def copy(tmp_path):
    """A checkpoint folder to damage."""
    return Path(shutil.copytree(TIED, tmp_path / "copy"))


@pytest.fixture
def qwen2(tmp_path):
    """A Qwen2 checkpoint folder to damage."""
    return Path(shutil.copytree(QWEN2, tmp_path / "qwen2"))


def retensor(folder, change):
    """Rewrites model.safetensors after change(tensors)."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("folder", [TIED, SHARDED, QWEN2])
def test_logits_and_greedy_tokens_are_those_of_transformers(folder):
    golden = np.load(folder / "golden.npz")
    config, params, tokenizer = load_pretrained(folder)
    policy = transformer_policy(config)
    logits = jax.jit(policy.logits)
    for side in ("left", "right"):
        real = golden[f"mask_{side}"].astype(bool)
        got = logits(params, golden[f"ids_{side}"], real)
        np.testing.assert_allclose(
            got[real], golden[f"logits_{side}"][real], atol=2e-4, rtol=0
        )
    samples = jax.jit(sample, static_argnums=0)(
        policy,
        params,
        golden["ids_left"],
        golden["mask_left"],
        jax.random.key(0),
        Sampling(12, 0.0),
    )
    np.testing.assert_array_equal(samples.tokens[:, 0], golden["generated"])
    assert tokenizer is None


@pytest.mark.parametrize(
    "fields",
    [
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"attention_bias": "qkv", "family": "qwen2"},
        {"attention_bias": "qkvo"},
    ],
)
def test_float32_round_trip_is_exact(tmp_path, fields):
    config = ModelConfig(**{**vars(CONFIG), **fields})
    params = jax.tree.map(lambda x: x + 1, init_params(config, 1))
    save_pretrained(tmp_path / "out", config, params)
    again = load_pretrained(tmp_path / "out")
    assert again.config == config and again.tokenizer is None
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bfloat16_storage_rounds_once(tmp_path):
    save_pretrained(tmp_path / "out", CONFIG, PARAMS, dtype="bfloat16")
    again = load_pretrained(tmp_path / "out").params
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(
            a, b.astype(jnp.bfloat16).astype(jnp.float32)
        ),
        again,
        PARAMS,
    )


def test_names_and_shapes_are_those_transformers_wrote(tmp_path):
    for folder in (TIED, SHARDED, QWEN2):
        config, params, _ = load_pretrained(folder)
        save_pretrained(tmp_path / "out", config, params)
        ours = load_file(tmp_path / "out" / "model.safetensors")
        theirs = {}
        for file in folder.glob("*.safetensors"):
            theirs |= load_file(file)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)


@pytest.mark.parametrize(
    "bias, kind, own",
    [
        ("none", "Llama", {"attention_bias": False, "mlp_bias": False}),
        ("qkvo", "Llama", {"attention_bias": True, "mlp_bias": False}),
        ("qkv", "Qwen2", {"sliding_window": None, "layer_types": 2 * [FULL]}),
    ],
)
def test_transformers_reads_the_config(tmp_path, bias, kind, own):
    from transformers import AutoConfig, GenerationConfig

    tokenizer = CharTokenizer("abcde")
    own_parts = {"attention_bias": bias, "family": kind.lower()}
    config = ModelConfig(**{**vars(CONFIG), **own_parts})
    params = init_params(config, 0)
    save_pretrained(tmp_path / "out", config, params, tokenizer, dtype="bfloat16")
    found = AutoConfig.from_pretrained(tmp_path / "out")
    assert type(found).__name__ == f"{kind}Config"
    assert found.architectures == [f"{kind}ForCausalLM"]
    for name in ("hidden_size", "intermediate_size", "head_dim", "vocab_size"):
        assert getattr(found, name) == getattr(CONFIG, name), name
    for name, value in own.items():
        assert getattr(found, name) == value, name
    assert found.rope_parameters == {"rope_type": "default", "rope_theta": 5000.0}
    assert found.eos_token_id == 1 and found.pad_token_id == 0
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 1
    folder = load_pretrained(tmp_path / "out").tokenizer
    assert folder is not None and load_tokenizer(folder) == tokenizer


def test_qwen2_needs_its_own_tensors(qwen2):
    bias = "model.layers.1.self_attn.k_proj.bias"
    retensor(qwen2, lambda tensors: tensors.pop(bias))
    with pytest.raises(ValueError, match=f"tensor {bias} is missing"):
        load_pretrained(qwen2)


def widen_up(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((96, 47), np.float32)


def untie(tensors):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("model.norm.weight"), "tensor model.norm.weight is missing"),
        (lambda t: t.update(bias=np.zeros(3, np.float32)), "tensor bias is not part"),
        (
            widen_up,
            r"model.layers.1.mlp.up_proj.weight has shape \(96, 47\).*\(96, 48\)",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(48, np.int32)}),
            "tensor model.norm.weight is ",
        ),
        (untie, "lm_head.weight differs"),
    ],
)
def test_wrong_tensors_are_named(copy, change, words):
    retensor(copy, change)
    with pytest.raises(ValueError, match=words):
        load_pretrained(copy)


def test_copies_that_carry_no_information_are_accepted(copy):
    before = load_pretrained(copy).params

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(6, np.float32)

    retensor(copy, add)
    jax.tree.map(np.testing.assert_array_equal, before, load_pretrained(copy).params)


def test_damaged_files_are_named(copy, tmp_path):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for length in (len(whole) - 1, 100, 0):
        weights.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="model.safetensors: damaged or cut short"):
            load_pretrained(copy)
    weights.unlink()
    with pytest.raises(ValueError, match="model.safetensors: not found"):
        load_pretrained(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not valid JSON"):
        load_pretrained(copy)
    with pytest.raises(ValueError, match="nowhere/config.json: not found"):
        load_pretrained(tmp_path / "nowhere")


def test_a_shard_that_is_not_what_the_index_says_is_named(tmp_path):
    folder = Path(shutil.copytree(SHARDED, tmp_path / "copy"))
    shard = "model-00002-of-00003.safetensors"
    tensors = load_file(folder / shard)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / shard)
    with pytest.raises(ValueError, match=f"{shard}: tensor model.layers.1.mlp.up_proj"):
        load_pretrained(folder)
    (folder / shard).unlink()
    with pytest.raises(ValueError, match=f"{shard}: not found"):
        load_pretrained(folder)


def test_saving_replaces_a_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save_pretrained(out, CONFIG, PARAMS)
    save_pretrained(out, CONFIG, init_params(CONFIG, 5))
    kept = load_pretrained(out).params

    def fail(*arguments):
        raise RuntimeError("disk full")

    monkeypatch.setattr(hf.export, "render_config", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        save_pretrained(out, CONFIG, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(out).params, kept)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="no checkpoint .*; give an empty"):
        save_pretrained(tmp_path / "notes", CONFIG, PARAMS)


def test_saving_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="'int8' unknown; give float32 or bfloat16"):
        save_pretrained(tmp_path / "out", CONFIG, PARAMS, dtype="int8")
    other = ModelConfig(**{**vars(CONFIG), "hidden_size": 6})
    with pytest.raises(ValueError, match="shapes of config"):
        save_pretrained(tmp_path / "out", other, PARAMS)
    assert not list(tmp_path.iterdir())
