"""Token rows into fixed-length packs, and ragged rows into padded arrays.

Packing and padding move tokens and have no loss, so they are no instance of the
objective. Orders and defaults are those of TRL's `pack_dataset` and collators.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np

Strategy = Literal["bfd", "bfd_split", "wrapped"]
Truncation = Literal["keep_start", "keep_end"]
IGNORED = -100
"""The label of a token that is not trained on, as in PyTorch's cross-entropy."""

T = TypeVar("T")


class Piece(NamedTuple):
    """Tokens [start, stop) of one row."""

    row: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


def pack(
    rows: Sequence[Sequence[int]], length: int, strategy: Strategy = "bfd"
) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of at most `length` tokens, and the lengths of the sequences in each.

    bfd        best-fit decreasing; what a row has beyond `length` is dropped
    bfd_split  a long row is first cut every `length` tokens, so nothing is lost
    wrapped    all rows concatenated and cut every `length` tokens

    A packed row needs a model whose positions and attention start anew with each
    sequence (`position_ids`). The exception is TRL's reading of a wrapped row as one
    sequence of len(row) tokens. TRL packs each 1000 rows alone, this all rows at once.
    Raises ValueError for a length below 1 and an unknown strategy.
    """
    plan = pack_plan([len(row) for row in rows], length, strategy)
    return gather(rows, plan), [[piece.size for piece in pack] for pack in plan]


def pack_plan(
    sizes: Sequence[int], length: int, strategy: Strategy = "bfd"
) -> list[list[Piece]]:
    """What `pack` puts into each pack, for rows of the given sizes.

    One plan serves every column of the rows: tokens, masks, labels. Empty rows are in
    no pack. Raises as `pack`.
    """
    if length < 1:
        raise ValueError(f"pack.length: {length} is below 1; write the row length")
    if strategy == "wrapped":
        return _wrapped(sizes, length)
    if strategy == "bfd_split":
        cut = [
            Piece(row, start, min(start + length, size))
            for row, size in enumerate(sizes)
            for start in range(0, size, length)
        ]
        return _best_fit(cut, length)
    if strategy == "bfd":
        kept = [Piece(row, 0, min(s, length)) for row, s in enumerate(sizes) if s]
        return _best_fit(kept, length)
    raise ValueError(
        f"pack.strategy: {strategy!r}; write one of {', '.join(get_args(Strategy))}"
    )


def gather(rows: Sequence[Sequence[T]], plan: Iterable[Iterable[Piece]]):
    """The packs of `rows` under a plan from `pack_plan`: a list of lists."""
    return [
        [token for row, start, stop in pack for token in rows[row][start:stop]]
        for pack in plan
    ]


def _best_fit(pieces: list[Piece], length: int) -> list[list[Piece]]:
    """Longest first, each into the fullest pack with room for it.

    Ties go to the earlier piece, and to the pack that came to its size first.
    """
    packs: list[list[Piece]] = []
    waiting: dict[int, deque[list[Piece]]] = {}  # free space -> packs that have it
    spaces: list[int] = []  # the keys of `waiting`, increasing
    for piece in sorted(pieces, key=lambda piece: -piece.size):
        place = bisect_left(spaces, piece.size)
        if place == len(spaces):
            space, pack = length, []
            packs.append(pack)
        else:
            space = spaces[place]
            pack = waiting[space].popleft()
            if not waiting[space]:
                del waiting[space], spaces[place]
        pack.append(piece)
        left = space - piece.size
        if left not in waiting:
            waiting[left] = deque()
            insort(spaces, left)
        waiting[left].append(pack)
    return packs


def _wrapped(sizes: Sequence[int], length: int) -> list[list[Piece]]:
    total = sum(sizes)
    packs: list[list[Piece]] = [[] for _ in range(0, total, length)]
    for row, end in enumerate(accumulate(sizes)):
        begin = end - sizes[row]
        cuts = range(begin - begin % length, end, length)
        for low in cuts:
            start, stop = max(low, begin), min(low + length, end)
            if start < stop:
                packs[low // length].append(Piece(row, start - begin, stop - begin))
    return packs


def position_ids(lengths: Iterable[int]) -> list[int]:
    """Positions inside a packed row: 0, 1, ... anew for each of its sequences."""
    return [position for length in lengths for position in range(length)]


@dataclass(frozen=True)
class Collated:
    """N rows right-padded to one width S, int32.

    input_ids        [N, S]
    attention_mask   [N, S]  1 at tokens, 0 at padding
    completion_mask  [N, S]  1 at tokens that are trained on
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    completion_mask: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """input_ids where completion_mask is 1, -100 elsewhere; not shifted. [N, S]"""
        return np.where(self.completion_mask > 0, self.input_ids, IGNORED)


def collate(
    rows: Sequence[Sequence[int]],
    completion_masks: Sequence[Sequence[int]] | None,
    max_length: int | None,
    pad_token_id: int,
    truncation: Truncation = "keep_start",
    pad_to_multiple_of: int | None = None,
) -> Collated:
    """Rows cut to `max_length` tokens (None: not cut) and right-padded.

    The width is that of the longest row, rounded up to `pad_to_multiple_of`.
    `completion_masks` None trains on every token. Raises ValueError for a mask that is
    not as long as its row, an unknown truncation, and lengths below 1.
    """
    masks = [[1] * len(row) for row in rows]
    if completion_masks is not None:
        _check_masks(rows, completion_masks)
        masks = completion_masks
    kept = _kept(max_length, truncation)
    multiple = 1 if pad_to_multiple_of is None else pad_to_multiple_of
    if multiple < 1:
        raise ValueError(f"collate.pad_to_multiple_of: {multiple}; write 1 or more")
    rows, masks = [row[kept] for row in rows], [mask[kept] for mask in masks]
    longest = max(map(len, rows), default=0)
    width = -(-longest // multiple) * multiple
    ones = [[1] * len(row) for row in rows]
    return Collated(
        _padded(rows, width, pad_token_id),
        _padded(ones, width, 0),
        _padded(masks, width, 0),
    )


def collate_preferences(
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    max_length: int | None,
    pad_token_id: int,
    truncation: Truncation = "keep_start",
    pad_to_multiple_of: int | None = None,
) -> Collated:
    """P pairs as 2P rows prompt + response: all chosen, then all rejected.

    Each row is cut on its own after joining, so a prompt of `max_length` tokens or more
    leaves nothing of its responses under keep_start. Otherwise as `collate`.
    """
    if not len(prompts) == len(chosen) == len(rejected):
        counts = f"{len(prompts)} prompts, {len(chosen)} chosen, {len(rejected)}"
        raise ValueError(
            f"collate_preferences: {counts} rejected; give as many of each"
        )
    pairs = [*zip(prompts, chosen, strict=True), *zip(prompts, rejected, strict=True)]
    return collate(
        [[*prompt, *response] for prompt, response in pairs],
        [[0] * len(prompt) + [1] * len(response) for prompt, response in pairs],
        max_length,
        pad_token_id,
        truncation,
        pad_to_multiple_of,
    )


def _kept(max_length: int | None, truncation: Truncation) -> slice:
    if max_length is not None and max_length < 1:
        raise ValueError(f"collate.max_length: {max_length}; write 1 or more, or None")
    if truncation not in get_args(Truncation):
        choices = " or ".join(get_args(Truncation))
        raise ValueError(f"collate.truncation: {truncation!r}; write {choices}")
    if max_length is None:
        return slice(None)
    return slice(max_length) if truncation == "keep_start" else slice(-max_length, None)


def _check_masks(rows, masks) -> None:
    sizes, given = [len(row) for row in rows], [len(mask) for mask in masks]
    if sizes != given:
        raise ValueError(
            f"collate.completion_masks: lengths {given}; the rows say {sizes}"
        )


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> np.ndarray:
    out = np.full((len(rows), width), value, np.int32)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out
