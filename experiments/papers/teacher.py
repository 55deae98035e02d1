"""A teacher of chains as a sampler: fixed responses, some of them with a slip.

`sampler: {name: "experiments.papers.teacher:Teacher", style: verbose, mistakes: 0.4}`
makes a source of rollouts off-policy: q is the teacher, the same few responses to a
prompt whenever it is asked, whatever the policy is. Their log-probs are not known.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from experiments.papers.tasks import step, steps, written
from unipost.sampling import Completion, Engine, Request


@dataclass(frozen=True)
class Teacher:
    """Responses to chains in one style; a share `mistakes` of them ends wrong.

    Response g of a prompt is decided by the prompt and g alone. A slip is one wrong
    digit in one step, carried on from. `group` is that of the rollouts.
    """

    group: int
    style: Literal["cot", "direct", "verbose"] = "verbose"
    mistakes: float = 0.0
    logprobs: ClassVar[str] = "none"

    def __post_init__(self):
        if not 0.0 <= self.mistakes <= 1.0:
            raise ValueError(f"mistakes: {self.mistakes}; write a share from 0 to 1")

    def response(self, prompt: str, place: int) -> str:
        """Response `place` of the group of a prompt."""
        rng = random.Random(f"{prompt} {place}")
        slips = rng.random() < self.mistakes
        worked = slipped(prompt, rng) if slips else steps(prompt)
        return written(worked, self.style)

    def open(self, policy, tokenizer, sampling, prompt_length) -> Engine:
        end = tokenizer.eos_token

        def draw(params, requests: Sequence[Request], key):
            return [
                [self._completion(tokenizer, end, request, i) for i in request.ids]
                for request in requests
            ]

        return draw

    def _completion(self, tokenizer, end: int, request: Request, i: int) -> Completion:
        prompt = tokenizer.decode(list(request.prompt))
        tokens = [*tokenizer.encode(self.response(prompt, i % self.group)), end]
        if len(tokens) > request.max_tokens:
            raise ValueError(
                f"the teacher's answer to {prompt!r} has {len(tokens)} tokens; write "
                f"sampling.max_tokens: {len(tokens)} or more"
            )
        unknown = np.full(len(tokens), np.nan, np.float32)
        return Completion(np.array(tokens, np.int32), unknown, "stop")


def slipped(prompt: str, rng: random.Random) -> list[tuple[str, str, str, str]]:
    """The steps of a chain with one slip, carried on from, that ends wrong."""
    right = steps(prompt)
    while True:
        worked, at, value = [], rng.randrange(len(right)), right[0][0]
        for i, (_, sign, operand, _) in enumerate(right):
            after = step(value, sign, operand)
            after = _changed(after, rng) if i == at else after
            worked.append((value, sign, operand, after))
            value = after
        if value != right[-1][-1]:
            return worked


MISLED = 0.75
"""How often the misled teacher goes wrong in a step that misleads it."""


def misled(prompt: str, rng: random.Random) -> list[tuple[str, str, str, str]]:
    """The steps of a chain of single digits by a teacher with two misconceptions.

    In MISLED of such steps the smaller digit is taken from the larger one, whichever
    stands first, and a product with 6, 7, 8 or 9 is taken with one less. The chain goes
    on from the wrong value, which may come out right in the end.
    """
    worked, value = [], steps(prompt)[0][0]
    for _, sign, right, _ in steps(prompt):
        after = step(value, sign, right)
        if rng.random() < MISLED:
            if sign == "-" and value < right:
                after = step(right, sign, value)
            if sign == "*" and right >= "6":
                after = step(value, sign, str(int(right) - 1))
        worked.append((value, sign, right, after))
        value = after
    return worked


def _changed(value: str, rng: random.Random) -> str:
    """One digit replaced by another."""
    at = rng.randrange(len(value))
    other = (int(value[at]) + rng.randint(1, 9)) % 10
    return value[:at] + str(other) + value[at + 1 :]
