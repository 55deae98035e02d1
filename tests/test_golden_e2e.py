"""From text to the gradient of every parameter, against TRL on a real tiny Qwen2 pair.

`fixtures/cases/e2e` holds loss and gradient by Hugging Face name, as TRL 1.16 computed
them with torch in float32 from the two checkpoints in `fixtures/hf_models`.
"""

import importlib
import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost import Batch, presets, update
from unipost.classical import JensenShannon
from unipost.data import encode_rows, read_rows
from unipost.hf import load_pretrained, named_tensors
from unipost.model import transformer_policy
from unipost.tokenizer import load_tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
FAMILY = json.loads((FIXTURES / "cases" / "e2e.json").read_text())
ARRAYS = np.load(FIXTURES / "cases" / "e2e.npz")
EXPECTED = {case["case"]: case["outputs"] for case in FAMILY["cases"]}

OBJECTIVES = {
    "sft-nll": presets.sft,
    "sft-dft": presets.dft,
    "dpo-sigmoid-reverse_kl": lambda: presets.dpo(0.1),
    "dpo-ipo-reverse_kl": lambda: presets.ipo(0.2, length="sequence_mean"),
    "dpo-sigmoid-js_divergence": lambda: presets.f_dpo(JensenShannon(), 0.5),
    "dpo-apo_zero-reverse_kl": lambda: importlib.import_module("unipost.trl").dpo(
        loss_type=["apo_zero"], beta=0.1
    ),
}
PAIRS = [name for name in EXPECTED if name.startswith("dpo")]


@cache
def pretrained(name):
    return load_pretrained(FIXTURES / "hf_models" / name)


def policy_and_params(name):
    config, params, _ = pretrained(name)
    return transformer_policy(config), params


def rows_of(case):
    """Rows [P, G, ...] of one case: G is 1 for SFT; chosen, then rejected, for DPO.

    The prompt gets two more columns of padding on its left, with a token under them.
    """
    ids = ARRAYS[f"{case}/in/input_ids"]
    real = ARRAYS[f"{case}/in/attention_mask"] > 0
    if case in PAIRS:
        responded = ARRAYS[f"{case}/in/completion_mask"] > 0
    else:
        responded = ARRAYS[f"{case}/in/labels"] != -100
    (start,) = set(responded.argmax(1).tolist())
    assert (responded[:, start:] == real[:, start:]).all()
    left = (0, 0), (2, 0)
    flat = (
        np.pad(ids[:, :start], left, constant_values=7),
        np.pad(real[:, :start], left),
        ids[:, start:],
        real[:, start:],
    )
    group = 2 if case in PAIRS else 1
    return update.Rows(
        *(jnp.asarray(x.reshape(group, -1, x.shape[1]).swapaxes(0, 1)) for x in flat)
    )


@cache
def computed(case):
    """((loss, metrics), gradient) by the route that a training step takes."""
    objective, rows = OBJECTIVES[case](), rows_of(case)
    policy, params = policy_and_params("tiny_qwen2_policy")
    _, reference = policy_and_params("tiny_qwen2_ref")
    batch = Batch(mask=rows.response_mask)
    batch = update.with_streams(objective, policy, rows, batch, params, reference)
    prepared = objective.prepare(batch)
    return update.loss_and_grad(policy, objective, params, rows, prepared)


def close(got, want, what):
    """Within the recorded tolerance, and within 1e-4 of the largest number.

    Gradients of DFT are as small as 1e-4: the recorded `atol` alone would pass zeros.
    """
    rtol, atol = FAMILY["tol"]["rtol"], FAMILY["tol"]["atol"]
    atol = min(atol, 1e-4 * np.abs(want).max())
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=what)


def test_every_case_is_covered():
    assert OBJECTIVES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("case", OBJECTIVES)
def test_loss(case):
    (loss, _), _ = computed(case)
    close(loss, EXPECTED[case]["loss"], case)


@pytest.mark.parametrize("case", OBJECTIVES)
def test_gradient_of_every_parameter(case):
    _, gradient = computed(case)
    config = pretrained("tiny_qwen2_policy").config
    named = dict(named_tensors(config, gradient, np.dtype(np.float32)))
    names = {name for name in EXPECTED[case] if name.startswith("grad:")}
    assert {f"grad:{name}" for name in named} == names
    for name, got in named.items():
        want = ARRAYS[f"{case}/out/grad:{name}"]
        assert want.any(), name
        close(got, want, name)


@pytest.mark.parametrize("case", PAIRS)
def test_log_probs_of_policy_and_reference(case):
    rows, expected = rows_of(case), EXPECTED[case]
    logps, reference = (
        update.annotate(*policy_and_params(f"tiny_qwen2_{name}"), rows).policy.sum(-1)
        for name in ("policy", "ref")
    )
    (beta,) = (c["hyper"]["beta"] for c in FAMILY["cases"] if c["case"] == case)
    reward = beta * (logps - reference)
    for index, side in enumerate(("chosen", "rejected")):
        close(logps[:, index].mean(), expected[f"metric:logps/{side}"], side)
        close(reward[:, index].mean(), expected[f"metric:rewards/{side}"], side)


def test_entropy_of_the_tokens_trained_on():
    rows = rows_of("sft-nll")
    streams = update.annotate(
        *policy_and_params("tiny_qwen2_policy"), rows, ("entropy",)
    )
    entropy = streams.entropy.sum() / rows.response_mask.sum()
    close(entropy, EXPECTED["sft-nll"]["entropy"], "entropy")


def test_text_to_loss(tmp_path):
    """Turns written as the checkpoint's chat template has them, each row also alone."""
    chats = [("What is 2 + 3?", "It is 5."), ("Hi", "Hello, how are you today?")]
    texts = [
        (f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n", said)
        for asked, said in chats
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in texts)
    )
    folder = pretrained("tiny_qwen2_policy").tokenizer
    assert folder is not None
    tokenizer = load_tokenizer(folder)
    found = read_rows(path, "demonstrations", tokenizer=tokenizer).rows
    tokens = encode_rows(tokenizer, found, 64, 32)
    rows = update.Rows(*(jnp.asarray(x)[:, None] for x in tokens[:4]))
    policy, params = policy_and_params("tiny_qwen2_policy")
    streams = update.annotate(policy, params, rows)
    loss, _ = presets.sft()(streams, Batch(mask=rows.response_mask))

    logits, total, count = jax.jit(policy.logits), 0.0, 0
    for prompt, completion in texts:
        ids = jnp.asarray(tokenizer.encode(f"{prompt}{completion}<|im_end|>"))
        logps = jax.nn.log_softmax(logits(params, ids[None], ids[None] >= 0)[0])
        start = len(tokenizer.encode(prompt))
        taken = logps[jnp.arange(start - 1, len(ids) - 1), ids[start:]]
        total, count = total + taken.sum(), count + len(taken)
    np.testing.assert_allclose(loss, -total / count, rtol=1e-6)
