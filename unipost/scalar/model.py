"""Models with a scalar head: the hidden states of a language model times a matrix.

Parameters are {"trunk": those of the language model, "score": {"kernel": [D L]}} with L
labels, and a "bias" [L] in the layout of token classification. Results are float32 or
wider. Letters: N rows, L prompt columns (left-padded), T response columns, R packed
rows, D hidden size, K labels.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from unipost.packed import Packed, block_hidden
from unipost.parts import part
from unipost.placement import beside
from unipost.policy import Array, Params, Policy, widen
from unipost.scoring import check_shapes, response_hidden

if TYPE_CHECKING:
    from collections.abc import Collection

    from unipost.update import Rows

STREAMS = ("state_values", "scores")
"""What an objective writes into `needs` to read a stream of a scalar head."""


@part
class ScalarStreams:
    """What a scalar head says of the responses, 0 outside them.

    values  [P, G, T]     V(s_t), before token t: where log pi(y_t | s_t) is read
    scores  [P, G, T, K]  after token t, from the hidden state that has read it
    """

    values: Array | None = None
    scores: Array | None = None


@cache
def scalar_policy(trunk: Policy) -> Policy:
    """A Policy whose head gives K scores [... K] in place of logits.

    Its parameters are those of the module. It writes no text: prefill and decode raise
    ValueError. The same object for the same trunk, so that programs are compiled once.
    """

    def hidden(params: Params, tokens: Array, segments: Array) -> Array:
        return trunk.hidden(params["trunk"], tokens, segments)

    def head(params: Params, hidden: Array) -> Array:
        score, hidden = params["score"], widen(hidden)
        kernel = score["kernel"].astype(hidden.dtype)
        out = jnp.matmul(hidden, kernel, precision="highest")
        return out + score["bias"].astype(out.dtype) if "bias" in score else out

    def reads(params: Params) -> Params:
        return {"score": params["score"]}

    return Policy(hidden, head, _writes_nothing, _writes_nothing, reads)


def _writes_nothing(*_: Any) -> Any:
    raise ValueError(
        "a model with a scalar head writes no text; write data that are read from a "
        "file, or start from a language model"
    )


def with_head(trunk: Policy, params: Params, labels: int, biased: Collection[str] = ()):
    """{"trunk", "score"} with a new head of zeros: every score starts at 0.

    `biased` is ("bias",) in the layout of token classification. A head of zeros needs
    no seed, and a critic that says 0 everywhere leaves the reward as the advantage.
    """
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    size = jax.eval_shape(trunk.hidden, params, token, mask).shape[-1]
    head = {"kernel": jnp.zeros((size, labels), jnp.float32)}
    head |= {name: jnp.zeros(labels, jnp.float32) for name in biased}
    return {"trunk": params, "score": beside(head, params)}


def scores_before(
    policy: Policy,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    response: Array,
    response_mask: Array,
) -> Array:
    """Scores [N T K] at s_t, the state in which token t is chosen; 0 where masked.

    prompt, prompt_mask [N L]; response, response_mask [N T]: what `unipost.scoring`
    takes. Raises ValueError for shapes that do not fit.
    """
    check_shapes(prompt, prompt_mask, response, response_mask)
    rows = prompt, prompt_mask.astype(bool), response, response_mask.astype(bool)
    hidden = response_hidden(policy, params, *rows)
    return jnp.where(rows[3][..., None], policy.head(params, hidden), 0.0)


def scores_after(
    policy: Policy,
    params: Params,
    prompt: Array,
    prompt_mask: Array,
    response: Array,
    response_mask: Array,
) -> Array:
    """Scores [N T K] of the text up to and with token t; 0 where masked.

    The arguments of `scores_before`. That of the last token is what transformers'
    sequence classification gives of the whole text.
    """
    check_shapes(prompt, prompt_mask, response, response_mask)
    mask = response_mask.astype(bool)
    tokens = jnp.concatenate([prompt, jnp.where(mask, response, 0)], 1)
    whole = jnp.concatenate([prompt_mask.astype(bool), mask], 1)
    hidden = policy.hidden(params, tokens, whole)[:, prompt.shape[1] :]
    return jnp.where(mask[..., None], policy.head(params, hidden), 0.0)


def packed_before(
    policy: Policy, params: Params, packed: Packed, shape: tuple[int, int]
) -> Array:
    """`scores_before` of packed rows: [N T K] with (N, T) = `shape`."""
    hidden = policy.hidden(params, packed.tokens, packed.segments)
    nowhere = math.prod(shape)
    found = policy.head(params, block_hidden(hidden, packed))
    found = found.reshape(packed.places.size, -1)
    empty = jnp.zeros((nowhere, found.shape[-1]), found.dtype)
    placed = empty.at[packed.places.reshape(-1)].set(found, mode="drop")
    return placed.reshape(*shape, -1)


def scalar_streams(
    needs: Collection[str], policy: Policy, params: Params, rows: Rows
) -> ScalarStreams:
    """The streams of `needs` (STREAMS) of rows [P, G, ...], for `ScalarStreams`.

    Raises ValueError for scores of packed rows, which hold no last token, and for
    values of a head with several labels.
    """
    p, g, length = rows.response.shape
    flat = [x.reshape(p * g, x.shape[-1]) for x in rows[:4]]
    values = scores = None
    if "state_values" in needs:
        if rows.packed is None:
            values = scores_before(policy, params, *flat)
        else:
            one = jax.tree.map(lambda x: x[0], rows.packed)
            values = packed_before(policy, params, one, (p * g, length))
        if values.shape[-1] != 1:
            raise ValueError(
                f"critic: its head has {values.shape[-1]} labels; write a model with 1"
            )
        values = values.reshape(p, g, length)
    if "scores" in needs:
        if rows.packed is not None:
            raise ValueError(
                "packed_length: packed rows hold no last token, after which a reward "
                "model is read; write packed_length: null"
            )
        scores = scores_after(policy, params, *flat).reshape(p, g, length, -1)
    return ScalarStreams(values, scores)
