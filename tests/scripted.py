"""A sampler whose responses are written down, and memories sent through a file."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unipost.sampling import Completion


def right(prompt: str, i: int) -> str:
    """The sum that the prompt asks for."""
    a, b = prompt.removesuffix("=").split("+")
    return str(int(a) + int(b))


def wrong(prompt: str, i: int) -> str:
    """Never a sum of two digits."""
    return "99"


def half(prompt: str, i: int) -> str:
    """Right in every second row where the first digit is even, else always wrong."""
    even = int(prompt[0]) % 2 == 0
    return right(prompt, i) if even and i % 2 else wrong(prompt, i)


@dataclass(frozen=True)
class Scripted:
    """Writes `text(prompt, id)` and its end, every token with log-prob -1 - id."""

    text: Callable[[str, int], str]

    def open(self, policy, tokenizer, sampling, prompt_length):
        def complete(request, i):
            text = self.text(tokenizer.decode(list(request.prompt)), i)
            tokens = [*tokenizer.encode(text), tokenizer.eos_token]
            finish = "stop" if len(tokens) <= request.max_tokens else "length"
            tokens = np.array(tokens[: request.max_tokens], np.int32)
            logps = np.full(len(tokens), -1.0 - i, np.float32)
            return Completion(tokens, logps, finish)

        def engine(params, requests, key):
            return [[complete(r, i) for i in r.ids] for r in requests]

        return engine


def through_a_file(memory):
    """The memory as a checkpoint gives it back."""
    file = io.BytesIO()
    np.savez(file, **memory)
    file.seek(0)
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def steps(stream, params, count: int, keep=lambda memory: memory):
    """The experiences of `count` steps, each given the memory of the one before."""
    memory, drawn = {}, []
    for step in range(count):
        drawn.append(stream.batch(step, params, memory))
        memory = keep(drawn[-1].memory)
    return drawn
