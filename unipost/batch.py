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

    policy     [P, G, T]     log pi(y_t | s_t), at temperature 1
    entropy    [P, G, T]     entropy of pi(. | s_t), for an entropy bonus
    lse        [P, G, T]     logsumexp of the logits at s_t, for the value gauges
    vocab      [P, G, T, V]  log pi(. | s_t), for an exact penalty
    collision  [P, G, T]     log sum_v pi(v | s_t)^2, for the weights of WPO
    """

    policy: Array
    entropy: Array | None = None
    lse: Array | None = None
    vocab: Array | None = None
    collision: Array | None = None


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
    off_policy [P, G]     1 where a row of a mixed group is a demonstration; or
                          [P, G, T], 1 on the tokens of a demonstration's prefix
    old        [P, G, T]  log-probs of the snapshot before the inner updates
    old_collision [P, G, T]  log sum_v old(v | s_t)^2, for optimal token baselines
    behavior   [P, G, T]  log-probs of the sampler's exact distribution (NaN = not
                          reported: corrections take the ratio there as 1)
    reference  [P, G, T]  log-probs of the frozen reference
    reference_lse [P, G, T], reference_vocab [P, G, T, V]: as in `Streams`
    text       [P, G, T]  1 where a token of prompt or response stands, for a loss that
                          counts both (T then covers the prompt too)
    advantage  [P, G] or [P, G, T]  advantages computed elsewhere
    values     [P, G, T]  a critic's values, for GAE
    margin     [P, G]     of a pair, on both rows: by how much the chosen response
                          should be ahead of the other, for a reward model
    baseline   [P, G]     reward of a greedy response, for ReMax
    components [P, G, K]  several rewards per response (NaN = not given)
    reference_rewards [P, N]  rewards of N responses that the reference wrote (NaN =
                          not scored), for a value that needs no critic
    importance [P, G] or [P, G, T]  weights of the loss computed elsewhere

    What the policy says at the present parameters, as constants; training computes it
    over the logical batch before it is cut, and a call of the objective fills in
    `current` itself:

    current    [P, G, T]  log-probs
    current_entropy [P, G, T]
    mismatched [P, G]     sum_t log(pi/ref) of the prompt with another one's response
    mismatched_reference [P, G]  sum_t log ref of the same, from which it is made
    """

    mask: Array
    rewards: Array | None = None
    steps: Array | None = None
    weight: Array | None = None
    off_policy: Array | None = None
    old: Array | None = None
    old_collision: Array | None = None
    behavior: Array | None = None
    reference: Array | None = None
    reference_lse: Array | None = None
    reference_vocab: Array | None = None
    text: Array | None = None
    advantage: Array | None = None
    values: Array | None = None
    margin: Array | None = None
    baseline: Array | None = None
    components: Array | None = None
    reference_rewards: Array | None = None
    importance: Array | None = None
    current: Array | None = None
    current_entropy: Array | None = None
    mismatched: Array | None = None
    mismatched_reference: Array | None = None


@part
class Prepared:
    """A batch with its signal and weights, ready to be cut along P and summed.

    Every leaf has the leading axis P, and every normaliser is already inside `weight`
    and the means: losses and metrics of any partition add up to those of the whole.

    signal   [P, G, T]  what the implicit reward must follow (1, +-1 or an advantage)
    weight   [P, G, T]  the loss is sum(weight * per-token loss)
    row_weight [P, G]   the same for per-row losses
    correction [P, G, T]  detached weights of the link's loss, 1 without corrections
    offset   [P, G]     reference point of the implicit reward, 0 without one
    mean     [P, G, T]  mask / number of tokens: a mean over the batch's tokens
    row_mean [P, G]     non-empty rows / their number
    """

    batch: Batch
    signal: Array
    weight: Array
    row_weight: Array
    correction: Array
    offset: Array
    mean: Array
    row_mean: Array


ROWS = ("weight", "baseline", "margin", "mismatched", "mismatched_reference")
TOKENS = ("steps", "old", "behavior", "reference", "reference_lse", "text", "values")
TOKENS += ("current", "current_entropy", "old_collision")
EITHER = ("rewards", "advantage", "importance", "off_policy")


def check_shapes(batch: Batch) -> None:
    """Refuse a batch whose arrays do not fit [P, G, T], naming the array."""
    if batch.mask.ndim != 3:
        shape = tuple(batch.mask.shape)
        raise ValueError(f"batch.mask: shape {shape}; write [prompts, group, tokens]")
    p, g, t = batch.mask.shape
    wanted: list[tuple[str, tuple[int, ...]]] = [(name, (p, g)) for name in ROWS]
    wanted += [(name, (p, g, t)) for name in TOKENS]
    for name in EITHER:
        array = getattr(batch, name)
        per_token = array is not None and array.ndim == 3
        wanted.append((name, (p, g, t) if per_token else (p, g)))
    wanted += [("reference_vocab", (p, g, t)), ("components", (p, g))]
    wanted.append(("reference_rewards", (p,)))
    for name, shape in wanted:
        array = getattr(batch, name)
        leading = () if array is None else tuple(array.shape)
        if name in ("reference_vocab", "components", "reference_rewards"):
            leading = leading[:-1]
        if array is not None and leading != shape:
            raise ValueError(
                f"batch.{name}: shape {tuple(array.shape)}; mask says {shape}"
            )


def clean(batch: Batch) -> Batch:
    """`batch` in float32 or more, with zeros wherever the mask is 0."""
    kept = batch.mask > 0

    def keep(name):
        x = getattr(batch, name)
        if x is None:
            return None
        mask = {2: kept.any(-1), 3: kept, 4: kept[..., None]}[x.ndim]
        return jnp.where(mask, at_least_float32(x), 0.0)

    def as_is(name):  # NaN has a meaning there: not scored, not given
        x = getattr(batch, name)
        return None if x is None else at_least_float32(x)

    per_row = batch.rewards is not None and batch.rewards.ndim == 2
    masked = (*TOKENS, "weight", "importance", "reference_vocab")
    values = {name: keep(name) for name in masked}
    free = ("components", "baseline", "mismatched", "reference_rewards")
    values |= {n: as_is(n) for n in free}
    advantage = as_is("advantage")
    if advantage is not None and advantage.ndim == 2:
        # of an empty row it still counts where an aggregation counts empty rows
        known = kept.any(-1) | jnp.isfinite(advantage)
        advantage = jnp.where(known, advantage, 0.0)
    elif advantage is not None:
        advantage = keep("advantage")
    text, off = batch.text, batch.off_policy
    return Batch(
        # the default float type: 1/count must be exact in 64-bit mode
        mask=kept.astype(jnp.result_type(float)),
        rewards=as_is("rewards") if per_row else keep("rewards"),
        off_policy=None if off is None else off > 0,
        advantage=advantage,
        **(values | {"text": None if text is None else (text > 0) * 1.0}),
    )
