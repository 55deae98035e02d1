"""Demonstrations in the group, always (LUFFY) or for what the policy fails (ReLIFT)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from unipost.loading import Model, load_reference
from unipost.rollouts.drawn import Texts, no_texts
from unipost.rollouts.guidance.base import Guidance, Guide
from unipost.rollouts.questions import Questions
from unipost.sources import Setting
from unipost.update import Rows, annotate

ROWS = 32
"""Demonstrations whose log-probs a teacher computes at once."""


@dataclass(frozen=True)
class Demonstration(Guidance):
    """The file's worked solution as one row of every group (LUFFY, 2504.14945).

    It is graded by the same reward as the policy's rows and flagged off-policy.
    `behavior` says at which log-probs it was written: unknown (NaN: the objective takes
    probability 1, a correction ratio 1), or those of the model in a folder, which has
    the policy's tokens; they are computed once, when the run starts.
    """

    behavior: str = "unknown"

    def __post_init__(self):
        if not self.behavior:
            raise ValueError(
                "demonstration.behavior: empty; write unknown, or the folder of the "
                "model that wrote the demonstrations"
            )

    @property
    def paths(self):
        return () if self.behavior == "unknown" else (self.behavior,)

    @property
    def unknown_behavior(self):
        return self.behavior == "unknown"

    def open(self, site):
        behavior = None
        if not self.unknown_behavior:
            behavior = _written(self.behavior, site.setting, site.questions)
        return _Demonstrated(site.questions, behavior)


@dataclass(frozen=True)
class BufferedDemonstrations(Guidance):
    """Worked solutions of the questions that the policy fails, in steps of their own.

    A question none of whose own rows is right goes to a buffer of at most `size`
    questions, once; the oldest go first. As soon as the buffer holds a batch of them,
    the next step is their worked solutions alone: the last row of each group, while the
    policy's own rows are absent and none is sampled. In all other steps this row is
    absent. Source: ReLIFT, 2506.07527.
    """

    size: int = 1024

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(
                f"buffered_demonstrations.size: {self.size}; write 1 or more"
            )

    def open(self, site):
        if self.size < site.prompts:
            raise ValueError(
                f"buffered_demonstrations.size: {self.size} never holds a batch of "
                f"{site.prompts} prompts; write {site.prompts} or more"
            )
        return _Buffered(site.questions, site.prompts, site.own, self.size)


def solutions(
    questions: Questions, index: np.ndarray, behavior: np.ndarray | None, dtype
) -> Texts:
    """The worked solutions of n questions, as one row each."""
    tokens, mask = (x[index][:, None] for x in questions.tokens[2:4])
    known = np.full(mask.shape, np.nan, dtype)
    if behavior is not None:
        known = behavior[index][:, None].astype(dtype)
    last = np.take_along_axis(tokens, mask.sum(-1, keepdims=True) - 1, -1)[..., 0]
    finished = np.isin(last, questions.ends)
    return Texts(tokens, mask, np.where(mask, known, 0), mask.copy(), finished)


@dataclass(frozen=True)
class _Demonstrated(Guide):
    questions: Questions
    behavior: np.ndarray | None

    def texts(self, turn, memory):
        return solutions(self.questions, turn.index, self.behavior, np.float32)


@dataclass(frozen=True)
class _Buffered(Guide):
    """Memory: `waiting` [size], questions in the buffer, the oldest first, or -1."""

    questions: Questions
    prompts: int
    own: int
    size: int

    def start(self):
        return {"waiting": np.full(self.size, -1, np.int64)}

    def texts(self, turn, memory):
        length = self.questions.tokens.response.shape[-1]
        pad = self.questions.tokenizer.pad_token
        return no_texts(len(turn.index), 1, length, pad, np.float32)

    def remember(self, step, drawn, right, memory):
        present = drawn.scored[:, : self.own]
        failed = present.any(-1) & ~right[:, : self.own].any(-1)
        waiting = memory["waiting"][memory["waiting"] >= 0].tolist()
        new = dict.fromkeys([*waiting, *drawn.index[failed].tolist()])
        return {"waiting": self._padded([*new][-self.size :])}

    def claims(self, memory):
        waiting = memory["waiting"]
        if (waiting >= 0).sum() < self.prompts:
            return None
        return waiting[: self.prompts]

    def claimed(self, turn, memory):
        rest = memory["waiting"][self.prompts :]
        shown = solutions(self.questions, turn.index, None, np.float32)
        return shown, {"waiting": self._padded(rest[rest >= 0].tolist())}

    def numbers(self, step, index, texts, memory):
        waiting = memory["waiting"] >= 0
        return {
            "buffered": float(waiting.sum()),
            "imitation": float(texts.present.any()),
        }

    def _padded(self, waiting: list[int]) -> np.ndarray:
        return np.array(waiting + [-1] * (self.size - len(waiting)), np.int64)


def _written(folder: str, setting: Setting, questions: Questions) -> np.ndarray:
    """Log-probs [N, T] of the worked solutions under the model in `folder`.

    Raises RunError where it is not there or has other tokens.
    """
    own = Model(None, setting.policy, setting.params, setting.tokenizer)
    teacher = load_reference(folder, own, whole=False)
    count, parts = questions.size, []
    batches = -(-count // ROWS)
    size = -(-count // batches)
    # all batches of one shape: the last is filled up with the last solution
    index = np.minimum(np.arange(batches * size), count - 1)
    for where in index.reshape(batches, size):
        rows = (jnp.asarray(x[where][:, None]) for x in questions.tokens[:4])
        scored = annotate(teacher.policy, teacher.params, Rows(*rows, packed=None))
        parts.append(np.asarray(scored.policy, np.float32)[:, 0])
    return np.concatenate(parts)[:count]
