"""Log-probabilities of given responses under a policy.

Letters: N rows, L prompt columns (left-padded), T response columns (right-padded),
V vocabulary.
"""

from collections.abc import Collection

import jax.numpy as jnp

from unipost.head import EXTRAS as EXTRAS
from unipost.head import Scores as Scores
from unipost.head import check_reading, scores_of
from unipost.policy import Array, Params, Policy


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
    only, `chunk` columns at a time; None chooses from the shapes a size that bounds
    memory (`unipost.head.chunk_columns`). Chunks are recomputed in the backward pass
    and change no number. Masked tokens may hold any id; they get 0 and pass no
    gradient. Forward mode and second derivatives work too.

    `extras` names further fields of Scores to fill, out of EXTRAS. Raises ValueError
    for other names, shapes that do not fit, and a chunk below 1.
    """
    check_reading("score", extras, chunk)
    check_shapes(prompt, prompt_mask, response, response_mask)
    rows = prompt, prompt_mask.astype(bool), response, response_mask.astype(bool)
    hidden = response_hidden(policy, params, *rows)
    return scores_of(policy.reader(params), hidden, *rows[2:], extras, chunk)


def response_hidden(
    policy: Policy,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    response: Array,
    response_mask: Array,
) -> Array:
    """Hidden states [N T D] that predict each response token; masks are boolean."""
    response = jnp.where(response_mask, response, 0)
    # The last response token predicts nothing that is scored.
    tokens = jnp.concatenate([prompt, response[:, :-1]], 1)
    mask = jnp.concatenate([prompt_mask, response_mask[:, :-1]], 1)
    return policy.hidden(params, tokens, mask)[:, prompt.shape[1] - 1 :]


def check_shapes(
    prompt: Array, prompt_mask: Array, response: Array, response_mask: Array
) -> None:
    """Raises ValueError, in one line, for arrays of `score` that do not fit."""
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
