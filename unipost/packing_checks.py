"""Texts that packed rows or the model cannot hold, refused before the first step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from unipost.model import ModelConfig
from unipost.rollouts import Rollouts
from unipost.runs import RunError
from unipost.sources import Fixed, Mixed, Mixture, Source, Stream


def check_budget(packed_length: int | None, data: Source) -> None:
    """Refuse rows shorter than the longest text that `data` may sample.

    A text takes prompt plus response, without the last token. Raises ValueError.
    """
    parts = data.parts if isinstance(data, Mixture) else (data,)
    for part in parts:
        if packed_length is None or not isinstance(part, Rollouts):
            continue
        need = part.prompt_length + part.sampling.max_tokens - 1
        if need > packed_length:
            raise ValueError(
                f"packed_length: {packed_length}; prompt_length and "
                f"sampling.max_tokens allow {need} tokens, write {need} or more"
            )


def check_packing(
    packed_length: int, data: Source, config: ModelConfig | None, stream: Stream
) -> None:
    """Refuse fixed texts longer than a packed row, or than the model's positions.

    Raises RunError that names the longest.
    """
    limit = None if config is None else config.max_position_embeddings
    for path, part in _fixed(data, stream):
        tokens = part.tokens
        sizes = tokens.prompt_mask.sum(-1) + tokens.response_mask.sum(-1) - 1
        worst = int(np.argmax(sizes))
        need, where = int(sizes[worst]), f"{path}: row {tokens.index[worst] + 1}"
        if need > packed_length:
            raise RunError(
                f"packed_length: {packed_length}; {where} needs {need} tokens, write "
                f"{need} or more"
            )
        if limit is not None and need > limit:
            raise RunError(
                f"{where} takes {need} positions and the model has {limit} "
                "(max_position_embeddings); write a smaller response_length and "
                "too_long: truncate or drop"
            )


def _fixed(data: Source, stream: Stream) -> Iterator[tuple[str, Fixed]]:
    """Streams of fixed rows, each with the file of its source."""
    if isinstance(stream, Mixed) and isinstance(data, Mixture):
        for source, part in zip(data.parts, stream.streams, strict=True):
            yield from _fixed(source, part)
    elif isinstance(stream, Fixed):
        yield data.path, stream
