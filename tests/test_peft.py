"""Adapters in PEFT's layout: the numbers of PEFT, exact round trips, refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import MODELS
from safetensors.numpy import load_file, save_file

from unipost.adapters import (
    TARGETS,
    LoRA,
    init_adapter,
    merge,
    trained_part,
    with_trained,
)
from unipost.hf import load_adapter, load_pretrained, save_adapter, save_pretrained
from unipost.hf.names import fused
from unipost.hf.peft import modules
from unipost.hf.peft_config import read_request
from unipost.model import transformer_policy

PEFT = MODELS / "llama_gqa_tied_lora"
CONFIG, BASE, _ = load_pretrained(MODELS / "llama_gqa_tied")
LOGITS = jax.jit(transformer_policy(CONFIG).logits)
LORA = LoRA(4, 8.0, targets=("query", "value", "gate", "down"))
FILE, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DOWN = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


@pytest.fixture
def copy(tmp_path):
    """An adapter folder to damage."""
    return Path(shutil.copytree(PEFT, tmp_path / "copy"))


def edit(folder, **fields):
    path = folder / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def retensor(folder, change):
    """Rewrites the weights after change(tensors)."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def drawn(params):
    """With factors that are nowhere zero."""
    frozen, trained = trained_part(params)
    leaves, tree = jax.tree.flatten(trained)
    rng = np.random.default_rng(1)
    leaves = [jnp.asarray(rng.normal(size=x.shape) / 4, jnp.float32) for x in leaves]
    return with_trained(frozen, jax.tree.unflatten(tree, leaves))


@pytest.mark.parametrize("way", [lambda params: params, merge])
def test_logits_are_those_of_peft(way):
    golden = np.load(PEFT / "golden.npz")
    real = golden["mask_right"].astype(bool)
    params = load_adapter(PEFT, CONFIG, BASE, LORA)
    got = LOGITS(way(params), golden["ids_right"], real)
    want = golden["logits_right"][real]
    np.testing.assert_allclose(got[real], want, atol=2e-4, rtol=0)
    base = LOGITS(trained_part(params)[0], golden["ids_right"], real)
    assert np.abs(base[real] - want).max() > 1


def test_what_peft_wrote_is_written_bit_for_bit(tmp_path):
    params = load_adapter(PEFT, CONFIG, BASE)
    save_adapter(tmp_path / "out", CONFIG, params, "../llama_gqa_tied")
    ours, theirs = (load_file(x / WEIGHTS) for x in (tmp_path / "out", PEFT))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)
    fields, of_peft = (
        json.loads((x / FILE).read_text()) for x in (tmp_path / "out", PEFT)
    )
    assert set(fields.pop("target_modules")) == set(of_peft["target_modules"])
    assert fields == {name: of_peft[name] for name in fields}


@pytest.mark.parametrize(
    "name, lora",
    [
        ("llama_sharded", LoRA(3, 5.0, True, (*TARGETS, "head"))),
        ("phi3_full", LoRA(2, 7.0)),
        ("mixtral", LoRA(2, 3.0, targets=("query", "output"))),
    ],
)
def test_our_own_come_back_as_they_were(tmp_path, name, lora):
    config, base, _ = load_pretrained(MODELS / name)
    params = drawn(init_adapter(lora, base, 0, fused(config)))
    save_adapter(tmp_path / "out", config, params, name)
    again = load_adapter(tmp_path / "out", config, base, lora)
    assert (again.alpha, again.rslora) == (lora.alpha, lora.rslora)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_fused_matrix_has_one_factor_in_the_file(tmp_path):
    """The stored delta of qkv_proj is that of the three projections, row for row."""
    config, base, _ = load_pretrained(MODELS / "phi3_full")
    params = drawn(init_adapter(LoRA(2, 7.0), base, 0, fused(config)))
    save_adapter(tmp_path / "out", config, params)
    tensors = load_file(tmp_path / "out" / WEIGHTS)
    save_pretrained(tmp_path / "whole", config, params)
    merged = load_file(tmp_path / "whole" / "model.safetensors")
    save_pretrained(tmp_path / "base", config, base)
    plain = load_file(tmp_path / "base" / "model.safetensors")
    for module in ("self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"):
        name = f"model.layers.1.{module}"
        a, b = (tensors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
        assert len(a) == 2
        got = merged[f"{name}.weight"] - plain[f"{name}.weight"]
        np.testing.assert_allclose(got, 3.5 * (b @ a), atol=1e-6)


def test_a_merged_checkpoint_is_the_merged_model(tmp_path):
    params = load_adapter(PEFT, CONFIG, BASE)
    save_pretrained(tmp_path / "out", CONFIG, params)
    got = load_pretrained(tmp_path / "out").params
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got, merge(params)
    )


@pytest.mark.parametrize(
    "fields, modules_of, ranks",
    [
        ({"target_modules": "all-linear"}, "llama_sharded", 7 * (4,)),
        ({"target_modules": "ALL-LINEAR"}, "phi3_full", 4 * (4,)),
        ({"target_modules": r".*\.(q|v)_proj"}, "llama_sharded", (4, 4)),
        ({"target_modules": r"q_proj|.*o_proj"}, "llama_sharded", (4,)),
        ({"target_modules": ["proj", "self_attn.q_proj"]}, "llama_sharded", (4,)),
        ({"target_modules": ["lm_head", "up_proj"]}, "llama_sharded", (4, 4)),
        ({"exclude_modules": ["q_proj"]}, "llama_sharded", (4, 4, 4)),
        ({"rank_pattern": {"q_proj": 9, "mlp.*": 2}}, "llama_sharded", (9, 4, 2, 2)),
        ({"lora_dropout": 0.1, "task_type": None}, "llama_sharded", 4 * (4,)),
    ],
)
def test_modules_are_chosen_as_peft_chooses_them(fields, modules_of, ranks):
    config = load_pretrained(MODELS / modules_of).config
    names = {name: module.names for name, module in modules(config).items()}
    content = {**json.loads((PEFT / FILE).read_text()), **fields}
    request = read_request(content, Path(FILE), names)
    assert tuple(request.ranks.values()) == ranks


def test_targets_may_have_ranks_and_so_scales_of_their_own(copy, tmp_path):
    def grow(tensors):
        for name in [name for name in tensors if "q_proj" in name]:
            other = np.zeros_like(tensors[name])
            axis = 0 if "lora_A" in name else 1
            tensors[name] = np.concatenate([tensors[name], other], axis)

    before = load_adapter(copy, CONFIG, BASE)
    retensor(copy, grow)
    edit(copy, rank_pattern={"q_proj": 8})
    params = load_adapter(copy, CONFIG, BASE)
    query, plain = (
        merge(x)["blocks"]["query"]["kernel"] - BASE["blocks"]["query"]["kernel"]
        for x in (params, before)
    )
    # twice the rank with as many directions: alpha / r is half
    np.testing.assert_allclose(query, plain / 2, atol=1e-6)
    save_adapter(tmp_path / "out", CONFIG, params)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_adapter(tmp_path / "out", CONFIG, BASE),
        params,
    )


@pytest.mark.parametrize(
    "field, value",
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("layers_to_transform", [0]),
        ("layers_to_transform", 0),
        ("layer_replication", [[0, 1]]),
        ("alpha_pattern", {"q_proj": 3}),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("trainable_token_indices", [1]),
        ("use_something_new", True),
        ("r", 0),
        ("lora_alpha", "8"),
        ("target_modules", ["wte"]),
        ("target_modules", None),
    ],
)
def test_kinds_of_adapters_that_are_not_supported_are_refused_by_name(
    copy, field, value
):
    edit(copy, **{field: value})
    with pytest.raises(ValueError, match=f"{FILE}: {field} = .*not supported") as error:
        load_adapter(copy, CONFIG, BASE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            {"target_modules": r".*\.0\.self_attn\.q_proj"},
            "target_modules treats self_attn.q_proj of some layers unlike",
        ),
        (
            {"rank_pattern": {r"layers\.0\..*q_proj": 2}},
            "rank_pattern treats self_attn.q_proj of some layers unlike",
        ),
        ({"target_modules": "(q_proj"}, "target_modules is not readable: missing"),
        (
            {"target_modules": ["q_proj", "o_proj"]},
            "0.self_attn.o_proj.lora_A.* missing",
        ),
        (
            {"target_modules": ["q_proj"]},
            "tensor .*0.mlp.down_proj.lora_A.* is not part",
        ),
        ({"r": 5}, r"lora_A.weight has shape \(4, 48\); its config asks for \(5, 48\)"),
    ],
)
def test_files_that_do_not_fit_each_other_are_named(copy, fields, words):
    edit(copy, **fields)
    with pytest.raises(ValueError, match=words):
        load_adapter(copy, CONFIG, BASE)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop(DOWN), f"{WEIGHTS}: tensor {DOWN} is missing; {FILE} asks"),
        (lambda t: t.update(extra=np.ones(2, np.float32)), "tensor extra is not part"),
        (
            lambda t: t.update({DOWN: t[DOWN].astype(np.int8)}),
            f"{DOWN} is stored as I8",
        ),
        (
            lambda t: t.update({DOWN: t[DOWN] * np.nan}),
            f"{DOWN} has entries that are N",
        ),
    ],
)
def test_wrong_tensors_are_named(copy, change, words):
    retensor(copy, change)
    with pytest.raises(ValueError, match=words):
        load_adapter(copy, CONFIG, BASE)


def test_absent_and_damaged_files_are_named(copy):
    weights = copy / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ValueError, match=f"{WEIGHTS}: damaged or cut short"):
        load_adapter(copy, CONFIG, BASE)
    weights.unlink()
    with pytest.raises(ValueError, match=f"{WEIGHTS}: not found"):
        load_adapter(copy, CONFIG, BASE)
    (copy / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="adapter_model.bin: only safetensors files"):
        load_adapter(copy, CONFIG, BASE)
    with pytest.raises(ValueError, match=f"{FILE}: not found"):
        load_adapter(MODELS / "llama_gqa_tied", CONFIG, BASE)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"rank": 16}, "lora.rank: 16 .*; write rank: 4"),
        ({"alpha": 4.0}, "lora.alpha: 4.0 .*; write alpha: 8.0"),
        ({"rslora": True}, "lora.rslora: True .*; write rslora: False"),
        ({"targets": TARGETS}, r"targets: .*\[query, value, gate, down\]"),
    ],
)
def test_settings_that_are_not_those_of_the_file_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        load_adapter(PEFT, CONFIG, BASE, replace(LORA, **fields))


def test_saving_refuses_what_does_not_fit(tmp_path):
    params = load_adapter(PEFT, CONFIG, BASE)
    with pytest.raises(ValueError, match=r"save_adapter: \['down'.*made for this conf"):
        save_adapter(
            tmp_path / "out", load_pretrained(MODELS / "mixtral").config, params
        )
    with pytest.raises(ValueError, match="save_adapter: no adapter; give"):
        save_adapter(tmp_path / "out", CONFIG, trained_part(params)[0])
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files but no checkpoint \(adapter_"):
        save_adapter(tmp_path, CONFIG, params)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
