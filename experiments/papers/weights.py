"""Diagnostics of demonstrations: what they are worth to a policy, token by token.

With p = pi(y_t | s_t) for the tokens of a demonstration of advantage 1, the gradient on
the logit of y_t is f'(p) p (1 - p): p (1 - p) for the plain ratio, and for LUFFY's
f(p) = p / (p + gamma) it is gamma p (1 - p) / (p + gamma)^2 (2504.14945, Eq 7 and 8).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from unipost.studies.diagnostics import Seen
from unipost.update import Rows, streams_of

RARE = 0.1
"""A token is rare for a policy that gives it no more than this probability."""


def plain(p: np.ndarray) -> np.ndarray:
    """p (1 - p): the weight of a demonstrated token of probability p, no shaping."""
    return p * (1 - p)


def shaped(p: np.ndarray, gamma: float = 0.1) -> np.ndarray:
    """gamma p (1 - p) / (p + gamma)^2: the weight under LUFFY's shaping."""
    return gamma * p * (1 - p) / (p + gamma) ** 2


def demonstrated(seen: Seen, task: str) -> np.ndarray:
    """Probabilities [tokens] of the task's demonstrations under the policy."""
    own = [jnp.asarray(x)[:, None] for x in seen.evaluator.tasks[task].tokens[:4]]
    parts: Any = own
    rows = Rows(*parts, packed=None)
    streams = streams_of(seen.evaluator.decoder.policy, seen.params, rows)
    return np.exp(np.asarray(streams.policy)[np.asarray(rows.response_mask)])


def plain_weight(seen: Seen, task: str = "rev") -> float:
    """Mean of p (1 - p) over the tokens of the task's demonstrations."""
    return float(plain(demonstrated(seen, task)).mean())


def shaped_weight(seen: Seen, task: str = "rev") -> float:
    """Mean of gamma p (1 - p) / (p + gamma)^2 there, gamma 0.1."""
    return float(shaped(demonstrated(seen, task)).mean())


def rare_tokens(seen: Seen, task: str = "rev") -> float:
    """Percent of the tokens there with p <= 0.1."""
    return float(100 * (demonstrated(seen, task) <= RARE).mean())
