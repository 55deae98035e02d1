"""A completion as the page shows it: its text by tokens, its numbers, its badges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unipost.batch import Batch
from unipost.completions.examine import Examined
from unipost.completions.pieces import Piece, pieces
from unipost.tokenizer import Tokenizer
from unipost.update import Rows


@dataclass(frozen=True)
class Entry:
    """One completion.

    group      of the prompt it answers; those of one group share a prompt
    tokens     ids, and `pieces` what each adds to the text
    columns    numbers per token by the names of `Examined`, NaN where not known
    reward     NaN where unscored, None where the run has no rewards
    parts      rewards that it is made of, by name
    advantage  mean over its tokens, or None
    badges     of finished, truncated, unscored, off-policy, empty
    off_policy 1 for tokens that the policy did not sample
    staleness  updates between the sampler's parameters and those trained, or None
    """

    group: int
    prompt: str
    tokens: Sequence[int]
    pieces: Sequence[Piece]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    reward: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    advantage: float | None = None
    badges: tuple[str, ...] = ()
    off_policy: Sequence[bool] = ()
    staleness: float | None = None


def entries_of(
    rows: Rows,
    batch: Batch,
    numbers: Examined,
    tokenizer: Tokenizer,
    *,
    stops: Sequence[int],
    stop: Sequence[str] = (),
    components: Sequence[str] = (),
    staleness: float | None = None,
) -> list[Entry]:
    """The completions [P, G] of rows, with the numbers that `examine` gave of them.

    A completion is finished that ends with a token of `stops`, holds a string of
    `stop`, or is shorter than the budget. Rows without a token are left out where they
    have no reward either: they stand for nothing.
    """
    found = []
    shape = np.asarray(batch.mask).shape[:2]
    for p, g in np.ndindex(*shape):
        kept = np.asarray(rows.response_mask[p, g]) > 0
        reward = _reward(batch, p, g)
        if not kept.any() and (reward is None or math.isnan(reward)):
            continue
        tokens = np.asarray(rows.response[p, g])[kept].tolist()
        off = _off_policy(batch, p, g, kept)
        columns = {
            name: np.asarray(values)[p, g][kept]
            for name, values in numbers._asdict().items()
            if values is not None
        }
        advantage = columns.get("advantage")
        entry = Entry(
            group=p,
            prompt=_prompt(rows, p, g, tokenizer),
            tokens=tokens,
            pieces=pieces(tokenizer, tokens),
            columns=columns,
            reward=reward,
            parts=_parts(batch, components, p, g),
            advantage=_mean(advantage),
            badges=(),
            off_policy=off,
            staleness=None if all(off) else staleness,
        )
        whole = _ended(entry, len(kept), stops, stop)
        found.append(_with_badges(entry, whole))
    return found


def _with_badges(entry: Entry, ended: bool) -> Entry:
    from dataclasses import replace

    badges = []
    if not entry.tokens:
        badges.append("empty")
    elif not any(entry.off_policy):
        badges.append("finished" if ended else "truncated")
    if entry.reward is not None and math.isnan(entry.reward):
        badges.append("unscored")
    if any(entry.off_policy):
        badges.append("off-policy" if all(entry.off_policy) else "off-policy prefix")
    return replace(entry, badges=tuple(badges))
