"""Random draws of a step, each from (seed, purpose, numbers): never from a state.

Purposes keep the draws of one step apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

RESPONSES, SHUFFLE, ROUNDS, PREFIXES, ORDER, REJECTION = 1, 3, 5, 7, 9, 11


def key(seed: int, purpose: int, *numbers: int) -> jax.Array:
    """The key of a purpose and numbers such as the step."""
    made = jax.random.fold_in(jax.random.key(seed), purpose)
    for number in numbers:
        made = jax.random.fold_in(made, number)
    return made


def uniform(count: int, seed: int, purpose: int, *numbers: int) -> np.ndarray:
    """[count] numbers in (0, 1), the same on every machine and for ever.

    Of raw bits: NumPy keeps those fixed, but not what Generator makes of them.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, purpose, *numbers]))
    return ((bits.random_raw(count) >> np.uint64(12)) + 0.5) * 2.0**-52


def without_replacement(
    weights: np.ndarray, count: int, noise: np.ndarray, last: Iterable[int] = ()
) -> np.ndarray:
    """`count` of N items, each drawn with probability proportional to its weight.

    weights [N] >= 0; noise [N] in (0, 1). The items with the largest
    log w - log(-log noise) are taken; those of weight 0 and then those in `last` come
    after all others, and no item comes twice before all have come once.
    """
    with np.errstate(divide="ignore"):
        rank = np.log(weights) - np.log(-np.log(noise))
    order = np.argsort(-rank, kind="stable")
    late = np.isin(order, np.fromiter(last, np.int64))
    return np.resize(np.concatenate([order[~late], order[late]]), count)
