"""A ragged random batch that holds every array an objective may read."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np

from unipost import Batch, Streams

VOCABULARY = 5
PER_PROMPT = ("reference_rewards",)  # no axis of rows


def ragged(rng, shape):
    """Masks [P, G, T] with gaps, one full and one empty row; texts without gaps."""
    lengths = rng.integers(1, shape[-1] + 1, shape[:2])
    lengths[0, 0], lengths[1, 0] = shape[-1], 0
    text = np.arange(shape[-1]) < lengths[..., None]
    gap = rng.random(shape) < 0.2
    gap[0, 0], gap[..., 0] = False, False  # every row that has text has a token
    return text & ~gap, text


def model(logits, taken):
    """The streams of a model that says `logits` [..., V], and `taken` was sampled."""
    lse = np.log(np.exp(logits).sum(-1, keepdims=True))
    vocab = logits - lse
    return Streams(
        policy=np.take_along_axis(vocab, taken, -1)[..., 0],
        entropy=-(np.exp(vocab) * vocab).sum(-1),
        lse=lse[..., 0],
        vocab=vocab,
        collision=np.log(np.exp(2 * vocab).sum(-1)),
    )


def outcomes(rng, shape):
    """Rewards [P, G] of both signs: one group of equal ones, no ties elsewhere."""
    rewards = rng.choice([-1.0, 1.0], shape) + 0.3 * rng.normal(size=shape)
    rewards[2] = 0.7
    if shape[1] == 2:  # a preference needs a strict order
        rewards[2] = 0.7, -0.4
    return rewards


def moved(tree, prompts, rows):
    """Streams or a batch with its prompts and the rows of every group reordered."""
    values = {f.name: getattr(tree, f.name) for f in fields(tree)}
    for name, x in values.items():
        if x is not None:
            x = x[prompts]
            values[name] = x if name in PER_PROMPT else x[:, rows]
    return type(tree)(**values)


def padded(tree, rows, prompts=2, tokens=1):
    """Empty prompts, rows and tokens behind the others, filled with any number."""
    values = {f.name: getattr(tree, f.name) for f in fields(tree)}
    for name, x in values.items():
        if x is None:
            continue
        sizes = [(0, prompts)] + [(0, 0)] * (x.ndim - 1)
        if name not in PER_PROMPT:
            sizes[1] = 0, rows
        if name not in (*PER_PROMPT, "components") and x.ndim > 2:
            sizes[2] = 0, tokens
        fill = 0 if x.dtype == bool else 9.9
        values[name] = jnp.pad(x, sizes, constant_values=fill)
    return type(tree)(**values)


def random_batch(
    group, process=False, text=False, prefix=False, prompts=6, tokens=7, seed=0
):
    """(streams, batch) in float64, NaN where nothing may be read.

    `process`: rewards per step. `prefix`: the last row is a prefix and what follows it.
    `text`: the tokens between and before the response's are read too, so they are
    numbers. The policy, the snapshot, the sampler and the reference are four models
    that lie close together.
    """
    rng = np.random.default_rng(seed)
    shape = (prompts, group, tokens)
    mask, whole = ragged(rng, shape)
    taken = rng.integers(0, VOCABULARY, (*shape, 1))
    base = rng.normal(size=(*shape, VOCABULARY))
    policy, old, behavior, reference = (
        model(base + far * rng.normal(size=base.shape), taken)
        for far in (0.4, 0.4, 0.4, 0.9)
    )
    dirty = np.where(whole if text else mask, 0.0, np.nan)

    def soiled(x):
        return jnp.asarray(x + (dirty[..., None] if x.ndim == 4 else dirty))

    off = np.zeros(shape[:2], bool)
    off[:, -1] = True
    if prefix:
        off = off[..., None] & (np.arange(tokens) < rng.integers(1, 4, (prompts, 1, 1)))
    mismatched = rng.normal(0.4, 0.3, shape[:2])
    mismatched[-1, 0] = np.nan
    batch = Batch(
        mask=jnp.asarray(mask),
        text=jnp.asarray(whole),
        rewards=jnp.asarray(
            rng.normal(size=shape) if process else outcomes(rng, shape[:2])
        ),
        steps=jnp.asarray(mask & (rng.random(shape) < 0.4)),
        weight=jnp.asarray(rng.uniform(0.5, 1.5, shape[:2])),
        off_policy=jnp.asarray(off),
        old=soiled(old.policy),
        old_collision=soiled(old.collision),
        behavior=soiled(behavior.policy),
        reference=soiled(reference.policy),
        reference_lse=soiled(reference.lse),
        reference_vocab=soiled(reference.vocab),
        advantage=soiled(rng.normal(size=shape)),
        values=soiled(rng.normal(size=shape)),
        importance=soiled(np.exp(0.5 * rng.normal(size=shape))),
        baseline=jnp.asarray(rng.normal(size=shape[:2])),
        components=jnp.asarray(rng.normal(size=(*shape[:2], 2))),
        reference_rewards=jnp.asarray(rng.normal(size=(prompts, 3))),
        mismatched=jnp.asarray(mismatched),
        mismatched_reference=jnp.asarray(rng.normal(size=shape[:2])),
    )
    return jax.tree.map(soiled, policy), batch
