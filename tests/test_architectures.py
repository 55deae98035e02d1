"""Every supported family has the numbers that transformers computed for it.

The checkpoints are tiny and random, and their windows, caps, biases and rotations
change the logits by far more than the tolerance.
"""

import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import BOTH, MODELS, fields
from safetensors.numpy import load_file, save_file

from unipost.hf import load_pretrained
from unipost.hf.families import FAMILIES
from unipost.model import transformer_policy

NEW = 12


@cache
def load(name):
    config, params, _ = load_pretrained(MODELS / name)
    return (
        transformer_policy(config),
        params,
        dict(np.load(MODELS / name / "golden.npz")),
    )


def packed(golden):
    """All texts of the batch as one row [1 S], their segment ids, and their logits."""
    real = golden["mask_right"].astype(bool)
    segments = np.repeat(1 + np.arange(len(real)), real.sum(1))
    return golden["ids_right"][real][None], segments[None], golden["logits_right"][real]


def test_every_family_is_recorded_in_both_spellings():
    assert {fields(name)["model_type"] for name in BOTH} == set(FAMILIES)


@pytest.mark.parametrize("name", BOTH)
def test_logits_of_padded_single_and_packed_rows(name):
    policy, params, golden = load(name)
    ids, segments, want = packed(golden)
    width = ids.shape[1]
    for side, before in (("right", False), ("left", True)):
        real = golden[f"mask_{side}"]
        room = width - real.shape[1]
        around = (0, 0), (room, 0) if before else (0, room)
        ids = np.concatenate([ids, np.pad(golden[f"ids_{side}"], around)])
        segments = np.concatenate([segments, np.pad(real, around)])
        want = np.concatenate([want, golden[f"logits_{side}"][real.astype(bool)]])
    got = jax.jit(policy.logits)(params, ids, segments)
    np.testing.assert_allclose(got[segments > 0], want, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", BOTH)
def test_greedy_tokens_through_prefill_and_decode(name):
    policy, params, golden = load(name)

    @jax.jit
    def generate(params, ids, mask):
        first, cache = policy.prefill(params, ids, mask, ids.shape[1] + NEW)

        def step(carry, _):
            logits, cache = carry
            token = jnp.argmax(logits, -1)
            return policy.decode(params, cache, token), token

        return jax.lax.scan(step, (first, cache), length=NEW)[1].T

    tokens = generate(params, golden["ids_left"], golden["mask_left"].astype(bool))
    np.testing.assert_array_equal(tokens, golden["generated"])


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_stacked_as_transformers_5_holds_them(tmp_path, name):
    folder = shutil.copytree(MODELS / name, tmp_path / name)
    config, params, _ = load_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {
        key.replace("block_sparse_moe", "mlp"): value
        for key, value in tensors.items()
        if ".experts." not in key
    }
    for layer in range(config.num_hidden_layers):
        block = {
            key: part["kernel"][layer]
            for key, part in params["blocks"].items()
            if key in ("gate", "up", "down")
        }
        both = np.concatenate([block["gate"], block["up"]], -1).swapaxes(1, 2)
        down = np.asarray(block["down"]).swapaxes(1, 2)
        prefix = f"model.layers.{layer}.mlp.experts."
        kept[f"{prefix}gate_up_proj"] = np.ascontiguousarray(both)
        kept[f"{prefix}down_proj"] = np.ascontiguousarray(down)
    save_file(kept, folder / "model.safetensors")
    again = load_pretrained(folder)
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
