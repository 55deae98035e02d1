"""Scores of texts by a model with a scalar head, for rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from unipost.hf.files import read_json
from unipost.model import Compute
from unipost.scalar.loading import ScalarModel, read_scalar

Text = tuple[list[int], list[int]]
"""Token ids, and the places at which scores are read."""
Reader = Callable[[Sequence[Text]], list[np.ndarray | None]]
NARROWEST = 16
"""Fewest columns of a batch: shorter texts are filled up."""


def opened(
    folder: str, dtype: Literal["float32", "bfloat16"], labels: int, where: str
) -> ScalarModel:
    """The model of a classification checkpoint. ValueError for another head."""
    model = read_scalar(folder, Compute(dtype=dtype))
    if model.labels != labels:
        raise ValueError(
            f"{where}.path: the head of {folder} has {model.labels} labels; write a "
            f"model with {labels}"
        )
    return model


def pad_of(folder: str) -> int | None:
    """The token at which transformers does not look when it pools scores."""
    return read_json(Path(folder) / "config.json").get("pad_token_id")


def reader(model: ScalarModel, rows: int) -> Reader:
    """A function that gives the scores [places K] of texts, None for one too long.

    Texts of like lengths are computed together, `rows` at once, in columns of a power
    of two: few shapes occur, so few programs are compiled.
    """
    if model.config is None:
        raise ValueError("reader: a model of one's own states no number of positions")
    limit, scores_of = (
        model.config.max_position_embeddings,
        jax.jit(model.policy.logits),
    )

    def read(texts: Sequence[Text]) -> list[np.ndarray | None]:
        found: list[np.ndarray | None] = [None] * len(texts)
        fit = [i for i, (ids, _) in enumerate(texts) if 0 < len(ids) <= limit]
        fit.sort(key=lambda i: len(texts[i][0]))
        for first in range(0, len(fit), rows):
            some = fit[first : first + rows]
            longest = len(texts[some[-1]][0])
            width = min(limit, max(NARROWEST, 1 << (longest - 1).bit_length()))
            tokens, mask = np.zeros((2, rows, width), np.int32)
            for row, i in enumerate(some):
                ids = texts[i][0]
                tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
            scores = np.asarray(scores_of(model.params, tokens, mask.astype(bool)))
            for row, i in enumerate(some):
                found[i] = scores[row, texts[i][1]]
        return found

    return read
