"""Implicit rewards of tokens and steps, and logits as Q-functions.

With u_t = p(y_t | s_t) / q(y_t | s_t) of a tuned model p and its base q, a token's
implicit reward is beta f'(u_t), beta log u_t for reverse KL (2305.18290, 2309.16240).
Of one model, Q(s_t, y) = the logit of y and V(s_t) = logsumexp of the logits, so that
log p(y_t | s_t) = Q - V; with V behind the last token set to 0 (2507.00018):

    r_t = Q(s_t, y_t) - V(s_{t+1})      sum_t r_t = log p(y | x) + V(s_1)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from unipost.analysis.compare import Compared, Side
from unipost.classical import ReverseKL
from unipost.divergence import Divergence
from unipost.score import telescoped


class SoftQ(NamedTuple):
    """One model's logits as a Q-function at every token [P G T], 0 where masked.

    q       the logit of the token
    v       logsumexp of the logits at its state
    reward  Q(s_t, y_t) - V(s_{t+1}), V = 0 after the last token
    """

    q: np.ndarray
    v: np.ndarray
    reward: np.ndarray


class Steps(NamedTuple):
    """The steps of a response: (start, end) of the tokens of each, and a number."""

    spans: list[tuple[int, int]]
    rewards: np.ndarray


def implicit_rewards(
    compared: Compared, divergence: Divergence | None = None, beta: float = 1.0
) -> np.ndarray:
    """beta f'(u_t) [P G T] of every token, 0 where masked; None: reverse KL, log u.

    f'(1) is subtracted where it is not 0, so that a token that did not move has none.
    """
    f = ReverseKL() if divergence is None else divergence
    slopes = np.asarray(f.f_prime(jnp.asarray(compared.log_ratio)))
    slopes = slopes - float(f.f_prime(jnp.zeros(())))
    return np.where(compared.mask, beta * slopes, 0.0)


def soft_q(side: Side, mask: ArrayLike) -> SoftQ:
    """`SoftQ` of one model of a comparison."""
    kept = np.asarray(mask) > 0
    drops = np.asarray(telescoped(jnp.asarray(side.value), jnp.asarray(kept)))
    return SoftQ(
        q=np.where(kept, side.logit, 0.0),
        v=np.where(kept, side.value, 0.0),
        # V(s_{t+1}) = V(s_t) - (V(s_t) - V(s_{t+1}))
        reward=np.where(kept, side.logit - side.value + drops, 0.0),
    )


def telescoping_error(found: SoftQ, logps: ArrayLike, mask: ArrayLike) -> float:
    """max over responses of |sum_t [Q_t - V_t] - log p| and |sum_t r_t - V_1 - log p|.

    logps [P G T] from scoring, which forms no Q and no V. Of rounding size where the
    identities of the module hold.
    """
    kept = np.asarray(mask) > 0
    whole = np.where(kept, np.asarray(logps, float), 0.0).sum(-1)
    first = np.take_along_axis(found.v, kept.argmax(-1)[..., None], -1)[..., 0]
    plain = (found.q - found.v).sum(-1) - whole
    rewards = found.reward.sum(-1) - first - whole
    return float(max(np.abs(plain).max(), np.abs(rewards).max()))


def step_rewards(
    rewards: ArrayLike, pieces: Sequence[str], separator: str = "\n"
) -> Steps:
    """The implicit reward of every step of one response, the sum over its tokens.

    rewards [T]; pieces  the text that each of the T tokens adds. A step ends with the
    token in which the separator ends; what follows the last one is a step too. Raises
    ValueError for lengths that differ and an empty separator.
    """
    rewards = np.asarray(rewards, float)
    if len(rewards) != len(pieces) or not separator:
        raise ValueError(
            f"step_rewards: {len(rewards)} rewards, {len(pieces)} pieces, separator "
            f"{separator!r}; give one reward per piece and a text"
        )
    text, start, spans, looked = "", 0, [], 0
    for end, piece in enumerate(pieces, 1):
        text += piece
        if separator in text[looked:]:
            spans.append((start, end))
            start, looked = end, len(text)
    if start < len(pieces):
        spans.append((start, len(pieces)))
    sums = np.array([rewards[a:b].sum() for a, b in spans])
    return Steps(spans, sums)


def separation(scores: ArrayLike, correct: ArrayLike) -> float:
    """P(score of a right response > that of a wrong one), ties half: area under ROC.

    scores, correct [N]; 0.5 says nothing, NaN where all are right or all wrong.
    """
    from scipy.stats import rankdata

    scores, right = np.asarray(scores, float), np.asarray(correct, bool)
    n, m = int(right.sum()), int((~right).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(scores)[right].sum() - n * (n + 1) / 2) / (n * m))
