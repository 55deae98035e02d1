"""Continuous batching: a finished row's slot goes to the next completion that waits.

A batch then costs about its tokens, not its longest row times its size.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unipost.policy import Array, Params, Policy
from unipost.processes import gathered, in_turn
from unipost.sampling.batch import left_padded
from unipost.sampling.distribution import Sampling
from unipost.sampling.protocol import (
    Completion,
    Engine,
    Request,
    check_requests,
    completing_token,
    given_tokens,
)
from unipost.sampling.slots import Rows, Slots, admit, empty_slots, read_prompts, run
from unipost.tokenizer import Tokenizer


@dataclass(frozen=True)
class ContinuousSampler:
    """Completions in `slots` rows of fixed shape, refilled as they end.

    slots    rows decoded at a time; their cache is what memory must hold
    refill   free slots worth a pause while completions wait, and rows admitted at once
    steps    most steps between two looks at stop strings
    prefill  prompts read at once; a prompt is read once for all its completions

    Programs: one that decodes, one that admits, and one that reads prompts for every
    power of two of prompt columns that occurs. For fixed settings a completion depends
    on the key, its id and its prompt, up to rounding, whatever else is in the batch.
    """

    slots: int = 64
    refill: int = 8
    steps: int = 32
    prefill: int = 8

    def __post_init__(self) -> None:
        for name in ("slots", "refill", "steps", "prefill"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"sampler.{name}: {getattr(self, name)}; write 1 or more"
                )
        if self.refill > self.slots:
            raise ValueError(
                f"sampler.refill: {self.refill} of {self.slots} slots; write at most "
                "as many"
            )

    def open(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        sampling: Sampling,
        prompt_length: int,
    ) -> Engine:
        return _ContinuousEngine(self, policy, tokenizer, sampling, prompt_length)


@dataclass
class _Draft:
    """A completion under way; `stopped` when a stop string has come."""

    request: Request
    id: int
    tokens: list[int] = field(default_factory=list)
    logps: list[np.ndarray] = field(default_factory=list)
    stopped: bool = False

    def extend(self, tokens: np.ndarray, logps: np.ndarray, tokenizer: Tokenizer):
        """Takes new tokens, up to the one that completes a stop string."""
        seen = len(self.tokens)
        self.tokens.extend(tokens.tolist())
        end = completing_token(tokenizer, self.tokens, self.request.stop, seen)
        if end is not None:
            self.stopped = True
            del self.tokens[end:]
        self.logps.append(logps[: len(self.tokens) - seen])

    def completion(self) -> Completion:
        """What was drawn, once it has ended."""
        stopped = self.stopped or self.tokens[-1] in self.request.stop_tokens
        tokens = np.array(self.tokens, np.int32)
        finish = "stop" if stopped else "length"
        return Completion(tokens, np.concatenate(self.logps), finish)


@dataclass(frozen=True)
class _ContinuousEngine:
    settings: ContinuousSampler
    policy: Policy
    tokenizer: Tokenizer
    sampling: Sampling
    prompt_length: int

    def __call__(
        self, params: Params, requests: Sequence[Request], key: Array
    ) -> list[list[Completion]]:
        check_requests(requests, self.sampling, self.prompt_length, self.tokenizer)
        return _Call(self, params, requests, key).completions()


class _Call:
    """One call of the engine: the slots, who is in them, and who waits.

    groups: the completions of every request. unread: those whose prompt has not been
    read. ready: (prompts read last, row in them, completion) of those that only wait
    for a slot. drafts: who is in each slot.
    """

    def __init__(
        self,
        engine: _ContinuousEngine,
        params: Params,
        requests: Sequence[Request],
        key: Array,
    ):
        self.engine, self.params, self.key = engine, params, key
        self.columns = engine.prompt_length + engine.sampling.max_tokens
        count = engine.settings.slots
        self.slots = empty_slots(engine.policy, params, count, self.columns)
        given = given_tokens(requests, engine.sampling.max_tokens)
        widest = max((len(request.stop_tokens) for request in requests), default=0)
        self.rows = Rows(
            id=np.zeros(count, np.int32),
            position=np.zeros(count, np.int32),
            budget=np.zeros(count, np.int32),
            stops=np.full((count, max(widest, 1)), -1, np.int32),
            live=np.zeros(count, bool),
            given=None if given is None else np.full((count, given.shape[1]), -1, "i4"),
        )
        self.groups = [[_Draft(r, i) for i in r.ids] for r in requests]
        self.unread = deque(self.groups)
        self.ready: deque[tuple[Slots, int, _Draft]] = deque()
        self.drafts: list[_Draft | None] = [None] * count

    def completions(self) -> list[list[Completion]]:
        """Everything drawn, in the order asked for."""
        self.fill()
        while self.rows.live.any():
            self.decode()
            self.fill()
        return [[draft.completion() for draft in group] for group in self.groups]

    def fill(self) -> None:
        """Admits completions while there are free slots and some that wait."""
        free = deque(np.flatnonzero(~self.rows.live).tolist())
        most = self.engine.settings.refill
        while free and (self.ready or self.unread):
            if not self.ready:
                self.read()
            fresh, source = self.ready[0][0], np.zeros(most, np.int32)
            target = np.full(most, len(self.drafts), np.int32)
            for i in range(min(len(free), len(self.ready), most)):
                _, source[i], draft = self.ready.popleft()
                target[i] = free.popleft()
                self.seat(int(target[i]), draft)
            self.slots = admit(self.slots, fresh, source, target)

    def read(self) -> None:
        """Reads the next prompts, as many as `prefill`; the last one fills up."""
        most = self.engine.settings.prefill
        groups = [self.unread.popleft() for _ in range(min(most, len(self.unread)))]
        prompts = [group[0].request.prompt for group in groups]
        prompts += prompts[-1:] * (most - len(prompts))
        longest = max(map(len, prompts))
        length = min(1 << (longest - 1).bit_length(), self.engine.prompt_length)
        padded = left_padded(prompts, length)
        args = self.engine.policy, self.params, *padded, self.columns
        fresh = in_turn(read_prompts(*args))
        self.ready.extend(
            (fresh, i, x) for i, group in enumerate(groups) for x in group
        )

    def seat(self, slot: int, draft: _Draft) -> None:
        """Makes `slot` draw for `draft`, from its first token."""
        rows, request = self.rows, draft.request
        stops = request.stop_tokens
        rows.id[slot], rows.position[slot] = draft.id, 0
        rows.budget[slot], rows.live[slot] = request.max_tokens, True
        rows.stops[slot] = -1
        rows.stops[slot, : len(stops)] = stops
        if rows.given is not None:
            rows.given[slot] = -1
            rows.given[slot, : len(request.given)] = request.given
        self.drafts[slot] = draft

    def decode(self) -> None:
        """One run of the slots, and what it drew handed to the drafts."""
        engine, rows = self.engine, self.rows
        waiting = self.ready or self.unread
        settings = engine.settings
        until = settings.slots - settings.refill if waiting else 0
        out = run(
            engine.policy,
            settings.steps,
            self.params,
            self.slots,
            rows,
            self.key,
            engine.sampling,
            np.int32(until),
        )
        self.slots = out.slots
        position, live, tokens, logps = gathered(tuple(out[1:]))
        live = live.copy()
        for slot in np.flatnonzero(rows.live):
            draft, count = self.drafts[slot], position[slot] - rows.position[slot]
            assert draft is not None
            draft.extend(tokens[slot, :count], logps[slot, :count], engine.tokenizer)
            live[slot] &= not draft.stopped
        self.rows = rows._replace(position=position.copy(), live=live)
