"""What an objective sees: masks, signals and per-token log-prob streams.

P prompts x G responses x T response tokens: a demonstration is a group of one, a
preference a group of two, a rollout a group of G. Ragged, empty and fully masked rows
are legal and contribute nothing; values outside the mask are never read.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from unipost.parts import part
from unipost.special import at_least_float32

Array = jax.Array


@part
class Streams:
    """What the model being trained says of the batch; gradients flow through these.

    policy   [P, G, T]     log pi(y_t | s_t), at temperature 1
    entropy  [P, G, T]     entropy of pi(. | s_t), for an entropy bonus
    lse      [P, G, T]     logsumexp of the logits at s_t, for the value gauges
    vocab    [P, G, T, V]  log pi(. | s_t), for an exact penalty
    """

    policy: Array
    entropy: Array | None = None
    lse: Array | None = None
    vocab: Array | None = None


@part
class Batch:
    """The data of one logical batch; nothing in it is differentiated.

    mask       [P, G, T]  1 where a response token counts
    rewards    [P, G]     outcome rewards (NaN = unscored), or [P, G, T] step rewards;
                          of a preference, the larger of the two is chosen (without
                          rewards: response 0 is chosen, 1 rejected)
    steps      [P, G, T]  1 where a reasoning step ends and its reward stands
    weight     [P, G]     weight of a row's loss; denominators do not see it. A pair's
                          is the product of its two (as WPO)
    off_policy [P, G]     1 where a row of a mixed group is a demonstration
    old        [P, G, T]  log-probs of the snapshot before the inner updates
    behavior   [P, G, T]  log-probs of the sampler's exact distribution
    reference  [P, G, T]  log-probs of the frozen reference
    reference_lse [P, G, T], reference_vocab [P, G, T, V]: as in `Streams`
    """

    mask: Array
    rewards: Array | None = None
    steps: Array | None = None
    weight: Array | None = None
    off_policy: Array | None = None
    old: Array | None = None
    behavior: Array | None = None
    reference: Array | None = None
    reference_lse: Array | None = None
    reference_vocab: Array | None = None


@part
class Prepared:
    """A batch with its signal and weights, ready to be cut along P and summed.

    Every leaf has the leading axis P, and every normaliser is already inside `weight`
    and the means: losses and metrics of any partition add up to those of the whole.

    signal   [P, G, T]  what the implicit reward must follow (1, +-1 or an advantage)
    weight   [P, G, T]  the loss is sum(weight * per-token loss)
    mean     [P, G, T]  mask / number of tokens: a mean over the batch's tokens
    row_mean [P, G]     non-empty rows / their number
    """

    batch: Batch
    signal: Array
    weight: Array
    mean: Array
    row_mean: Array


def check_shapes(batch: Batch) -> None:
    """Refuse a batch whose arrays do not fit [P, G, T], naming the array."""
    if batch.mask.ndim != 3:
        shape = tuple(batch.mask.shape)
        raise ValueError(f"batch.mask: shape {shape}; write [prompts, group, tokens]")
    p, g, t = batch.mask.shape
    rows = {"weight": batch.weight, "off_policy": batch.off_policy}
    tokens = {
        "steps": batch.steps,
        "old": batch.old,
        "behavior": batch.behavior,
        "reference": batch.reference,
        "reference_lse": batch.reference_lse,
    }
    if batch.rewards is not None:
        stage = tokens if batch.rewards.ndim == 3 else rows
        stage["rewards"] = batch.rewards
    wanted = [(n, a, (p, g)) for n, a in rows.items()]
    wanted += [(n, a, (p, g, t)) for n, a in tokens.items()]
    for name, array, shape in wanted:
        if array is not None and tuple(array.shape) != shape:
            raise ValueError(
                f"batch.{name}: shape {tuple(array.shape)}; mask says {shape}"
            )
    vocab = batch.reference_vocab
    if vocab is not None and tuple(vocab.shape[:3]) != (p, g, t):
        raise ValueError(
            f"batch.reference_vocab: shape {tuple(vocab.shape)}; mask says {(p, g, t)}"
        )


def clean(batch: Batch) -> Batch:
    """`batch` in float32 or more, with zeros wherever the mask is 0."""
    kept = batch.mask > 0

    def keep(x):
        if x is None:
            return None
        mask = kept[..., None] if x.ndim == 4 else kept
        return jnp.where(mask, at_least_float32(x), 0.0)

    per_row = batch.rewards is not None and batch.rewards.ndim == 2
    return Batch(
        # the default float type: 1/count must be exact in 64-bit mode
        mask=kept.astype(jnp.result_type(float)),
        rewards=at_least_float32(batch.rewards) if per_row else keep(batch.rewards),
        steps=keep(batch.steps),
        weight=None
        if batch.weight is None
        else jnp.where(kept.any(-1), at_least_float32(batch.weight), 0.0),
        off_policy=None if batch.off_policy is None else batch.off_policy > 0,
        old=keep(batch.old),
        behavior=keep(batch.behavior),
        reference=keep(batch.reference),
        reference_lse=keep(batch.reference_lse),
        reference_vocab=keep(batch.reference_vocab),
    )
