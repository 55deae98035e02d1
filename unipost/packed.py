"""Scoring texts that share rows: padding costs nothing, and the streams are the same.

Letters: N texts of L prompt and T response columns, R packed rows of S slots, B blocks
of R / B rows with K scored tokens each, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from unipost.head import Scores, check_reading, scores_of
from unipost.mesh import BATCH, constrain
from unipost.packing import Piece, pack_plan
from unipost.policy import Array, Params, Policy


class Packed(NamedTuple):
    """R rows of S slots that hold the texts, and which of their tokens are scored.

    tokens   [R S]  prompt and response of a text without a gap, without the last
                    response token, which predicts nothing
    segments [R S]  1, 2, ... for the texts of a row, 0 for padding
    slots    [B K]  slot r S + s of a block that predicts a scored token
    targets  [B K]  that token
    places   [B K]  where its score goes: n T + t, or N T for nowhere (filling)

    The rows of a block stay on one device when R and B are split over devices alike.
    """

    tokens: Any
    segments: Any
    slots: Any
    targets: Any
    places: Any


class Text(NamedTuple):
    """One text: its tokens [size], and targets and places [scored] of its response."""

    tokens: np.ndarray
    targets: np.ndarray
    places: np.ndarray


def score_packed(
    policy: Policy,
    params: Params,
    packed: Packed,
    shape: tuple[int, ...],
    *,
    extras: Collection[str] = (),
    chunk: int | None = None,
) -> Scores:
    """`unipost.scoring.score` of packed rows: Scores with fields [N T], `shape`.

    The head sees the scored tokens only, `chunk` of each block at a time, so neither
    padding nor prompts cost any of it. The policy has to know texts apart by segment
    (`Policy.hidden`). Raises ValueError for unknown extras and a chunk below 1.
    """
    check_reading("score_packed", extras, chunk)
    hidden = policy.hidden(params, packed.tokens, packed.segments)
    hidden, nowhere = block_hidden(hidden, packed), math.prod(shape)
    head, mask = policy.reader(params), packed.places < nowhere
    scores = scores_of(head, hidden, packed.targets, mask, extras, chunk)
    places = packed.places.reshape(-1)

    def put(x: Array) -> Array:
        flat = x.reshape(-1, *x.shape[2:])
        empty = jnp.zeros((nowhere, *flat.shape[1:]), x.dtype)
        return empty.at[places].set(flat, mode="drop").reshape(*shape, *x.shape[2:])

    return jax.tree.map(put, scores)


def block_hidden(hidden: Array, packed: Packed) -> Array:
    """Hidden states [B K D] that predict the scored tokens, out of [R S D]."""
    hidden = hidden.reshape(packed.slots.shape[0], -1, hidden.shape[-1])
    # blocks lie on the devices of their rows
    hidden = constrain(hidden, BATCH, None, None)
    hidden = jnp.take_along_axis(hidden, packed.slots[..., None], 1, mode="clip")
    return constrain(hidden, BATCH, None, None)


def pack_rows(
    prompt: ArrayLike,
    prompt_mask: ArrayLike,
    response: ArrayLike,
    response_mask: ArrayLike,
    length: int,
    rows: int | None = None,
    multiple: int = 4,
    blocks: int = 1,
) -> Packed:
    """Texts [N L], [N T] laid into rows of `length` slots, best fit decreasing.

    `rows` is the number of rows; None: as many as needed, rounded up to a multiple of
    `multiple` and of `blocks`. K is a multiple of an eighth of a block's slots: few
    shapes occur, so few programs are compiled.
    `blocks` is the number of devices that rows are split over. Empty responses take no
    slot. Raises ValueError, in one line, for a text longer than `length`, a response
    without a prompt, and rows that do not suffice.
    """
    arrays = prompt, prompt_mask, response, response_mask
    stacked = pack_pieces(*arrays, length, 1, rows, multiple, blocks)
    return Packed(*(x[0] for x in stacked))


def pack_pieces(
    prompt: ArrayLike,
    prompt_mask: ArrayLike,
    response: ArrayLike,
    response_mask: ArrayLike,
    length: int,
    pieces: int,
    rows: int | None = None,
    multiple: int = 4,
    blocks: int = 1,
) -> Packed:
    """`pack_rows` of each of `pieces` consecutive parts of the texts, stacked.

    The fields have a leading axis [pieces], and places are inside the part: N is the
    number of texts in a part. Raises as `pack_rows`, and where N is no multiple.
    """
    arrays = [np.asarray(x) for x in (prompt, prompt_mask, response, response_mask)]
    count, columns = arrays[2].shape
    _check_counts(count, pieces, rows, blocks)
    size = count // pieces
    parts = []
    for start in range(0, count, size):
        texts = _texts(*(x[start : start + size] for x in arrays), first=start)
        _check_sizes(texts, length, start)
        plan = pack_plan([len(text.tokens) for text in texts], length)
        parts.append((texts, plan))
    most = max(len(plan) for _, plan in parts)
    step = math.lcm(multiple, blocks)
    rows = _rounded(most, step) if rows is None else rows
    if most > rows:
        raise ValueError(
            f"pack_rows.rows: {rows}; the texts need {most} rows of {length} slots"
        )
    # packs are dealt to the blocks in turn: like packs, so like numbers of tokens
    order = np.arange(rows).reshape(-1, blocks).T.reshape(-1)
    laid = [_lay(texts, plan, length, order, blocks) for texts, plan in parts]
    scored = max(len(block.places) for part in laid for block in part[1])
    # in eighths of a block's slots
    width = _rounded(scored, max(1, rows // blocks * length // 8))
    filled = [_fill(*part, width, size * columns) for part in laid]
    return Packed(*map(np.stack, zip(*filled, strict=True)))


def _texts(prompt, prompt_mask, response, response_mask, first: int) -> list[Text]:
    """One Text for every row of the arrays; that of an empty response is empty."""
    columns, texts = response.shape[1], []
    for row in range(len(response)):
        kept = np.flatnonzero(response_mask[row])
        start, answer = prompt[row][np.asarray(prompt_mask[row], bool)], response[row]
        if kept.size and not start.size:
            raise ValueError(
                f"pack_rows: text {first + row} has a response and no prompt token; "
                "give every prompt at least one"
            )
        tokens = np.concatenate([start, answer[kept[:-1]]]) if kept.size else kept
        texts.append(Text(tokens, answer[kept], row * columns + kept))
    return texts


def _lay(
    texts: Sequence[Text],
    plan: Sequence[Sequence[Piece]],
    length: int,
    order: np.ndarray,
    blocks: int,
) -> tuple[np.ndarray, list[Text]]:
    """Tokens and segments [2 R S], and of each block slots, targets and places."""
    grid = np.zeros((2, len(order), length), np.int32)
    scored: list[list[Text]] = [[] for _ in range(blocks)]
    per_block = len(order) // blocks
    for row, pack in enumerate(order):
        block, start = row // per_block, row % per_block * length
        used = 0
        for segment, piece in enumerate(plan[pack] if pack < len(plan) else (), 1):
            text, end = texts[piece.row], used + piece.size
            grid[0, row, used:end], grid[1, row, used:end] = text.tokens, segment
            slots = np.arange(end - len(text.places), end) + start
            scored[block].append(text._replace(tokens=slots))
            used = end
    empty = Text(*[np.zeros(0, np.int32)] * 3)
    joined = [Text(*map(np.concatenate, zip(empty, *x, strict=True))) for x in scored]
    return grid, joined


def _fill(grid: np.ndarray, blocks: Sequence[Text], width: int, nowhere: int) -> Packed:
    """The layout of one part, its blocks filled up to `width` scored tokens."""

    def column(name: str, value: int) -> np.ndarray:
        out = np.full((len(blocks), width), value, np.int32)
        for line, block in zip(out, blocks, strict=True):
            line[: len(block.places)] = getattr(block, name)
        return out

    tokens, segments = grid
    slots, targets = column("tokens", 0), column("targets", 0)
    return Packed(tokens, segments, slots, targets, column("places", nowhere))


def _rounded(count: int, step: int) -> int:
    """The smallest positive multiple of `step` that is at least `count`."""
    return max(1, -(-count // step)) * step


def _check_counts(count: int, pieces: int, rows: int | None, blocks: int) -> None:
    if pieces < 1 or count % pieces:
        raise ValueError(f"pack_rows.pieces: {pieces} does not divide {count} texts")
    if rows is not None and (rows < 1 or rows % blocks):
        raise ValueError(
            f"pack_rows.rows: {rows}; write a positive multiple of blocks ({blocks})"
        )


def _check_sizes(texts: Sequence[Text], length: int, first: int) -> None:
    for row, text in enumerate(texts, first):
        if len(text.tokens) > length:
            raise ValueError(
                f"pack_rows.length: {length}; text {row} needs {len(text.tokens)} slots"
            )
