"""Guidance: the rows of a group that the policy does not sample from the prompt alone.

A `Guidance` is configuration; `open` gives a `Guide`, whose functions are pure: what a
guide remembers is a memory handed from step to step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from unipost.model import Params
from unipost.rollouts.drawn import Drawn, Texts
from unipost.rollouts.questions import Questions
from unipost.sampling import Sampler, Sampling
from unipost.sources import EMPTY, Memory, Setting

Gives = Literal["demonstrations", "replay"]


@dataclass(frozen=True)
class Site:
    """What guidance is opened in: a source of rollouts and its questions.

    part  the place of this guidance among those of the group, for its random draws
    own   rows of a group that the policy samples from the prompt alone
    """

    setting: Setting
    questions: Questions
    sampling: Sampling
    sampler: Sampler
    prompt_length: int
    prompts: int
    own: int
    part: int


class Turn(NamedTuple):
    """One round of a step: the questions [n] asked, and what may be sampled with."""

    step: int
    round: int
    index: np.ndarray
    params: Params


class Guide(ABC):
    """Opened guidance."""

    @abstractmethod
    def texts(self, turn: Turn, memory: Memory) -> Texts:
        """Its rows [n, rows, T] of the groups of a round."""

    def start(self) -> Memory:
        """The memory before the first step."""
        return EMPTY

    def remember(
        self, step: int, drawn: Drawn, right: np.ndarray, memory: Memory
    ) -> Memory:
        """The memory after a step that gave `drawn`, `right` [n, G] where correct."""
        return memory

    def claims(self, memory: Memory) -> np.ndarray | None:
        """The questions of a step that it takes for itself, or None: most never do."""
        return None

    def claimed(self, turn: Turn, memory: Memory) -> tuple[Texts, Memory]:
        """Its rows of a step that it has claimed, and the memory after it."""
        raise NotImplementedError(f"{type(self).__name__} claims no step")

    def numbers(
        self, step: int, index: np.ndarray, texts: Texts, memory: Memory
    ) -> dict[str, float]:
        """What it reports of its rows of a step's questions, by the memory before it.

        The names are the same at every step.
        """
        return {}


class Guidance(ABC):
    """Configuration of guidance."""

    @property
    def count(self) -> int:
        """Rows of a group that it fills."""
        return 1

    @property
    def gives(self) -> Gives:
        """demonstrations: tokens that the policy did not write; replay: it did once."""
        return "demonstrations"

    @property
    def partial(self) -> bool:
        """Whether a row is off-policy on some of its tokens only."""
        return False

    @property
    def unknown_behavior(self) -> bool:
        """Whether its rows hold tokens whose log-probs when written are not known."""
        return True

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders that it reads beside those of the source."""
        return ()

    @abstractmethod
    def open(self, site: Site) -> Guide:
        """Ready it for a run."""
