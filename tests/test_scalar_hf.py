"""Classification checkpoints: the scores of transformers, in and out bit for bit."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import MODELS
from safetensors.numpy import load_file, save_file

from unipost.adapters import LoRA, init_adapter, merge
from unipost.hf import load_pretrained
from unipost.model import transformer_policy
from unipost.scalar.hf import load_classifier, save_classifier, trunk_config
from unipost.scalar.loading import load_scalar
from unipost.scalar.model import scalar_policy, scores_after, scores_before

NAMES = {"llama_reward": 1, "gemma2_reward": 1, "qwen3_steps": 2}
WEIGHTS = "model.safetensors"


def opened(folder):
    """(policy, params, layout, config) of a classification checkpoint."""
    config, params, _, layout = load_classifier(folder)
    policy = scalar_policy(transformer_policy(trunk_config(config)))
    return policy, params, layout, config


@pytest.fixture
def copy(tmp_path):
    """A checkpoint folder to damage."""

    def made(name):
        return Path(shutil.copytree(MODELS / name, tmp_path / name))

    return made


def edit(folder, **changes):
    path = folder / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    kept = {k: v for k, v in fields.items() if v != "drop"}
    path.write_text(json.dumps(kept))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_scores_of_transformers(name, side):
    """At every token of padded rows, and pooled where a class pools."""
    golden = np.load(MODELS / name / "scores.npz")
    policy, params, layout, _ = opened(MODELS / name)
    ids, mask = golden[side], golden[f"mask_{side}"].astype(bool)
    arrays = jnp.asarray(ids), jnp.asarray(mask)
    got = np.asarray(policy.logits(params, *arrays))
    assert got.shape[-1] == NAMES[name] and got.dtype == np.float32
    theirs = golden[f"scores_{side}"]
    for row, real in enumerate(mask):
        own = got[row][real]
        alone = golden["scores_alone"][row, : real.sum()]
        np.testing.assert_allclose(own, alone, atol=2e-4)
        if layout == "sequence":
            np.testing.assert_allclose(own[-1], theirs[row], atol=2e-4)
        else:
            np.testing.assert_allclose(own, theirs[row][real], atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_before_and_after_a_token(name):
    """After token t is before token t + 1; both are transformers' at that token."""
    golden = np.load(MODELS / name / "scores.npz")
    policy, params, _, _ = opened(MODELS / name)
    text, alone = golden["right"][0], golden["scores_alone"][0]
    prompt = jnp.asarray([[0, 0, *text[:5]]])
    before = jnp.asarray([[False, False, *[True] * 5]])
    response = jnp.asarray([[*text[5:], 7, 7]])
    mask = jnp.asarray([[True] * 11 + [False] * 2])
    rows = prompt, before, response, mask
    ahead, behind = (f(policy, params, *rows)[0] for f in (scores_before, scores_after))
    np.testing.assert_allclose(ahead[:11], alone[4:15], atol=2e-4)
    np.testing.assert_allclose(behind[:11], alone[5:16], atol=2e-4)
    assert not np.asarray(ahead[11:]).any() and not np.asarray(behind[11:]).any()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_read_is_written_bit_for_bit(tmp_path, name):
    config, params, _, layout = load_classifier(MODELS / name)
    save_classifier(tmp_path / "out", config, params, layout)
    theirs, ours = (
        load_file(MODELS / name / WEIGHTS),
        load_file(tmp_path / "out" / WEIGHTS),
    )
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[key], err_msg=key)
    again = load_classifier(tmp_path / "out")
    assert again.config == config and again.layout == layout
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    given = json.loads((MODELS / name / "config.json").read_text())
    assert said["architectures"] == given["architectures"]
    assert len(said["id2label"]) == NAMES[name]


def test_a_value_head_without_a_bias_is_written_with_one_of_zero(tmp_path):
    config, params, _, _ = load_classifier(MODELS / "llama_reward")
    save_classifier(tmp_path / "out", config, params, "token")
    found = load_classifier(tmp_path / "out")
    assert found.layout == "token" and found.params["score"]["bias"].shape == (1,)
    assert not np.asarray(found.params["score"]["bias"]).any()


def test_an_adapted_trunk_is_merged(tmp_path):
    config, params, _, layout = load_classifier(MODELS / "llama_reward")
    adapted = init_adapter(LoRA(rank=2), params["trunk"], 0, ())
    adapter = {
        name: {k: x + 0.1 for k, x in part.items()}
        for name, part in adapted.adapter.items()
    }
    adapted = type(adapted)(adapted.base, adapter, adapted.alpha)
    save_classifier(tmp_path / "a", config, {**params, "trunk": adapted}, layout)
    whole = {**params, "trunk": merge(adapted)}
    save_classifier(tmp_path / "b", config, whole, layout)
    one, two = (load_file(tmp_path / x / WEIGHTS) for x in "ab")
    for key, tensor in one.items():
        np.testing.assert_allclose(tensor, two[key], atol=1e-6, err_msg=key)
    assert np.abs(one["score.weight"]).max() > 0


def test_a_language_model_gets_a_head_of_zeros(tmp_path):
    """Without its matrix to the logits, in float32, saved and read again."""
    folder = str(MODELS / "tiny_qwen2_policy")
    model = load_scalar(folder, 0, 2, "token")
    assert model.labels == 2 and model.base is not None and model.config is not None
    assert "head" not in model.params["trunk"]
    whole = load_pretrained(folder).params
    table = model.params["trunk"]["embedding"]
    np.testing.assert_array_equal(table, whole["embedding"])
    model.save(tmp_path, model.params)
    again = load_scalar(str(tmp_path / "final"), 0, 2, "token")
    assert again.base is None and again.layout == "token"
    assert not np.asarray(again.params["score"]["kernel"]).any()
    with pytest.raises(ValueError, match="its head has 2 labels; write a model with 1"):
        load_scalar(str(tmp_path / "final"), 0, 1, "token")
    with pytest.raises(ValueError, match="whose head has a bias; write a language"):
        load_scalar(str(tmp_path / "final"), 0, 2, "sequence")
    with pytest.raises(ValueError, match="a scalar head writes no text"):
        model.policy.prefill(model.params, jnp.zeros((1, 1)), jnp.ones((1, 1)), 2)


def drop(name):
    def change(folder):
        tensors = load_file(folder / WEIGHTS)
        del tensors[name]
        save_file(tensors, folder / WEIGHTS)

    return change


def add_bias(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["score.bias"] = np.zeros(1, np.float32)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("llama_reward", drop("score.weight"), "tensor score.weight is missing"),
        ("qwen3_steps", drop("score.bias"), "tensor score.bias is missing"),
        ("llama_reward", add_bias, "tensor score.bias is not part of the model"),
        (
            "llama_reward",
            lambda f: edit(f, id2label={"0": "a", "1": "b"}),
            r"score.weight has shape \(1, 24\); its config asks for \(2, 24\)",
        ),
        (
            "llama_reward",
            lambda f: edit(f, num_labels=3),
            "num_labels = 3, but id2label names 1",
        ),
        ("llama_reward", lambda f: edit(f, id2label=["a"]), "id2label = "),
        (
            "llama_reward",
            lambda f: edit(f, architectures=["LlamaForCausalLM"]),
            "give a checkpoint of a class that ends in ForSequenceClassification",
        ),
        (
            "llama_reward",
            lambda f: edit(f, architectures=["Qwen2ForSequenceClassification"]),
            r"only \['LlamaForSequenceClassification'\] is for model_type 'llama'",
        ),
        (
            "llama_reward",
            lambda f: edit(f, rope_interleaved=True),
            "rope_interleaved = True is not supported",
        ),
    ],
)
def test_damage_is_named_in_one_line(copy, name, change, words):
    folder = copy(name)
    change(folder)
    with pytest.raises(ValueError, match=words) as error:
        load_classifier(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, layout, words",
    [
        ("qwen3_steps", "sequence", "the head has a bias; give layout token"),
        ("llama_reward", "row", "layout 'row'; give sequence or token"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(tmp_path, name, layout, words):
    config, params, _, _ = load_classifier(MODELS / name)
    with pytest.raises(ValueError, match=words):
        save_classifier(tmp_path / "out", config, params, layout)
    assert not (tmp_path / "out").exists()
