"""Rows tokenised to arrays, in an order that needs no state.

Everything a run needs of its data files: rows from `unipost.rows`, their hash from
`unipost.formats`, tokens and batches from here.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from unipost.formats import DataError as DataError
from unipost.formats import data_hash as data_hash
from unipost.formats import summary
from unipost.rows import Demonstration as Demonstration
from unipost.rows import Labelled as Labelled
from unipost.rows import Preference as Preference
from unipost.rows import Question as Question
from unipost.rows import Row as Row
from unipost.rows import Rows as Rows
from unipost.rows import read_rows as read_rows
from unipost.tokenizer import Tokenizer


class Tokens(NamedTuple):
    """Rows as arrays: tokens int32, masks bool, True on real tokens.

    `index` [N] is the row that each line came from; `dropped` lists what did not fit.
    """

    prompt: np.ndarray  # [N, L], left-padded
    prompt_mask: np.ndarray  # [N, L]
    response: np.ndarray  # [N, T], right-padded, with the end token
    response_mask: np.ndarray  # [N, T]
    index: np.ndarray  # [N]
    dropped: list[str]


def encode_rows(
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    prompt_length: int,
    response_length: int,
    too_long: Literal["raise", "drop", "truncate"] = "raise",
) -> Tokens:
    """Tokenise rows: a response is one line, a Preference two (chosen, rejected).

    A Question is one line with an empty response. The end token is part of a response.
    Rows that do not fit raise DataError, are dropped with a warning (a Preference as a
    whole), or are cut: a prompt keeps its end, a response its beginning.
    """
    pairs, index, long = [], [], []
    for number, row in enumerate(rows):
        place = row.place or f"row {number + 1}"
        prompt = _encode(tokenizer, row.prompt, place)
        responses = [
            _with_end(tokenizer, _encode(tokenizer, text, place))
            if text is not None
            else []
            for text in _responses(row)
        ]
        length = max(map(len, responses))
        problem = _too_long(len(prompt), prompt_length, length, response_length)
        if problem:
            long.append(f"{place}: {problem}")
        if not problem or too_long == "truncate":
            pairs += [(prompt, response) for response in responses]
            index += [number] * len(responses)
    if long and (too_long == "raise" or not pairs):
        raise DataError(summary(long, len(rows)))
    if long:
        done = "dropped" if too_long == "drop" else "cut"
        warnings.warn(f"{done} {summary(long, len(rows))}", stacklevel=2)
    pad = tokenizer.pad_token
    prompt, prompt_mask = _pad_left([p for p, _ in pairs], prompt_length, pad)
    response, response_mask = _pad_right([r for _, r in pairs], response_length, pad)
    dropped = long if too_long == "drop" else []
    lines = np.asarray(index, np.int64)
    return Tokens(prompt, prompt_mask, response, response_mask, lines, dropped)


def _responses(row: Row) -> tuple[str | None, ...]:
    if isinstance(row, Preference):
        return row.chosen, row.rejected
    if isinstance(row, Demonstration | Labelled):
        return (row.response,)
    return (None,)


def _encode(tokenizer: Tokenizer, text: str, place: str) -> list[int]:
    try:
        ids = list(tokenizer.encode(text))
    except (ValueError, KeyError) as error:
        raise DataError(f"{place}: cannot be encoded: {error}") from error
    if not ids:
        raise DataError(f"{place}: {text!r} encodes to no tokens")
    return ids


def _with_end(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    return ids if ids[-1] == tokenizer.eos_token else [*ids, tokenizer.eos_token]


def _too_long(prompt: int, prompt_length: int, response: int, length: int) -> str:
    if prompt > prompt_length:
        return f"the prompt has {prompt} tokens, prompt_length is {prompt_length}"
    if response > length:
        return (
            f"the response has {response} tokens with the end token, "
            f"response_length is {length}"
        )
    return ""


def _pad_left(
    rows: list[list[int]], length: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    tokens, mask = _pad_right([row[::-1] for row in rows], length, pad)
    return tokens[:, ::-1].copy(), mask[:, ::-1].copy()


def _pad_right(
    rows: list[list[int]], length: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        kept = row[:length]
        tokens[i, : len(kept)] = kept
        mask[i, : len(kept)] = True
    return tokens, mask


def batch_indices(seed: int, step: int, batch: int, size: int) -> np.ndarray:
    """The rows [batch] of one step: a pure function, so resuming needs no state.

    Steps walk through one permutation of range(size) per epoch, drawn from (seed,
    epoch), across batch boundaries: every row comes exactly once per epoch.
    """
    if min(batch, size) < 1 or min(seed, step) < 0:
        given = f"seed={seed}, step={step}, batch={batch}, size={size}"
        raise ValueError(f"batch_indices: {given}; batch and size start at 1, others 0")
    position = step * batch + np.arange(batch)
    epochs = position // size
    rows = [_permutation(seed, int(epoch), size) for epoch in np.unique(epochs)]
    return np.concatenate(rows)[position - epochs[0] * size]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    # Sorting raw bits: NumPy keeps those fixed for ever, but not Generator.permutation.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(size)
    return np.argsort(bits, kind="stable")
