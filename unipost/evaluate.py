"""Numbers that evaluations report of several samples: pass@k and the majority vote."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> np.ndarray:
    """Unbiased pass@k from c correct of n samples, elementwise; never past n.

    1 - C(n-c, k)/C(n, k) = 1 - prod_{j<k} (n-c-j)/(n-j), zero factors included, so no
    factorial overflows. Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    n, c = np.broadcast_arrays(np.asarray(n, float), np.asarray(c, float))
    if k < 1 or (n < k).any():
        fewest = n.min(initial=np.inf)
        raise ValueError(f"pass_at_k: k = {k} needs 1 <= k <= n, fewest n = {fewest:g}")
    if not ((c >= 0) & (c <= n)).all():
        raise ValueError("pass_at_k: the number correct c must lie in 0 <= c <= n")
    missed = np.ones(n.shape)
    for j in range(k):
        missed = missed * np.maximum(n - c - j, 0.0) / (n - j)
    return 1.0 - missed


def majority_vote(answers: Sequence[Any]) -> Any:
    """The most frequent answer, the first seen of equals; None (no answer) is no vote.

    None where nobody votes.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None
