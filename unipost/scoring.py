"""Log-probabilities of given responses under a policy.

Letters: N rows, L prompt columns (left-padded), T response columns (right-padded),
V vocabulary.
"""

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unipost.policy import Array, Params, Policy

EXTRAS = ("entropy", "lse", "vocab", "collision")
# Above this many logits per pass (256 MiB in float32) they are formed in chunks.
LOGITS_AT_ONCE = 2**26


class Scores(NamedTuple):
    """What `score` returns; every field is 0 at masked response positions.

    logps [N T]: log pi(y_t | x, y_<t).
    entropy [N T]: -sum_v pi(v) log pi(v), in nats, at the same positions.
    lse [N T]: log sum_v exp(logit_v), the normaliser.
    vocab [N T V]: log pi(v) for the whole vocabulary.
    collision [N T]: log sum_v pi(v)^2, <= 0.
    """

    logps: Array
    entropy: Array | None = None
    lse: Array | None = None
    vocab: Array | None = None
    collision: Array | None = None


def score(
    policy: Policy,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    response: Array,
    response_mask: Array,
    *,
    extras: Collection[str] = (),
    chunk: int | None = None,
) -> Scores:
    """log pi(y_t | x, y_<t) = logit_{y_t} - log sum_v exp(logit_v), per token.

    prompt, prompt_mask [N L]; response, response_mask [N T]. The first response token
    is predicted from the last prompt position, so every row needs at least one prompt
    token (checked with the data, not here). Logits are formed for response positions
    only, `chunk` columns at a time; None chooses a size that bounds memory. Chunks are
    recomputed in the backward pass and change no number. Masked tokens may hold any
    id; they get 0 and pass no gradient.

    `extras` names further fields of Scores to fill, out of EXTRAS. Raises ValueError
    for other names, shapes that do not fit, and a chunk below 1.
    """
    check(prompt, prompt_mask, response, response_mask, extras, chunk)
    prompt_mask, response_mask = prompt_mask.astype(bool), response_mask.astype(bool)
    response = jnp.where(response_mask, response, 0)
    # The last response token predicts nothing that is scored.
    tokens = jnp.concatenate([prompt, response[:, :-1]], 1)
    mask = jnp.concatenate([prompt_mask, response_mask[:, :-1]], 1)
    hidden = policy.hidden(params, tokens, mask)[:, prompt.shape[1] - 1 :]

    def piece(hidden: Array, targets: Array, mask: Array) -> Scores:
        return read(policy.head(params, hidden), targets, mask, extras)

    rows, columns = response.shape
    if chunk is None:
        vocab = jax.eval_shape(policy.head, params, hidden).shape[-1]
        chunk = max(1, LOGITS_AT_ONCE // (rows * vocab))
    if chunk >= columns:
        return piece(hidden, response, response_mask)
    fill = -columns % chunk

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, fill)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(rows, -1, *x.shape[3:])[:, :columns]

    body = jax.checkpoint(lambda carry, inputs: (carry, piece(*inputs)))
    pieces = cut(hidden), cut(response), cut(response_mask)
    return jax.tree.map(join, jax.lax.scan(body, None, pieces)[1])


def read(logits: Array, targets: Array, mask: Array, extras: Collection[str]) -> Scores:
    """Scores of `targets` [N T] under logits [N T V], 0 where `mask` is False."""
    lse = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]

    def extra(name: str) -> Array:
        if name == "lse":
            return jnp.where(mask, lse, 0.0)
        vocab = logits - lse[..., None]
        if name == "vocab":
            return jnp.where(mask[..., None], vocab, 0.0)
        if name == "collision":
            # of log p, not of the logits: their size would cost digits
            return jnp.where(mask, jax.nn.logsumexp(2.0 * vocab, -1), 0.0)
        # p log p -> 0 as p -> 0, also where a model gives a token probability 0.
        finite = jnp.where(vocab > -jnp.inf, vocab, 0.0)
        return jnp.where(mask, -jnp.sum(jnp.exp(vocab) * finite, -1), 0.0)

    return Scores(jnp.where(mask, chosen - lse, 0.0), **{x: extra(x) for x in extras})


def check(
    prompt: Array,
    prompt_mask: Array,
    response: Array,
    response_mask: Array,
    extras: Collection[str],
    chunk: int | None,
) -> None:
    """Raises ValueError, in one line, for arguments of `score` that do not fit."""
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown or isinstance(extras, str):
        raise ValueError(
            f"score: extras {unknown or extras!r} not understood; give a tuple out of "
            f"{', '.join(EXTRAS)}"
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"score: chunk is {chunk}; give a column count >= 1 or None")
    for name, x, mask in (
        ("prompt", prompt, prompt_mask),
        ("response", response, response_mask),
    ):
        if x.ndim != 2 or x.shape[1] == 0 or x.shape != mask.shape:
            raise ValueError(
                f"score: {name} {x.shape} and its mask {mask.shape} must be equal "
                "[rows, columns] with at least one column"
            )
    if prompt.shape[0] != response.shape[0]:
        raise ValueError(
            f"score: {prompt.shape[0]} prompt rows but {response.shape[0]} response "
            "rows; repeat each prompt once per response"
        )
