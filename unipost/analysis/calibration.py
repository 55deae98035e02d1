"""Whether a model's confidence says how often it is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Bin(NamedTuple):
    """Responses with a confidence in (low, high]; means are NaN where none is."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def confidences(logps: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """exp(mean_t log p(y_t | s_t)) [...] of responses [... T], in 0 ... 1.

    What f-DPO's released code (2309.16240) takes as a response's confidence: the
    geometric mean of its token probabilities. NaN for a response without tokens.
    """
    kept = np.asarray(mask).astype(bool)
    count = kept.sum(-1)
    total = np.where(kept, np.asarray(logps, float), 0.0).sum(-1)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return np.exp(mean)


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> list[Bin]:
    """Confidence and accuracy in `bins` equal bins of 0 ... 1, the first with its 0.

    confidence, correct [N]. Raises ValueError for confidences outside 0 ... 1, lengths
    that differ and nothing to bin.
    """
    conf, right = np.asarray(confidence, float), np.asarray(correct, float)
    if (
        conf.shape != right.shape
        or not conf.size
        or not ((conf >= 0) & (conf <= 1)).all()
    ):
        raise ValueError(
            f"reliability: confidences {conf.shape} for {right.shape} responses; give "
            "one number in 0 ... 1 for each"
        )
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, conf, "left") - 1, 0, bins - 1)
    table = []
    for i in range(bins):
        own = place == i
        some = bool(own.any())
        means = [float(x[own].mean()) if some else np.nan for x in (conf, right)]
        table.append(Bin(float(edges[i]), float(edges[i + 1]), int(own.sum()), *means))
    return table


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: sum_b n_b / N |accuracy_b - confidence_b|.

    Source: 1706.04599. Of few responses per bin it is too large: chance alone moves
    accuracy_b.
    """
    table = [b for b in reliability(confidence, correct, bins) if b.count]
    total = sum(b.count for b in table)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in table) / total


def brier(confidence: ArrayLike, correct: ArrayLike) -> float:
    """mean (confidence - correct)^2 over responses: 0 is best, 0.25 is a coin."""
    conf, right = np.asarray(confidence, float), np.asarray(correct, float)
    if conf.shape != right.shape or not conf.size:
        raise ValueError(f"brier: {conf.shape} confidences for {right.shape} responses")
    return float(((conf - right) ** 2).mean())
