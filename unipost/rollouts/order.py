"""The order in which questions are asked, as parts: `order: prioritised`.

An order is drawn from (seed, step, memory) alone, so a resumed run asks the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from unipost.data import indices_at
from unipost.rollouts import draws
from unipost.rollouts.questions import Questions
from unipost.sources import Memory


class Place(NamedTuple):
    """Where a run is: its step and the round in it, both from 0.

    count  questions of a round
    asked  [m] the questions of this step's rounds before, in order
    """

    seed: int
    step: int
    round: int
    count: int
    asked: np.ndarray


class Outcome(NamedTuple):
    """What came of a step: how many of the questions asked are done with, and which.

    used     questions from the first asked on that need not be asked again
    index    [n] the questions asked
    success  [n] share of right responses of the policy's own, NaN where unscored
    """

    used: int
    index: np.ndarray
    success: np.ndarray


class Order(ABC):
    """A rule for the questions of a round."""

    def check(self, questions: Questions) -> None:
        """Refuse a file that it cannot order. Raises DataError, one line."""
        return None

    @abstractmethod
    def draw(self, questions: Questions, place: Place, memory: Memory) -> np.ndarray:
        """The questions [place.count] of a round."""

    def remember(
        self, questions: Questions, place: Place, outcome: Outcome, memory: Memory
    ) -> Memory:
        """What it must know at the next step; nothing for most."""
        return {}


@dataclass(frozen=True)
class Epochs(Order):
    """Every question once per epoch, in an order drawn from (seed, epoch).

    It remembers its position, which moves past the questions that are done with.
    """

    def draw(self, questions, place, memory):
        start = _position(place, memory) + len(place.asked)
        return indices_at(place.seed, start, place.count, questions.size)

    def remember(self, questions, place, outcome, memory):
        return {"position": np.array(_position(place, memory) + outcome.used)}


def _position(place: Place, memory: Memory) -> int:
    # without a memory: where steps of one round each have come
    return int(memory.get("position", np.array(place.step * place.count)))


@dataclass(frozen=True)
class Prioritised(Order):
    """Questions with probability proportional to max(1 - s, floor), s their success.

    s is the share of right responses, as a running mean of rate `rate` over the steps
    that asked the question, 0 for one never asked. Within a step no question comes
    twice before all have come. Source: Kimi k1.5, 2501.12599, 2.3.4 (prioritised
    sampling); the floor and the rate are ours.
    """

    floor: float = 0.05
    rate: float = 0.5

    def __post_init__(self):
        for name, value in (("floor", self.floor), ("rate", self.rate)):
            if not 0.0 < value <= 1.0:
                raise ValueError(f"order.{name}: {value}; write a number in (0, 1]")

    def draw(self, questions, place, memory):
        success = memory.get("success", np.zeros(questions.size, np.float32))
        weights = np.maximum(1.0 - np.nan_to_num(success), self.floor)
        where = place.seed, draws.ORDER, place.step, place.round
        noise = draws.uniform(questions.size, *where)
        return draws.without_replacement(weights, place.count, noise, place.asked)

    def remember(self, questions, place, outcome, memory):
        new = np.full(questions.size, np.nan, np.float32)
        success = np.array(memory.get("success", new))
        for i, share in zip(outcome.index, outcome.success, strict=True):
            if np.isfinite(share):
                before = share if np.isnan(success[i]) else success[i]
                success[i] = before + self.rate * (share - before)
        return {"success": success}


@dataclass(frozen=True)
class Curriculum(Order):
    """From the easy to the hard, by a numeric column of the file.

    At step t the questions are drawn, each equally likely, from the first share c(t)
    of the file sorted by `column`; `first` lowest or highest says which are easy. c
    grows from `start` to 1 over `steps`, linear: start + (1 - start) t / steps; root:
    sqrt(start^2 + (1 - start^2) t / steps). Source: 1903.09848 (competence).
    """

    column: str
    steps: int
    start: float = 0.1
    shape: Literal["linear", "root"] = "root"
    first: Literal["lowest", "highest"] = "lowest"

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"order.steps: {self.steps}; write 1 or more")
        if not 0.0 < self.start <= 1.0:
            raise ValueError(f"order.start: {self.start}; write a number in (0, 1]")

    def check(self, questions):
        questions.numbers(self.column)

    def share(self, step: int) -> float:
        """c(t) of 0-based step t."""
        done = min(step / self.steps, 1.0)
        if self.shape == "linear":
            return self.start + (1.0 - self.start) * done
        return float(np.sqrt(self.start**2 + (1.0 - self.start**2) * done))

    def draw(self, questions, place, memory):
        values = questions.numbers(self.column)
        values = values if self.first == "lowest" else -values
        # rounded first: 0.6 * 10 is a little more than 6
        most = max(1, int(np.ceil(round(self.share(place.step) * questions.size, 6))))
        easy = np.argsort(values, kind="stable")[:most]
        where = place.seed, draws.ORDER, place.step, place.round
        noise = draws.uniform(most, *where)
        last = np.flatnonzero(np.isin(easy, place.asked))
        every = np.ones(most)
        return easy[draws.without_replacement(every, place.count, noise, last)]


ORDERS: dict[str, type[Order]] = {
    "epochs": Epochs,
    "prioritised": Prioritised,
    "curriculum": Curriculum,
}
