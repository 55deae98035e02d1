"""What a sampler is: requests in, completions with their log-probabilities out.

A `Sampler` is configuration; `open` gives an `Engine`, which draws. One's own engine
needs no base class: a frozen dataclass with an `open` fits, `sampler: mine:MySampler`.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from unipost.policy import Array, Params, Policy
from unipost.sampling.distribution import Sampling
from unipost.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """A prompt, the completions to draw of it, and what ends one.

    prompt: token ids, at least one. ids: one number per completion; what is drawn
    depends on the key of the call and this number, not on the other requests.
    max_tokens: a completion's budget. stop_tokens: ids that end it. stop: strings that
    end it; looked for in the decoded text, which leaves special tokens out. The token
    that ends a completion, or that completes a string, belongs to it. given: ids that
    every completion begins with; they count in its budget and have log-prob NaN.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    max_tokens: int
    stop_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    given: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("prompt", self.prompt), ("ids", self.ids)):
            if not value:
                raise ValueError(f"Request.{name} is empty; give at least one")
        if self.max_tokens < 1:
            raise ValueError(
                f"Request.max_tokens is {self.max_tokens}; give an integer >= 1"
            )
        if len(self.given) >= self.max_tokens:
            raise ValueError(
                f"Request.given: {len(self.given)} tokens leave none to draw of "
                f"max_tokens {self.max_tokens}; give fewer"
            )
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError(
                f"Request.stop is {self.stop!r}; give a tuple of strings, none empty"
            )


class Completion(NamedTuple):
    """Tokens [t], t >= 1, and the log-probability [t] each was drawn at.

    logps are those of the exact distribution of the draw, after temperature and cuts;
    NaN where an external engine does not report it, and of what was given. finish:
    "stop" after a stop token or string, "length" where the budget ended first.
    """

    tokens: np.ndarray
    logps: np.ndarray
    finish: Literal["stop", "length"]


class Engine(Protocol):
    """An opened sampler."""

    def __call__(
        self, params: Params, requests: Sequence[Request], key: Array
    ) -> list[list[Completion]]:
        """The completions of every request, in the order of requests and of ids."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Configuration of an engine."""

    def open(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        sampling: Sampling,
        prompt_length: int,
    ) -> Engine:
        """An engine for prompts of up to `prompt_length` tokens.

        No request's budget exceeds sampling.max_tokens. Raises ValueError, in one
        line, for what the engine cannot do.
        """
        ...


def check_requests(
    requests: Sequence[Request],
    sampling: Sampling,
    prompt_length: int,
    tokenizer: Tokenizer,
) -> None:
    """Raises ValueError, in one line, for a request that an engine cannot meet."""
    for i, request in enumerate(requests):
        for name, value, limit in (
            ("prompt", len(request.prompt), prompt_length),
            ("max_tokens", request.max_tokens, sampling.max_tokens),
        ):
            if value > limit:
                raise ValueError(
                    f"request {i}: {name} of {value} tokens, but the engine was opened "
                    f"for {limit}; open it for more"
                )
        for text in request.stop:
            if not tokenizer.decode(tokenizer.encode(text)):
                raise ValueError(
                    f"request {i}: stop {text!r} is a special token, which decoded "
                    "text leaves out; write its id in stop_tokens"
                )


def given_tokens(requests: Sequence[Request], length: int) -> np.ndarray | None:
    """What completions begin with [P length], -1 where drawn; None: nothing is."""
    if not any(request.given for request in requests):
        return None
    tokens = np.full((len(requests), length), -1, np.int32)
    for row, request in enumerate(requests):
        tokens[row, : len(request.given)] = request.given
    return tokens


def completing_token(
    tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str], seen: int = 0
) -> int | None:
    """How many of `tokens` make the first text that holds a string of `stop`, or None.

    `seen` tokens are known not to hold one. Text is taken to grow with its tokens, so
    one decoding tells whether there is any, and a bisection where.
    """

    def holds(count: int) -> bool:
        text = tokenizer.decode(tokens[:count])
        return any(string in text for string in stop)

    if not stop or not holds(len(tokens)):
        return None
    counts = range(seen + 1, len(tokens) + 1)
    return counts[bisect.bisect_left(counts, True, key=holds)]
