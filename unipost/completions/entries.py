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
    endings = Endings(tuple(stops), tuple(stop))
    found = []
    for p, g in np.ndindex(*np.shape(batch.mask)[:2]):
        kept = np.asarray(rows.response_mask[p, g]) > 0
        reward = _reward(batch, p, g)
        if not kept.any() and (reward is None or math.isnan(reward)):
            continue
        tokens = np.asarray(rows.response[p, g])[kept].tolist()
        parts = pieces(tokenizer, tokens)
        off = _off_policy(batch, p, g)[kept].tolist()
        columns = {
            name: np.asarray(values)[p, g][kept]
            for name, values in numbers._asdict().items()
            if values is not None
        }
        entry = Entry(
            group=p,
            prompt=_prompt(rows, p, g, tokenizer),
            tokens=tokens,
            pieces=parts,
            columns=columns,
            reward=reward,
            parts=_parts(batch, components, p, g),
            advantage=_mean(columns.get("advantage")),
            badges=_badges(endings.reached(tokens, parts, len(kept)), off, reward),
            off_policy=off,
            staleness=None if off and all(off) else staleness,
        )
        found.append(entry)
    return found


@dataclass(frozen=True)
class Endings:
    """What ends a completion before its budget: token ids, and strings."""

    tokens: tuple[int, ...]
    strings: tuple[str, ...] = ()

    def reached(self, tokens: list[int], parts: Sequence[Piece], budget: int) -> bool:
        """Whether a completion has ended by itself."""
        if len(tokens) < budget or tokens[-1] in self.tokens:
            return True
        text = "".join(part.text for part in parts if not part.special)
        return any(string in text for string in self.strings)


def _badges(ended: bool, off: list[bool], reward: float | None) -> tuple[str, ...]:
    found = []
    if not off:
        found.append("empty")
    elif not all(off):
        found.append("finished" if ended else "truncated")
    if reward is not None and math.isnan(reward):
        found.append("unscored")
    if any(off):
        found.append("off-policy" if all(off) else "off-policy prefix")
    return tuple(found)


def _reward(batch: Batch, p: int, g: int) -> float | None:
    """The reward of a row, or the sum of its step rewards."""
    if batch.rewards is None:
        return None
    reward = np.asarray(batch.rewards)[p, g]
    if np.ndim(reward):
        reward = np.where(np.asarray(batch.mask)[p, g] > 0, reward, 0.0).sum()
    return float(reward)


def _parts(batch: Batch, names: Sequence[str], p: int, g: int) -> dict[str, float]:
    if batch.components is None:
        return {}
    values = np.asarray(batch.components)[p, g].tolist()
    named = names if len(names) == len(values) else map(str, range(len(values)))
    return dict(zip(named, values, strict=True))


def _off_policy(batch: Batch, p: int, g: int) -> np.ndarray:
    """Which tokens [T] of a row the policy did not sample."""
    columns = np.shape(batch.mask)[2]
    if batch.off_policy is None:
        return np.zeros(columns, bool)
    return np.broadcast_to(np.asarray(batch.off_policy)[p, g] > 0, columns)


def _prompt(rows: Rows, p: int, g: int, tokenizer: Tokenizer) -> str:
    kept = np.asarray(rows.prompt_mask[p, g]) > 0
    return tokenizer.decode(np.asarray(rows.prompt[p, g])[kept].tolist())


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None or not len(values) else float(np.mean(values))
