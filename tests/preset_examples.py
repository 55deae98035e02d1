"""One or more objectives of every preset, and a ragged random batch that fits them."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from unipost import Batch, Penalty, Streams, presets
from unipost.aggregation import TokenMean
from unipost.classical import ForwardKL, JensenShannon, PearsonChi2, SquaredHellinger
from unipost.parametric import Alpha
from unipost.signals import BatchZScore, Mean, ZScore

EXAMPLES = {
    "sft": presets.sft(),
    "f_sft": presets.f_sft(PearsonChi2(), 0.5),
    "f_sft-hellinger-lsediff": presets.f_sft(SquaredHellinger(), 0.7, "lsediff"),
    "f_sft-lse": presets.f_sft(PearsonChi2(), 0.1, "lse"),
    "dft": presets.dft(),
    "dpo": presets.dpo(),
    "f_dpo": presets.f_dpo(JensenShannon()),
    "f_dpo-alpha": presets.f_dpo(Alpha(0.3)),
    "ipo": presets.ipo(),
    "ipo-mean": presets.ipo(length="sequence_mean"),
    "reinforce": presets.reinforce(),
    "reinforce-batch": presets.reinforce(BatchZScore()),
    "rloo": presets.rloo(),
    "rloo-sequence": presets.rloo(level="sequence"),
    "grpo": presets.grpo(),
    "grpo-rho": presets.grpo(estimator="importance_k3"),
    "grpo-process": replace(presets.grpo(), signal=ZScore(supervision="process")),
    "grpo-exact": replace(
        presets.grpo(), penalty=Penalty(0.1, ForwardKL(), estimator="exact")
    ),
    "grpo-entropy": replace(presets.grpo(), entropy_bonus=0.01),
    "dr_grpo": presets.dr_grpo(9.0, kl=0.1),
    "dapo": presets.dapo(),
    "luffy": presets.luffy(9.0),
    "luffy-paper": presets.luffy(clip=0.2, signal=Mean(), aggregation=TokenMean()),
}

# loss changes with the batch it is in, by the recipe's own definition
GROWS = {"luffy"}


def group(name):
    """Responses per prompt that an example needs."""
    preset = name.split("-")[0]
    if preset in ("dpo", "f_dpo", "ipo"):
        return 2
    return 1 if preset in ("sft", "f_sft", "dft") else 4


def streams_and_batch(name, prompts=6, tokens=7, seed=0, spread=0.3):
    """Float64 streams with NaN outside ragged masks, one empty and one full row."""
    rng = np.random.default_rng(seed)
    g, vocab = group(name), 5
    shape = (prompts, g, tokens)
    lengths = rng.integers(1, tokens + 1, shape[:2])
    lengths[0, 0], lengths[1, 0] = tokens, 0
    mask = np.arange(tokens) < lengths[..., None]

    def logits():
        return rng.normal(size=(*shape, vocab))

    base = logits()
    taken = rng.integers(0, vocab, (*shape, 1))

    def stream(z):
        lse = np.log(np.exp(z).sum(-1, keepdims=True))
        vocabulary = z - lse
        logps = np.take_along_axis(vocabulary, taken, -1)[..., 0]
        entropy = -(np.exp(vocabulary) * vocabulary).sum(-1)
        return logps, lse[..., 0], vocabulary, entropy

    def near():
        return stream(base + spread * logits())

    logps, lse, vocabulary, entropy = near()
    reference = near()
    outcome = rng.integers(0, 2, shape[:2]).astype(float)
    steps = mask & (rng.random(shape) < 0.4)
    process = "process" in name
    rewards = rng.normal(size=shape) if process else outcome
    if g == 2:  # a preference needs a strict order
        rewards = np.stack([outcome[:, 0], 1 - outcome[:, 0]], 1)
    dirty = np.where(mask, 0.0, np.nan)
    streams = Streams(
        policy=jnp.asarray(logps + dirty),
        lse=jnp.asarray(lse + dirty),
        vocab=jnp.asarray(vocabulary + dirty[..., None]),
        entropy=jnp.asarray(entropy + dirty),
    )
    off = np.zeros(shape[:2], bool)
    off[:, -1] = True
    batch = Batch(
        mask=jnp.asarray(mask),
        rewards=jnp.asarray(rewards),
        steps=jnp.asarray(steps),
        weight=jnp.asarray(rng.uniform(0.5, 1.5, shape[:2])),
        off_policy=jnp.asarray(off),
        old=jnp.asarray(near()[0] + dirty),
        behavior=jnp.asarray(near()[0] + dirty),
        reference=jnp.asarray(reference[0] + dirty),
        reference_lse=jnp.asarray(reference[1] + dirty),
        reference_vocab=jnp.asarray(reference[2] + dirty[..., None]),
    )
    return streams, batch
