"""The rows of a step of all runs: read once where they are equal, sampled together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from unipost.policy import Policy
from unipost.rollouts import Rollouts
from unipost.sampling import BatchSampler, Engine, Sampling
from unipost.sampling.batch import BatchEngine
from unipost.sources import Experience, Mixture, Source
from unipost.tokenizer import Tokenizer
from unipost.vectorised.meeting import Answer, Meeting
from unipost.vectorised.members import Member
from unipost.vectorised.sampling import Asked


@dataclass(frozen=True)
class _Sampler:
    """The batch sampler of the run at `place`, which meets those of the others."""

    place: int
    meeting: Meeting

    def open(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        sampling: Sampling,
        prompt_length: int,
    ) -> Engine:
        """See `Sampler.open`."""
        own = BatchEngine(policy, tokenizer, sampling, prompt_length)
        return _Engine(self.place, self.meeting, own)


@dataclass(frozen=True)
class _Engine:
    place: int
    meeting: Meeting
    engine: BatchEngine

    def __call__(self, params, requests, key):
        return self.meeting.ask(self.place, Asked(self.engine, requests, key))


class Drawing:
    """Draws the rows of every step of a group of `runs`; a context manager."""

    def __init__(self, runs: int):
        self._meeting = Meeting(runs)
        self._last: dict[int, Experience] = {}

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *exception) -> None:
        self._meeting.__exit__(*exception)

    def sampled(self, data: Source, place: int) -> Source:
        """`data` of the run at `place`, with samplers that meet those of the others."""
        if isinstance(data, Mixture):
            parts = tuple(self.sampled(part, place) for part in data.parts)
            return dataclasses.replace(data, parts=parts)
        if isinstance(data, Rollouts) and isinstance(data.sampler, BatchSampler):
            return dataclasses.replace(data, sampler=_Sampler(place, self._meeting))
        return data

    def __call__(
        self, members: Sequence[Member], step: int, answer: Answer
    ) -> list[Experience]:
        """The experience of `step` of every member; that of a failed run is its last.

        `answer` gives what samplers ask for, by the place among the members.
        """
        if members[0].loop.experiment.data.varies == "step":
            return self._sampled(members, step, answer)
        return _read(members, step)

    def _sampled(
        self, members: Sequence[Member], step: int, answer: Answer
    ) -> list[Experience]:
        slots = {member.place: slot for slot, member in enumerate(members)}

        def by_place(asked: dict[int, Any]) -> dict[int, Any]:
            found = answer({slots[place]: one for place, one in asked.items()})
            return {members[slot].place: one for slot, one in found.items()}

        jobs = {m.place: partial(_take, m, step) for m in members if m.error is None}
        self._last |= self._meeting.run(jobs, by_place)
        return [self._last[member.place] for member in members]


def _take(member: Member, step: int) -> Experience:
    """The experience of a run whose sampler knows the parameters by itself."""
    last = member.loop.experiment.steps - 1
    drawn = member.ahead.take(step, member.loop.first, last)
    age = {"staleness": float(member.ahead.age(step))}
    return drawn._replace(metrics=drawn.metrics | age)


def _read(members: Sequence[Member], step: int) -> list[Experience]:
    """Rows that do not depend on parameters: runs of one seed read them once."""
    drawn: dict[int, Experience] = {}
    ahead: dict[int, Any] = {}
    for member in members:
        stream = id(member.loop.stream)
        if stream not in drawn:
            last = member.loop.experiment.steps - 1
            drawn[stream] = member.ahead.take(step, member.loop.first, last)
            ahead[stream] = member.ahead
        member.ahead = ahead[stream]
    return [drawn[id(member.loop.stream)] for member in members]
