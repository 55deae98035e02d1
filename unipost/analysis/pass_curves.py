"""Curves over the number of samples k: pass@k, maj@k, where two of them cross.

2504.13837 finds that a model trained with RL is above its base at small k and below at
large k. Its gap Delta_SE = pass@K of the base - pass@1 of the tuned model is what
sampling efficiency leaves to be had. RL also lowers entropy, which alone bends the
curve: their control raises the tuned model's temperature until the entropies agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from unipost.evaluate import pass_at_k
from unipost.head import by_columns, default_chunk
from unipost.policy import Array, Params, Policy
from unipost.scoring import response_hidden
from unipost.update import Rows


def powers(n: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to n, and n itself."""
    return tuple(dict.fromkeys([*(2**i for i in range(n.bit_length())), n]))


def pass_curve(correct: ArrayLike, sizes: Sequence[int] | None = None) -> np.ndarray:
    """pass@k [I, K] of I items from correct [I, n], unbiased (`unipost.evaluate`).

    sizes  the K values of k, at most n; None: `powers` of n
    """
    correct = np.asarray(correct, bool)
    n = correct.shape[-1]
    counts = correct.sum(-1)
    return np.stack([pass_at_k(n, counts, k) for k in sizes or powers(n)], -1)


def maj_curve(
    answers: ArrayLike,
    correct: ArrayLike,
    sizes: Sequence[int] | None = None,
    trials: int = 400,
    seed: int = 0,
) -> np.ndarray:
    """maj@k [I, K]: how often the commonest of k answers is right, over random subsets.

    answers [I, n]  codes, -1 for none (`unipost.test_time.coded`)
    correct [I, n]  whether the response is right

    Ties go to the answer that was drawn first. maj@1 is the share of right samples, up
    to the error of `trials` draws; k = n is one subset. Raises ValueError for k > n.
    """
    # these import this package
    from unipost.test_time.curves import Drawn
    from unipost.test_time.curves import trials as drawn_trials
    from unipost.test_time.votes import majority

    answers, correct = np.asarray(answers), np.asarray(correct, bool)
    drawn = Drawn(answers, correct, {}, {})

    def choose(answers: np.ndarray, places: np.ndarray) -> np.ndarray:
        return majority(answers)

    ks = sizes or powers(answers.shape[-1])
    if max(ks) > answers.shape[-1]:
        raise ValueError(
            f"sizes: {max(ks)} of {answers.shape[-1]} answers; write up to the latter"
        )
    return np.stack(
        [drawn_trials(drawn, choose, k, trials, seed).mean(0) for k in ks], -1
    )


def delta_se(base_pass: ArrayLike, tuned_pass: ArrayLike) -> float:
    """Sampling-efficiency gap: the base's pass at the largest k - the tuned at k = 1.

    base_pass, tuned_pass  curves [K] or [I, K] with k growing, the first at k = 1.
    Source: 2504.13837, which takes k = 256 as the largest.
    """
    base, tuned = (np.asarray(x, float) for x in (base_pass, tuned_pass))
    return float(base[..., -1].mean() - tuned[..., 0].mean())


def crossing(
    sizes: Sequence[int], base_pass: ArrayLike, tuned_pass: ArrayLike
) -> float | None:
    """The k from which on the base's curve is above the tuned model's.

    Curves [K] or [I, K] at `sizes`. The difference is read as linear in log k between
    two sizes; the last change of sign counts. None where the tuned model is never
    below at the end; the first size where it is below throughout.
    """
    base, tuned = (np.asarray(x, float) for x in (base_pass, tuned_pass))
    ahead = np.asarray((tuned - base).reshape(-1, len(sizes)).mean(0))
    if ahead[-1] >= 0:
        return None
    above = np.flatnonzero(ahead >= 0)
    if not above.size:
        return float(sizes[0])
    i = above[-1]
    share = ahead[i] / (ahead[i] - ahead[i + 1])
    low, high = math.log(sizes[i]), math.log(sizes[i + 1])
    return math.exp(low + share * (high - low))


def matched_temperature(
    entropy: Callable[[float], float],
    target: float,
    low: float = 0.05,
    high: float = 5.0,
    tolerance: float = 1e-3,
) -> float:
    """The temperature at which `entropy`(temperature) is `target`, by bisection.

    `entropy` must grow with the temperature: `state_entropy` does, and so does, nearly
    always, the entropy of a model's own samples drawn with a fixed seed. Raises
    ValueError where the target is not met between `low` and `high`.
    """
    from scipy.optimize import bisect

    ends = entropy(low), entropy(high)
    if not ends[0] <= target <= ends[1]:
        raise ValueError(
            f"matched_temperature: the entropy is {ends[0]:.4g} at {low:g} and "
            f"{ends[1]:.4g} at {high:g}, the target is {target:.4g}; write other ends"
        )
    found: Any = bisect(lambda t: entropy(t) - target, low, high, xtol=tolerance)
    return float(found)


def state_entropy(
    policy: Policy, params: Params, rows: Rows
) -> Callable[[float], float]:
    """The mean token entropy of softmax(logits / T) at the states of `rows`, nats.

    A function of T > 0. The states are held fixed: along a model's own samples at T
    they change too.
    """

    def at(temperature: float) -> float:
        return float(_entropy(policy, params, rows, jnp.asarray(temperature)))

    return at


@partial(jax.jit, static_argnums=0)
def _entropy(policy: Policy, params: Params, rows: Rows, temperature: Array) -> Array:
    flat = [x.reshape(-1, x.shape[-1]) for x in rows[:4]]
    mask = flat[3].astype(bool)
    hidden = response_hidden(
        policy, params, flat[0], flat[1].astype(bool), flat[2], mask
    )
    head = partial(policy.head, params)

    def piece(hidden: Array) -> Array:
        logp = jax.nn.log_softmax(head(hidden) / temperature, -1)
        return -(jnp.exp(logp) * jnp.where(logp > -jnp.inf, logp, 0.0)).sum(-1)

    found = by_columns(piece, default_chunk(head, hidden, ()), hidden)
    return jnp.where(mask, found, 0.0).sum() / mask.sum()
