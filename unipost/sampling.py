"""Responses drawn from a policy, with the log-probability each token was drawn at.

Letters: P prompts, G responses each, N = P * G rows (row = p * G + g), L prompt
columns (left-padded), T response columns (right-padded), V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unipost.policy import Array, Params, Policy, repeat_cache

# Sums of probabilities carry float32 rounding; this keeps an exact tie from adding a
# token to the nucleus.
TIE = 1e-6


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["temperature"],
    meta_fields=["max_tokens", "top_k", "top_p"],
)
@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: softmax(logits / temperature), cut to top_k, then top_p.

    max_tokens: response columns T. temperature: 0 is greedy; it is a leaf of the
    pytree, so it may change without recompiling. top_k: keep the k most probable
    tokens. top_p: of those, renormalised, keep the smallest set that reaches
    probability p. None turns a cut off. Equal probabilities keep the lower id.
    """

    max_tokens: int
    temperature: float | Array = 1.0
    top_k: int | None = None
    top_p: float | None = None

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


class Samples(NamedTuple):
    """Responses [P G T]; see `sample`.

    tokens: ids, pad_token after the end. mask: True up to and with the stop token.
    logps: log-probability under the distribution the token was drawn from, 0 where
    masked. finished [P G]: True if a stop token came within T tokens.
    """

    tokens: Array
    mask: Array
    logps: Array
    finished: Array


def candidates(logits: Array, sampling: Sampling) -> tuple[Array, Array]:
    """The distribution tokens are drawn from, as (log-probs, ids), both [N K].

    K = top_k, or V without it. Log-probs are those of softmax(logits / temperature)
    after top_k and top_p, renormalised; -inf marks what top_p cut. Temperature 0
    gives probability 1 to the first of the largest logits.
    """
    vocab = logits.shape[-1]
    greedy = sampling.temperature == 0
    scaled = logits / jnp.where(greedy, 1.0, sampling.temperature).astype(logits.dtype)
    best = jnp.arange(vocab) == jnp.argmax(logits, -1, keepdims=True)
    scaled = jnp.where(greedy & ~best, -jnp.inf, scaled)
    ids = jnp.broadcast_to(jnp.arange(vocab), logits.shape)
    nucleus = 1.0 if sampling.top_p is None else sampling.top_p
    if sampling.top_k is not None or nucleus < 1:
        scaled, ids = jax.lax.top_k(scaled, min(sampling.top_k or vocab, vocab))
    logps = jax.nn.log_softmax(scaled, -1)
    if nucleus < 1:
        before = jnp.cumsum(jnp.exp(logps), -1) - jnp.exp(logps)
        keep = (before < nucleus - TIE).at[..., 0].set(True)
        logps = jax.nn.log_softmax(jnp.where(keep, logps, -jnp.inf), -1)
    return logps, ids


def draw(
    logits: Array, keys: Array, step: Array | int, sampling: Sampling
) -> tuple[Array, Array]:
    """One token per row and its log-probability, [N] each, from logits [N V].

    Row n uses its own key folded with the step, whatever the other rows do.
    """
    logps, ids = candidates(logits, sampling)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    slot = jax.vmap(jax.random.categorical)(keys, logps)[:, None]
    pick = partial(jnp.take_along_axis, indices=slot, axis=-1)
    return pick(ids)[:, 0], pick(logps)[:, 0]


def sample(
    policy: Policy,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    key: Array,
    sampling: Sampling,
    *,
    group: int = 1,
    stop_tokens: tuple[int, ...] = (),
    pad_token: int = 0,
) -> Samples:
    """`group` responses to each prompt [P L], up to sampling.max_tokens tokens each.

    A row ends with the first of `stop_tokens`, which belongs to the response. Each
    prompt is read once; its cache is repeated over the group. Decoding stops early
    when every row has ended. Row p*G+g draws from fold_in(key, p*G+g), then from
    fold_in(that, t): pass a new key for every call. Jittable; shapes come from
    `sampling`, `group` and `stop_tokens`. Every row needs at least one prompt token.

    Raises ValueError for shapes that do not fit and a group below 1.
    """
    check(prompt, prompt_mask, group)
    rows, length = prompt.shape[0] * group, sampling.max_tokens
    slots = prompt.shape[1] + length
    logits, cache = policy.prefill(params, prompt, prompt_mask, slots)
    logits, cache = jnp.repeat(logits, group, axis=0), repeat_cache(cache, group)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
    stops = jnp.asarray(stop_tokens, jnp.int32)

    def unfinished(state):
        step, *_, ended = state
        return (step < length) & ~jnp.all(ended)

    def advance(state):
        """Draws column `step` of every row that has not ended, and reads it."""
        step, cache, logits, tokens, mask, logps, ended = state
        token, logp = draw(logits, keys, step, sampling)
        token = jnp.where(ended, pad_token, token).astype(jnp.int32)
        tokens = tokens.at[:, step].set(token)
        mask = mask.at[:, step].set(~ended)
        logps = logps.at[:, step].set(jnp.where(ended, 0.0, logp))
        ended = ended | jnp.isin(token, stops)
        logits, cache = policy.decode(params, cache, token)
        return step + 1, cache, logits, tokens, mask, logps, ended

    empty = (
        jnp.full((rows, length), pad_token, jnp.int32),
        jnp.zeros((rows, length), bool),
        jnp.zeros((rows, length), logits.dtype),
        jnp.zeros(rows, bool),
    )
    # One copy of the step, in the loop: drawing the first token before it as well
    # doubles the compilation, and sent LLVM's vectoriser into minutes of work.
    state = 0, cache, logits, *empty
    tokens, mask, logps, ended = jax.lax.while_loop(unfinished, advance, state)[3:]

    shape = prompt.shape[0], group
    outputs = tokens, mask, logps, ended
    return Samples(*(x.reshape(*shape, *x.shape[1:]) for x in outputs))


def check(prompt: Array, prompt_mask: Array, group: int) -> None:
    """Raises ValueError, in one line, for arguments of `sample` that do not fit."""
    if prompt.ndim != 2 or prompt.shape[1] == 0 or prompt.shape != prompt_mask.shape:
        raise ValueError(
            f"sample: prompt {prompt.shape} and prompt_mask {prompt_mask.shape} must "
            "be equal [prompts, columns] with at least one column"
        )
    if group < 1:
        raise ValueError(f"sample: group is {group}; give an integer >= 1")
