"""The distribution that tokens are drawn from, and a cheap draw from it.

Letters: N rows, V vocabulary, K candidates (top_k, or V without it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Sums of probabilities carry float32 rounding; this keeps an exact tie from adding a
# token to the nucleus.
TIE = 1e-6
# Tokens summed as one in the first half of a draw.
BLOCK = 128


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature"],
    meta_fields=["max_tokens", "top_k", "top_p", "min_p"],
)
@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: softmax(logits / temperature), cut in transformers' order.

    max_tokens: response columns T. temperature: 0 is greedy; it is a leaf of the
    pytree, so it may change without recompiling. Then, in this order:
    top_k: keep the k most probable tokens. top_p: of those, renormalised, keep the
    smallest set that reaches probability p. min_p: of those, drop the tokens less
    probable than min_p times the most probable. None turns a cut off. Equal
    probabilities keep the lower id. (vLLM cuts by min_p first, which leaves top_p
    another distribution to look at.)
    """

    max_tokens: int
    temperature: float | Array = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.temperature, int | float)
        if number and not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"Sampling.temperature is {self.temperature}; give a number >= 0 "
                "(0 is greedy)"
            )
        for name, value in (("max_tokens", self.max_tokens), ("top_k", self.top_k)):
            absent = value is None and name == "top_k"
            if not absent and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Sampling.{name} is {value!r}; give an integer >= 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(
                f"Sampling.top_p is {self.top_p}; give a number in (0, 1], or null"
            )
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(
                f"Sampling.min_p is {self.min_p}; give a number in [0, 1], or null"
            )


def candidates(logits: Array, sampling: Sampling) -> tuple[Array, Array]:
    """The distribution tokens are drawn from, as (log-probs, ids), both [N K].

    Log-probs are normalised over what the cuts keep; -inf marks what they drop.
    Temperature 0 gives probability 1 to the first of the largest logits.
    """
    scores, ids = kept(logits, sampling)
    return jax.nn.log_softmax(scores, -1), ids


def draw(logits: Array, keys: Array, sampling: Sampling) -> tuple[Array, Array]:
    """One token per row and its log-probability, [N] each; logits [N V], keys [N].

    Inverse CDF in two halves, each with a uniform number of its own: a block of tokens
    by its sum, then a token inside it. Sums over short spans keep float32 exact enough
    at any V, and two numbers of 23 bits give probabilities below 2^-23 their due; it
    costs one pass over the logits, where Gumbel noise costs V random numbers. A token
    of probability 0 is never drawn. Row n depends on keys[n] and its logits only.
    """
    scores, ids = kept(logits, sampling)
    uniform = partial(jax.random.uniform, shape=(2,), dtype=scores.dtype)
    which, inside = jnp.split(jax.vmap(uniform)(keys), 2, -1)
    width = min(BLOCK, scores.shape[-1])
    fill = -scores.shape[-1] % width
    blocks = jnp.pad(scores, ((0, 0), (0, fill)), constant_values=-jnp.inf)
    blocks = blocks.reshape(len(scores), -1, width)
    block, total = locate(jnp.exp(blocks).sum(-1), which)
    chosen = jnp.take_along_axis(blocks, block[:, :, None], 1)[:, 0]
    slot = block * width + locate(jnp.exp(chosen), inside)[0]
    logp = jnp.take_along_axis(scores, slot, -1) - jnp.log(total)
    return jnp.take_along_axis(ids, slot, -1)[:, 0], logp[:, 0]


def locate(weights: Array, uniform: Array) -> tuple[Array, Array]:
    """(first index whose cumulative sum passes uniform * total, total), [N 1] each.

    A parallel sum need not be monotone in its last digit, so the index must also have
    weight; where rounding leaves none, the heaviest is taken.
    """
    ends = jnp.cumsum(weights, -1)
    total = ends[:, -1:]
    hit = (ends > uniform * total) & (weights > 0)
    found = hit.any(-1, keepdims=True)
    return jnp.where(found, first_true(hit), first_best(weights)), total


def kept(logits: Array, sampling: Sampling) -> tuple[Array, Array]:
    """(scores, ids) [N K]: (logits - max) / temperature, -inf where a cut drops it.

    exp(scores) is the distribution but for its sum.
    """
    vocab = logits.shape[-1]
    ids = jnp.broadcast_to(jnp.arange(vocab, dtype=jnp.int32), logits.shape)
    if sampling.top_k is not None and sampling.top_k < vocab:
        logits, ids = jax.lax.top_k(logits, sampling.top_k)
    # The largest is taken off first: divided by a small temperature it would overflow.
    scores = logits - logits.max(-1, keepdims=True)
    temperature = jnp.asarray(sampling.temperature, scores.dtype)
    greedy = temperature < jnp.finfo(scores.dtype).tiny
    best = jnp.arange(scores.shape[-1]) == first_true(scores == 0)
    scores = scores / jnp.where(greedy, 1.0, temperature)
    scores = jnp.where(greedy & ~best, -jnp.inf, scores)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = jnp.where(nucleus(jnp.exp(scores), sampling.top_p), scores, -jnp.inf)
    if sampling.min_p is not None:
        scores = jnp.where(jnp.exp(scores) >= sampling.min_p, scores, -jnp.inf)
    return scores, ids


def nucleus(weights: Array, share: float) -> Array:
    """The smallest set of heaviest weights [N K] that reaches `share` of their sum.

    Equal weights are taken from the left. Weights are >= 0, the largest is 1. Instead
    of sorting, the lightest weight kept is found bit by bit: floats >= 0 are ordered
    as their bit patterns are, so 30 sums decide it exactly.
    """
    tiny = jnp.finfo(weights.dtype).tiny
    mass = max(share - TIE, tiny) * weights.sum(-1, keepdims=True)
    bits = as_bits(weights)

    def above(bound: Array) -> Array:
        return jnp.where(bits >= bound, weights, 0.0).sum(-1, keepdims=True)

    one = int(np.ones((), weights.dtype).view(bits.dtype))
    lightest = search(lambda bound: above(bound) >= mass, bits[:, :1], one + 1)
    tied = bits == lightest
    weight = jnp.where(tied, weights, 0.0).max(-1, keepdims=True)
    missing = jnp.ceil((mass - above(lightest + 1)) / jnp.maximum(weight, tiny))
    place = jnp.arange(weights.shape[-1], dtype=jnp.int32)

    def fewer(end: Array) -> Array:
        before = tied & (place < end)
        return before.sum(-1, keepdims=True) < missing

    last = search(fewer, jnp.broadcast_to(place[:1], mass.shape), len(place))
    return (bits > lightest) | (tied & (place <= last))


def as_bits(x: Array) -> Array:
    """The bit patterns of floats as integers of the same width."""
    integer = {4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, integer)


def search(holds: Callable[[Array], Array], like: Array, end: int) -> Array:
    """The last integer in [0, end) where `holds`, per row, with shape and type of like.

    `holds` takes and gives [N 1]; it is true at 0, and false from some point on.
    """

    def halve(_, ends):
        low, high = ends
        middle = low + (high - low) // 2
        ok = holds(middle)
        return jnp.where(ok, middle, low), jnp.where(ok, high, middle)

    ends = jnp.zeros_like(like), jnp.full_like(like, end)
    return jax.lax.fori_loop(0, end.bit_length(), halve, ends)[0]


def first_best(x: Array) -> Array:
    """argmax over the last axis, [N 1]; several times faster than jnp's on CPU."""
    return first_true(x == x.max(-1, keepdims=True))


def first_true(x: Array) -> Array:
    """The first True of each row [N K], [N 1]; K - 1 where there is none."""
    last = x.shape[-1] - 1
    place = jnp.arange(last + 1, dtype=jnp.int32)
    return jnp.where(x, place, last).min(-1, keepdims=True)
