"""Numbers that evaluations report: pass@k, intervals, and verdicts on claims.

Intervals are 95%. A claim is judged by code from the interval of one paired difference;
nothing here looks at a p-value.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Verdict = Literal["supported", "not supported", "inconclusive"]

_CHUNK = 1_000_000  # resampled weights held at once; a chunk stays in cache


class Interval(NamedTuple):
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float


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


def wilson(
    successes: ArrayLike, n: ArrayLike, z: float = 1.959963984540054
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval (low, high) of a share successes/n; z = 1.96 is 95%.

    Centre (p + z^2/2n)/(1 + z^2/n); honest at 0 and n, where the normal one is empty.
    """
    s, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    if not ((n >= 1) & (s >= 0) & (s <= n)).all():
        raise ValueError("wilson: needs n >= 1 and 0 <= successes <= n")
    share, scale = s / n, 1.0 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Exact at the ends, where rounding would leave 1e-17.
    low = np.where(s == 0, 0.0, centre - half)
    return low, np.where(s == n, 1.0, centre + half)


def majority_vote(answers: Sequence[Any]) -> Any:
    """The most frequent answer, the first seen of equals; None (no answer) is no vote.

    None where nobody votes.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def bootstrap_mean(values: ArrayLike, n_boot: int = 10_000, seed: int = 0) -> Interval:
    """Mean of values [seeds, items] or [seeds], with its percentile interval.

    Hierarchical: every replicate draws seeds, then items, with replacement. The items
    are the same ones under every seed, so one draw of items serves all seeds of a
    replicate: their difficulty does not average out. With one seed the interval is
    conditional on that seed; of a single number it is (NaN, NaN). Deterministic in
    `seed`. Raises ValueError for values that are not finite.
    """
    table = np.asarray(values, float)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not table.size or n_boot < 1:
        shape = np.shape(values)
        raise ValueError(
            f"bootstrap_mean: needs [seeds, items] or [seeds], got {shape}"
        )
    bad = int((~np.isfinite(table)).sum())
    if bad:
        raise ValueError(f"bootstrap_mean: {bad} of {table.size} values not finite")
    mean = float(table.mean())
    if table.size == 1:
        return Interval(mean, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // table.shape[1])
    counts = [min(step, n_boot - start) for start in range(0, n_boot, step)]
    means = np.concatenate([_replicates(rng, table, count) for count in counts])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def paired_difference(
    a: ArrayLike, b: ArrayLike, n_boot: int = 10_000, seed: int = 0
) -> Interval:
    """bootstrap_mean of a - b: two arms on the same seeds and items, paired by place.

    Raises ValueError where the shapes differ.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: shapes {a.shape} and {b.shape} differ")
    return bootstrap_mean(a - b, n_boot, seed)


def verdict(low: float, high: float, threshold: float = 0.0) -> Verdict:
    """The verdict on the claim "the effect is above the threshold", from its interval.

    supported: the interval lies wholly above the threshold; not supported: wholly at
    or below it; inconclusive: anything else, an unknown (NaN) interval included.
    """
    if low > threshold:
        return "supported"
    return "not supported" if high <= threshold else "inconclusive"


def _replicates(rng: np.random.Generator, table: np.ndarray, count: int) -> np.ndarray:
    """`count` resampled means: sum_si w_s v_si w_i with multinomial weights w."""
    seeds, items = (_weights(rng, size, count) for size in table.shape)
    return np.einsum("bi,bi->b", seeds @ table, items) / table.size


def _weights(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """How often each of `size` things is drawn in `size` draws: [count, size]."""
    # Counting drawn indices is several times faster than rng.multinomial.
    draws = rng.integers(size, size=(count, size), dtype=np.int32)
    draws += size * np.arange(count, dtype=np.int32)[:, None]
    return np.bincount(draws.ravel(), minlength=count * size).reshape(count, size)
