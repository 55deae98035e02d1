"""Rows tokenised to arrays, in an order that needs no state.

Everything a run needs of its data files: rows from `unipost.rows`, their hash from
`unipost.formats`, tokens and batches from here.
"""

from __future__ import annotations

import functools
import warnings
from array import array
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from unipost.chat import Rendered
from unipost.formats import DataError as DataError
from unipost.formats import data_hash as data_hash
from unipost.formats import summary
from unipost.rows import Demonstration as Demonstration
from unipost.rows import Labelled as Labelled
from unipost.rows import Preference as Preference
from unipost.rows import Question as Question
from unipost.rows import Row as Row
from unipost.rows import Rows as Rows
from unipost.rows import Text
from unipost.rows import read_rows as read_rows
from unipost.tokenizer import Tokenizer


class Tokens(NamedTuple):
    """Rows as arrays: tokens int32, masks bool, True on real tokens.

    `index` [N] is the row that each line came from; `dropped` lists what did not fit.
    `trained` is True on the response tokens that count in a loss; None: all real ones.
    """

    prompt: np.ndarray  # [N, L], left-padded
    prompt_mask: np.ndarray  # [N, L]
    response: np.ndarray  # [N, T], right-padded, with the end token
    response_mask: np.ndarray  # [N, T]
    index: np.ndarray  # [N]
    dropped: list[str]
    trained: np.ndarray | None = None  # [N, T]


def encode_rows(
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    prompt_length: int,
    response_length: int,
    too_long: Literal["raise", "drop", "truncate"] = "raise",
    budget: str = "response_length",
) -> Tokens:
    """Tokenise rows: a response is one line, a Preference two (chosen, rejected).

    A Question is one line with an empty response. The end token is part of a response.
    Prompt and response are tokenised apart, or were by the chat template: nothing is
    merged across their boundary. Rows that do not fit raise DataError, are dropped with
    a warning (a Preference as a whole), or are cut: a prompt keeps its end, a response
    its beginning; one with no token left to train on is dropped all the same.
    `budget` is what a message calls the response length.
    """
    lines: list[_Line] = []
    long, dropped = [], []
    for number, row in enumerate(rows):
        place = row.place or f"row {number + 1}"
        own = _lines(tokenizer, row, number, place)
        problem = _too_long(own, prompt_length, response_length, budget)
        cut = too_long == "truncate"
        if problem and cut and not all(x.learns(response_length) for x in own):
            problem, cut = "no token to train on is left of the cut response", False
        if problem:
            long.append(f"{place}: {problem}")
            dropped += [] if cut else long[-1:]
        if not problem or cut:
            lines += own
    if long and (too_long == "raise" or not lines):
        raise DataError(summary(long, len(rows)))
    if long:
        done = "dropped" if too_long == "drop" else "cut"
        warnings.warn(f"{done} {summary(long, len(rows))}", stacklevel=2)
    return _padded(lines, prompt_length, response_length, tokenizer.pad_token, dropped)


class _Line(NamedTuple):
    """Ids of one prompt and one response, which row they are of, what is trained on."""

    prompt: array[int]
    response: array[int]
    row: int
    trained: array[int] | None = None

    def learns(self, length: int) -> bool:
        return self.trained is None or any(self.trained[:length])


def _lines(tokenizer: Tokenizer, row: Row, number: int, place: str) -> list[_Line]:
    prompt, end = _prompt(tokenizer, row.prompt, place)
    lines = []
    for text in _responses(row):
        if text is None:
            lines.append(_Line(prompt, array("i"), number))
        elif isinstance(text, Rendered):
            lines.append(_Line(prompt, text.ids, number, text.trained))
        else:
            ids = _encode(tokenizer, text, place)
            ids += [] if ids[-1] in end else end
            lines.append(_Line(prompt, array("i", ids), number))
    return lines


def _prompt(tokenizer: Tokenizer, prompt: Text, place: str):
    """Ids of a prompt, and those that end a text in response to it."""
    if isinstance(prompt, Rendered):
        return prompt.ids, prompt.end or (tokenizer.eos_token,)
    ids = _encode(tokenizer, prompt, place)
    start = getattr(tokenizer, "start_tokens", ())
    if tuple(ids[: len(start)]) != start:  # it may be spelled out in the text
        ids = [*start, *ids]
    return array("i", ids), (tokenizer.eos_token,)


def _responses(row: Row) -> tuple[Text | None, ...]:
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


def _too_long(
    lines: list[_Line], prompt_length: int, response_length: int, budget: str
) -> str:
    prompt, response = len(lines[0].prompt), max(len(x.response) for x in lines)
    if prompt > prompt_length:
        return f"the prompt has {prompt} tokens, prompt_length is {prompt_length}"
    if response > response_length:
        return (
            f"the response has {response} tokens with the end token, "
            f"{budget} is {response_length}"
        )
    return ""


def _padded(
    lines: list[_Line], prompt_length: int, length: int, pad: int, dropped: list[str]
) -> Tokens:
    prompt, prompt_mask = _pad_left([x.prompt for x in lines], prompt_length, pad)
    response, mask = _pad_right([x.response for x in lines], length, pad)
    trained = None
    if any(x.trained is not None for x in lines):
        marks = [x.trained or array("b", [1] * len(x.response)) for x in lines]
        trained = _pad_right(marks, length, 0)[0] > 0
    index = np.asarray([x.row for x in lines], np.int64)
    return Tokens(prompt, prompt_mask, response, mask, index, dropped, trained)


def _pad_left(
    rows: Sequence[array[int]], length: int, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    tokens, mask = _pad_right([row[::-1] for row in rows], length, pad)
    return tokens[:, ::-1].copy(), mask[:, ::-1].copy()


def _pad_right(
    rows: Sequence[array[int]], length: int, pad: int
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
    return indices_at(seed, step * batch, batch, size)


def indices_at(seed: int, position: int, count: int, size: int) -> np.ndarray:
    """The rows [count] at `position` and after it of the walk of `batch_indices`."""
    positions = position + np.arange(count)
    epochs = positions // size
    rows = [_permutation(seed, int(epoch), size) for epoch in np.unique(epochs)]
    return np.concatenate(rows)[positions - epochs[0] * size]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    # Sorting raw bits: NumPy keeps those fixed for ever, but not Generator.permutation.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(size)
    return np.argsort(bits, kind="stable")
