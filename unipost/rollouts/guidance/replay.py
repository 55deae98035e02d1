"""Replay: earlier responses of the policy to the same prompt, as rows of the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unipost.rollouts.drawn import Texts, no_texts
from unipost.rollouts.guidance.base import Guidance, Guide
from unipost.rollouts.questions import Questions
from unipost.sources import Memory


@dataclass(frozen=True)
class Replay(Guidance):
    """Earlier responses of the policy to the prompt, the newest `rows` of them.

    Of every group up to `rows` of the policy's own rows are kept, all or the correct
    ones alone, with the log-probs at which they were drawn (the behaviour stream), in a
    buffer of `capacity` responses whose oldest go first. A row is absent while there is
    no earlier response. The rows are flagged off-policy and graded anew with their
    group. Reported: `replay_rows`, the share that is there, and `replay_age`, the mean
    number of steps since they were drawn (0 when there are none).
    """

    rows: int = 1
    capacity: int = 4096
    keep: Literal["all", "correct"] = "all"

    def __post_init__(self):
        for name in ("rows", "capacity"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"replay.{name}: {getattr(self, name)}; write 1 or more"
                )

    @property
    def count(self):
        return self.rows

    @property
    def gives(self):
        return "replay"

    @property
    def unknown_behavior(self):
        return False

    def open(self, site):
        return _Replayed(self, site.questions, site.own, site.sampling.max_tokens)


@dataclass(frozen=True)
class _Replayed(Guide):
    """Memory, of C responses: `question` [C] (-1: free), `step` [C] when it was drawn,
    `tokens` [C, T], `length` [C], `behavior` [C, T], `finished` [C], and `written`, how
    many were ever kept: the next goes to the place written % C.
    """

    settings: Replay
    questions: Questions
    own: int
    length: int

    def start(self):
        c, t = self.settings.capacity, self.length
        return {
            "question": np.full(c, -1, np.int64),
            "step": np.zeros(c, np.int64),
            "tokens": np.zeros((c, t), np.int32),
            "length": np.zeros(c, np.int32),
            "behavior": np.zeros((c, t), np.float32),
            "finished": np.zeros(c, bool),
            "written": np.array(0),
        }

    def _places(self, index: np.ndarray, memory: Memory) -> np.ndarray:
        """[n, rows] places in the buffer, the newest first, -1 where there is none."""
        capacity, rows = self.settings.capacity, self.settings.rows
        # the place written last comes first
        newest = (int(memory["written"]) - 1 - np.arange(capacity)) % capacity
        found = np.full((len(index), rows), -1)
        for g, question in enumerate(index):
            own = newest[memory["question"][newest] == question][:rows]
            found[g, : len(own)] = own
        return found

    def texts(self, turn, memory):
        places = self._places(turn.index, memory)
        pad = self.questions.tokenizer.pad_token
        shape = len(turn.index), self.settings.rows, self.length
        none = no_texts(*shape, pad, np.float32)
        there = places >= 0
        lengths = np.where(there, memory["length"][places], 0)
        mask = np.arange(self.length) < lengths[..., None]
        return Texts(
            np.where(mask, memory["tokens"][places], none.tokens),
            mask,
            np.where(mask, memory["behavior"][places], none.behavior),
            mask.copy(),
            there & memory["finished"][places],
        )

    def remember(self, step, drawn, right, memory):
        fits = drawn.texts.present[:, : self.own]
        if self.settings.keep == "correct":
            fits = fits & right[:, : self.own]
        first = fits & (np.cumsum(fits, 1) <= self.settings.rows)
        group, row = np.nonzero(first)
        capacity, written = self.settings.capacity, int(memory["written"])
        # of more than there is room for the last ones stay, as if written in turn
        skipped = max(0, len(group) - capacity)
        group, row = group[skipped:], row[skipped:]
        places = (written + skipped + np.arange(len(group))) % capacity
        new = {name: np.array(array) for name, array in memory.items()}
        texts = drawn.texts
        new["question"][places] = drawn.index[group]
        new["step"][places] = step
        new["tokens"][places] = texts.tokens[group, row]
        new["length"][places] = texts.mask[group, row].sum(-1)
        new["behavior"][places] = texts.behavior[group, row]
        new["finished"][places] = texts.finished[group, row]
        new["written"] = np.array(written + skipped + len(group))
        return new

    def numbers(self, step, index, texts, memory):
        places = self._places(index, memory)
        ages = (step - memory["step"][places])[texts.present]
        return {
            "replay_rows": float(texts.present.mean()),
            "replay_age": float(ages.mean()) if ages.size else 0.0,
        }
