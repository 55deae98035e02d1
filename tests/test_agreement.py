"""The trainer recomputes what the sampler drew, on every architecture and setting."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import MODELS, NAMES, fields

from unipost.agreement import TOLERANCES, check_agreement, is_policy, tolerance
from unipost.hf import load_pretrained
from unipost.model import Compute, transformer_policy
from unipost.sampling import (
    BatchSampler,
    ContinuousSampler,
    Request,
    Sampling,
    as_samples,
    candidates,
)
from unipost.sampling.batch import left_padded
from unipost.tokenizer import CharTokenizer
from unipost.update import Rows, streams_of

LENGTH, T, GROUP = 9, 20, 2
SAMPLERS = {"batch": BatchSampler(), "continuous": ContinuousSampler(5, 2, 16, 4)}
TEXT = [x for x in NAMES if "ForCausalLM" in str(fields(x).get("architectures"))]
# windows, soft caps, experts, partial and missing rotations: what a slot must carry
SLOTS = (
    "gemma2_small",
    "gemma3_linear",
    "llama_gqa_tied",
    "mixtral_window",
    "phi3_partial",
    "smollm3_window",
)
CASES = [(x, "batch") for x in TEXT] + [(x, "continuous") for x in SLOTS]
SETTINGS = {
    "cold": Sampling(T, 0.7),
    "hot": Sampling(T, 1.5),
    "top_k": Sampling(T, 1.0, top_k=5),
    "top_p": Sampling(T, 1.0, top_p=0.8),
    "min_p": Sampling(T, 1.0, min_p=0.1),
    "all": Sampling(T, 1.3, top_k=20, top_p=0.9, min_p=0.05),
    "greedy": Sampling(T, 0.0),
}


@cache
def load(name, dtype="float32"):
    config, params, _ = load_pretrained(MODELS / name)
    return transformer_policy(config, Compute(dtype)), params, config.vocab_size


@cache
def drawn(name, sampler, sampling=Sampling(T), dtype="float32"):
    """(rows [P, G, ...], behaviour) of prompts of 1 to 9 tokens, left-padded.

    Twenty tokens behind nine: more than the windows of the checkpoints hold.
    """
    policy, params, vocab = load(name, dtype)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, vocab, n).tolist() for n in (1, 4, LENGTH)]
    requests = [
        Request(tuple(prompt), tuple(range(10 * i, 10 * i + GROUP)), T - 3 * i)
        for i, prompt in enumerate(prompts)
    ]
    engine = SAMPLERS[sampler].open(policy, CharTokenizer("a"), sampling, LENGTH)
    samples = as_samples(engine(params, requests, jax.random.key(1)), T, 0)
    padded = [np.repeat(x[:, None], GROUP, 1) for x in left_padded(prompts, LENGTH)]
    rows = Rows(*map(jnp.asarray, padded), samples.tokens, samples.mask)
    return rows, np.asarray(samples.logps)


@partial(jax.jit, static_argnums=(0, 3))
def scored(policy, params, rows, extras=()):
    return streams_of(policy, params, rows, extras)


def gaps(name, sampler, dtype="float32"):
    """|log old - log behaviour| of the tokens drawn from the policy itself."""
    rows, behavior = drawn(name, sampler, dtype=dtype)
    old = scored(*load(name, dtype)[:2], rows).policy
    return np.abs(np.asarray(old) - behavior)[np.asarray(rows.response_mask)]


@pytest.mark.parametrize("name, sampler", CASES)
def test_every_architecture_recomputes_what_its_sampler_drew(name, sampler):
    found = gaps(name, sampler)
    assert len(found) == GROUP * sum(T - 3 * i for i in range(3))
    assert 0 < found.mean() < 2e-5 and found.max() < 2e-4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_in_bfloat16_they_agree_to_its_rounding(sampler):
    found, allowed = gaps("llama_gqa_tied", sampler, "bfloat16"), TOLERANCES["bfloat16"]
    assert found.mean() < allowed.mean / 3 and found.max() < allowed.token / 3


@pytest.mark.parametrize("setting", SETTINGS)
def test_other_settings_have_the_log_probs_of_their_own_distribution(setting):
    """Not the policy's; the sampler's, recomputed from the policy's vocabulary."""
    sampling, name = SETTINGS[setting], "qwen2_window"
    rows, behavior = drawn(name, "continuous", sampling)
    streams = scored(*load(name)[:2], rows, ("vocab",))
    law, ids = candidates(streams.vocab.reshape(-1, streams.vocab.shape[-1]), sampling)
    chosen = ids == rows.response.reshape(-1, 1)
    want = np.where(chosen, law, -np.inf).max(-1).reshape(behavior.shape)
    real = np.asarray(rows.response_mask)
    np.testing.assert_allclose(behavior[real], want[real], atol=2e-4)
    assert not is_policy(sampling)
    assert np.abs(np.asarray(streams.policy) - behavior)[real].mean() > 0.01


def test_a_run_is_warned_when_they_disagree():
    fine = {"sampler_gap": 2e-6, "sampler_gap_max": 2e-5}
    plain = Sampling(T)
    assert check_agreement(fine, plain, 0, "float32") is None
    for far in ({"sampler_gap": 0.3}, {"sampler_gap_max": 0.3}):
        message = check_agreement(fine | far, plain, 0, "float32")
        assert message is not None and "\n" not in message
        assert "0.3" in message and "float32 allows 0.001 and 0.01" in message
    far = {"sampler_gap": 0.3, "sampler_gap_max": 2.0}
    message = check_agreement(far, plain, 0, "bfloat16") or ""
    assert "is 0.3 on average and 2 at most" in message
    assert "bfloat16 allows 0.1 and 1" in message
    between = {"sampler_gap": 0.01, "sampler_gap_max": 0.4}
    assert check_agreement(between, plain, 0, "bfloat16") is None


def test_products_of_an_accelerator_are_rounded_more(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert tolerance("float32") == TOLERANCES["bfloat16"]
    with jax.default_matmul_precision("highest"):
        assert tolerance("float32") == TOLERANCES["float32"]


def test_what_differs_by_design_is_no_warning():
    far = {"sampler_gap": 0.3, "sampler_gap_max": 2.0}
    assert check_agreement(far, Sampling(T), 1, "float32") is None
    assert check_agreement(far, None, 0, "float32") is None
    assert check_agreement({}, Sampling(T), 0, "float32") is None
    for sampling in SETTINGS.values():
        assert check_agreement(far, sampling, 0, "float32") is None
    assert is_policy(Sampling(T, 1.0, None, 1.0, 0.0))


def test_a_sampler_with_other_weights_or_without_padding_is_found():
    """A stale copy of the weights, and prompts read as if padding were text."""
    name = "llama_gqa_tied"
    policy, params, _ = load(name)
    rows, behavior = drawn(name, "batch")
    real = np.asarray(rows.response_mask)
    moved = jax.tree.map(lambda x: 1.01 * x, params)
    unpadded = rows._replace(prompt_mask=jnp.ones_like(rows.prompt_mask))
    for wrong in ((moved, rows), (params, unpadded)):
        gap = np.abs(np.asarray(scored(policy, *wrong).policy) - behavior)[real]
        metrics = {"sampler_gap": gap.mean(), "sampler_gap_max": gap.max()}
        message = check_agreement(metrics, Sampling(T), 0, "float32") or ""
        assert f"is {gap.mean():.2g} on average and {gap.max():.2g} at most" in message
