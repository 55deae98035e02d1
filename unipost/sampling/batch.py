"""A batch of responses at once: every row takes as many steps as the longest.

Letters: P prompts, G responses each, N = P * G rows (row = p * G + g), L prompt
columns (left-padded), T response columns (right-padded), V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.mesh import BATCH, constrain
from unipost.policy import Array, Params, Policy, share_cache
from unipost.processes import gathered
from unipost.sampling.distribution import Sampling, draw
from unipost.sampling.protocol import (
    Completion,
    Engine,
    Request,
    check_requests,
    completing_token,
    given_tokens,
)
from unipost.tokenizer import Tokenizer


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
    ids: Array | None = None,
    given: Array | None = None,
) -> Samples:
    """`group` responses to each prompt [P L], up to sampling.max_tokens tokens each.

    A row ends with the first of `stop_tokens`, which belongs to the response. Each
    prompt is read once, and its keys and values are held once for its group. Decoding
    stops early when every row has ended. Row n draws from fold_in(key, ids[n]), then
    from fold_in(that, t); ids are 0 ... P*G-1 unless given, so pass a new key for every
    call. `given` [P T] holds tokens that take the place of drawn ones, -1 elsewhere;
    they end no row, and their log-prob is NaN. Jittable; shapes come from `sampling`,
    `group` and `stop_tokens`. Every row needs at least one prompt token.

    Raises ValueError for shapes that do not fit and a group below 1.
    """
    check(prompt, prompt_mask, group)
    rows, length = prompt.shape[0] * group, sampling.max_tokens
    # a row by itself is read faster from one piece
    columns = prompt.shape[1] + (length if group == 1 else 0)
    logits, cache = policy.prefill(params, prompt, prompt_mask, columns)
    if group > 1:
        logits, cache = jnp.repeat(logits, group, 0), share_cache(cache, group, length)
    keys = row_keys(key, jnp.arange(rows) if ids is None else ids)
    stops = jnp.asarray(stop_tokens, jnp.int32)
    forced = None if given is None else jnp.repeat(given, group, 0)

    def unfinished(state):
        step, *_, ended = state
        return (step < length) & ~jnp.all(ended)

    def advance(state):
        """Draws column `step` of every row that has not ended, and reads it."""
        step, cache, logits, tokens, mask, logps, ended = state
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        token, logp = draw(constrain(logits, BATCH, None), step_keys, sampling)
        token, logp, drawn = _or_given(forced, step, token, logp)
        token = jnp.where(ended, pad_token, token).astype(jnp.int32)
        tokens = tokens.at[:, step].set(token)
        mask = mask.at[:, step].set(~ended)
        logps = logps.at[:, step].set(jnp.where(ended, 0.0, logp))
        ended = ended | (jnp.isin(token, stops) & drawn)
        logits, cache = policy.decode(params, cache, token)
        return step + 1, cache, logits, tokens, mask, logps, ended

    # One copy of the step, in the loop: drawing the first token before it as well
    # doubles the compilation, and sent LLVM's vectoriser into minutes of work.
    state = 0, cache, logits, *_blank((rows, length), pad_token, logits.dtype)
    return _samples(jax.lax.while_loop(unfinished, advance, state)[3:], group)


def _samples(outputs: tuple[Array, ...], group: int) -> Samples:
    """Rows [P*G, ...] as groups; every process of a run reads all of them."""
    everywhere = (constrain(x, *(None,) * x.ndim) for x in outputs)
    return Samples(*(x.reshape(-1, group, *x.shape[1:]) for x in everywhere))


def _or_given(forced: Array | None, step, token: Array, logp: Array):
    """(token, log-prob, drawn) [N], what is given in place of what is drawn."""
    if forced is None:
        return token, logp, True
    drawn = forced[:, step] < 0
    token = jnp.where(drawn, token, forced[:, step])
    return token, jnp.where(drawn, logp, jnp.nan), drawn


def _blank(shape: tuple[int, int], pad_token: int, dtype):
    """Tokens, mask and logps [N T], and which rows have ended [N], before a draw."""
    tokens, mask = jnp.full(shape, pad_token, jnp.int32), jnp.zeros(shape, bool)
    return tokens, mask, jnp.zeros(shape, dtype), jnp.zeros(shape[0], bool)


compiled_sample = partial(
    jax.jit,
    static_argnames=("policy", "group", "stop_tokens", "pad_token"),
)(sample)
"""`sample` compiled; `sampling` is a pytree whose temperature may change."""


def row_keys(key: Array, ids: Array | np.ndarray) -> Array:
    """fold_in(key, id) of every row [N]; `key` is one for all, or an array of N."""
    several = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim > 0
    return jax.vmap(jax.random.fold_in, (0 if several else None, 0))(key, ids)


def check(prompt: Array, prompt_mask: Array, group: int) -> None:
    """Raises ValueError, in one line, for arguments of `sample` that do not fit."""
    if prompt.ndim != 2 or prompt.shape[1] == 0 or prompt.shape != prompt_mask.shape:
        raise ValueError(
            f"sample: prompt {prompt.shape} and prompt_mask {prompt_mask.shape} must "
            "be equal [prompts, columns] with at least one column"
        )
    if group < 1:
        raise ValueError(f"sample: group is {group}; give an integer >= 1")


def as_samples(
    completions: Sequence[Sequence[Completion]], length: int, pad_token: int
) -> Samples:
    """Completions of P requests, G each, as arrays [P G T] with T = `length`."""
    shape = len(completions), len(completions[0])
    drawn = [one for some in completions for one in some]
    tokens = np.full((len(drawn), length), pad_token, np.int32)
    logps = np.zeros((len(drawn), length), drawn[0].logps.dtype)
    counts = np.array([len(one.tokens) for one in drawn])
    for row, one in enumerate(drawn):
        tokens[row, : counts[row]], logps[row, : counts[row]] = one[:2]
    mask = np.arange(length) < counts[:, None]
    finished = np.array([one.finish == "stop" for one in drawn])
    whole = tokens, mask, logps, finished
    return Samples(*(jnp.asarray(x.reshape(*shape, *x.shape[1:])) for x in whole))


def left_padded(
    prompts: Sequence[Sequence[int]], columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask [P L] of prompts of up to L = `columns` tokens."""
    tokens = np.zeros((len(prompts), columns), np.int32)
    mask = np.zeros((len(prompts), columns), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, columns - len(prompt) :] = prompt
        mask[row, columns - len(prompt) :] = True
    return tokens, mask


@dataclass(frozen=True)
class BatchSampler:
    """`sample` on all requests at once: the fewest programs, and no host in between.

    Budgets and stop strings are met by cutting what was drawn. The requests of a call
    must agree in stop tokens and in their number of completions.
    """

    def open(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        sampling: Sampling,
        prompt_length: int,
    ) -> Engine:
        return BatchEngine(policy, tokenizer, sampling, prompt_length)


@dataclass(frozen=True)
class BatchEngine:
    """An opened `BatchSampler`."""

    policy: Policy
    tokenizer: Tokenizer
    sampling: Sampling
    prompt_length: int

    def __call__(self, params, requests, key):
        prompts, ids, given, options = self.arguments(requests)
        samples = compiled_sample(
            self.policy,
            params,
            *prompts,
            key,
            self.sampling,
            ids=ids,
            given=given,
            **options,
        )
        return self.completions(requests, *gathered(samples))

    def arguments(self, requests: Sequence[Request]):
        """((prompt, prompt_mask), ids, given, static arguments) of `sample`.

        Raises ValueError for requests that one call of it cannot meet.
        """
        check_requests(requests, self.sampling, self.prompt_length, self.tokenizer)
        kinds = {(len(r.ids), r.stop_tokens) for r in requests}
        if len(kinds) != 1:
            raise ValueError(
                "sampler.batch: the requests differ in stop tokens or in the number of "
                "completions; write sampler: continuous"
            )
        ((group, stops),) = kinds
        prompts = left_padded([r.prompt for r in requests], self.prompt_length)
        ids = np.array([i for r in requests for i in r.ids], np.int32)
        given = given_tokens(requests, self.sampling.max_tokens)
        pad = self.tokenizer.pad_token
        options = {"group": group, "stop_tokens": stops, "pad_token": pad}
        return prompts, ids, given, options

    def completions(self, requests: Sequence[Request], tokens, mask, logps, ended):
        """What was drawn, `Samples` on the host, as the requests ask for it."""
        lengths = mask.sum(-1)

        def completion(p: int, g: int) -> Completion:
            n = min(int(lengths[p, g]), requests[p].max_tokens)
            full = bool(ended[p, g]) and n == lengths[p, g]
            found = completing_token(
                self.tokenizer, tokens[p, g, :n].tolist(), requests[p].stop
            )
            n = n if found is None else found
            finish = "stop" if full or found is not None else "length"
            return Completion(tokens[p, g, :n], logps[p, g, :n], finish)

        shape = ended.shape
        return [[completion(p, g) for g in range(shape[1])] for p in range(shape[0])]
