"""Two models at the states of given responses: the numbers of every token.

One pass over the rows gives what token shift, token KL and predictors of forgetting
read. p is the tuned model, q the base, s_t the state before token y_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.classical import ReverseKL
from unipost.head import by_columns, default_chunk
from unipost.penalties import exact_divergence
from unipost.policy import Array, Params, Policy
from unipost.processes import gathered
from unipost.scoring import response_hidden
from unipost.update import Rows


class Side(NamedTuple):
    """What one model says of every response token [P G T].

    logp     log p(y_t | s_t), nats
    logit    the logit of y_t at s_t
    rank     1 + the number of tokens that are more probable than y_t at s_t
    entropy  -sum_v p(v | s_t) log p(v | s_t), nats
    value    V(s_t) = logsumexp of the logits at s_t
    """

    logp: Any
    logit: Any
    rank: Any
    entropy: Any
    value: Any


class Compared(NamedTuple):
    """Two models at every response token [P G T], 0 where `mask` is False.

    reverse, forward  KL(p || q) and KL(q || p) at s_t over the whole vocabulary, nats
    variation         sum_v |p - q| / 2 at s_t, in 0 ... 1
    activation        L2 norm of the difference of the final hidden states at s_t; NaN
                      for models of different width
    """

    mask: Any
    base: Side
    tuned: Side
    reverse: Any
    forward: Any
    variation: Any
    activation: Any

    @property
    def log_ratio(self) -> np.ndarray:
        """log p(y_t | s_t) - log q(y_t | s_t) [P G T]."""
        return self.tuned.logp - self.base.logp

    def mean(self, values: np.ndarray) -> float:
        """Mean of [P G T] over all real tokens."""
        return float(values[self.mask].mean())

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """Mean over the tokens of every response [P G]; NaN for one without tokens."""
        count = self.mask.sum(-1)
        total = np.where(self.mask, values, 0.0).sum(-1)
        blank = np.full(count.shape, np.nan)
        return np.divide(total, count, out=blank, where=count > 0)


def compare(
    policy: Policy,
    base_params: Params,
    params: Params,
    rows: Rows,
    *,
    base_policy: Policy | None = None,
    block: int = 64,
) -> Compared:
    """`Compared` of `params` (tuned, p) and `base_params` (q) along rows [P G ...].

    base_policy  the base's own functions where it is another architecture; its
                 vocabulary must be as large
    block        prompts that go through the models at once

    Logits are formed in chunks of columns: no [P G T V] for a large vocabulary. Raises
    ValueError for rows without a token and for vocabularies of different size.
    """
    if not np.asarray(rows.response_mask).any():
        raise ValueError("compare: the rows hold no response token; give responses")
    both = policy, base_policy or policy
    parts = [
        gathered(_compared(*both, params, base_params, part))
        for part in blocks(rows, block)
    ]
    count = len(rows.response)
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)


def blocks(rows: Rows, block: int) -> Iterator[Rows]:
    """Rows of `block` prompts, the last ones filled up with the first: one program."""
    count = len(rows.response)
    block = min(block, count)
    for start in range(0, count, block):
        place = np.arange(start, start + block)
        place = np.where(place < count, place, 0)
        yield Rows(*(jnp.asarray(x)[place] for x in rows[:4]), packed=None)


@partial(jax.jit, static_argnums=(0, 1))
def _compared(
    policy: Policy, base_policy: Policy, params: Params, base: Params, rows: Rows
) -> Compared:
    shape = rows.response.shape
    prompt, prompt_mask, tokens, mask = (x.reshape(-1, x.shape[-1]) for x in rows[:4])
    mask = mask.astype(bool)
    flat = prompt, prompt_mask.astype(bool), tokens, mask
    hidden = response_hidden(policy, params, *flat)
    other = response_hidden(base_policy, base, *flat)
    heads = partial(policy.head, params), partial(base_policy.head, base)
    _check_vocabulary(heads, hidden, other)
    # two heads at once
    chunk = max(1, default_chunk(heads[0], hidden, ()) // 2)

    def piece(hidden: Array, other: Array, tokens: Array) -> Compared:
        tuned, new = _side(heads[0](hidden), tokens)
        before, old = _side(heads[1](other), tokens)
        return Compared(
            mask=tokens,  # replaced below: what is masked is known there
            base=before,
            tuned=tuned,
            reverse=exact_divergence(ReverseKL(), new, old),
            forward=exact_divergence(ReverseKL(), old, new),
            variation=0.5 * jnp.abs(jnp.exp(new) - jnp.exp(old)).sum(-1),
            activation=_distance(hidden, other),
        )

    tokens = jnp.where(mask, tokens, 0)
    found = by_columns(piece, chunk, hidden, other, tokens)
    found = jax.tree.map(lambda x: jnp.where(mask, x, 0).reshape(shape), found)
    return found._replace(mask=mask.reshape(shape))


def _side(logits: Array, tokens: Array) -> tuple[Side, Array]:
    """What a model says of `tokens` [N T], and its log-probs [N T V]."""
    value = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, tokens[..., None], -1)
    logps = logits - value[..., None]
    depth = jnp.where(logps > -jnp.inf, logps, 0.0)
    side = Side(
        logp=chosen[..., 0] - value,
        logit=chosen[..., 0],
        rank=1 + (logits > chosen).sum(-1),
        entropy=-(jnp.exp(logps) * depth).sum(-1),
        value=value,
    )
    return side, logps


def _distance(one: Array, other: Array) -> Array:
    """L2 norm of the difference of hidden states [N T D]; NaN for two widths."""
    if one.shape != other.shape:
        return jnp.full(one.shape[:-1], jnp.nan)
    return jnp.sqrt(((one - other) ** 2).sum(-1))


def _check_vocabulary(heads, hidden: Array, other: Array) -> None:
    pairs = zip(heads, (hidden, other), strict=True)
    sizes = [jax.eval_shape(head, x).shape[-1] for head, x in pairs]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"compare: the tuned model's vocabulary has {sizes[0]} entries, the base's "
            f"{sizes[1]}; give models with the same tokens"
        )
