"""Questions of a file, tokenised, with what rewards and orders read of their rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unipost.chat import stop_tokens
from unipost.data import DataError, Tokens, encode_rows, read_rows
from unipost.rows import Demonstration, Question, demonstration
from unipost.sampling import Request
from unipost.sources import OnBadRow, TooLong
from unipost.tokenizer import Tokenizer
from unipost.wording import Wording


@dataclass(frozen=True)
class Questions:
    """N questions: `tokens` [N, ...], the row of each, and what ends a response.

    The responses in `tokens` are the worked solutions where they were asked for, else
    empty.
    """

    path: str
    tokenizer: Tokenizer
    tokens: Tokens
    rows: list[Question]
    stop: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """N."""
        return len(self.rows)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Token ids that end a response."""
        return stop_tokens(self.tokenizer)

    def prompt(self, i: int) -> tuple[int, ...]:
        """The ids of prompt i."""
        return tuple(self.tokens.prompt[i][self.tokens.prompt_mask[i]].tolist())

    def solution(self, i: int) -> tuple[int, ...]:
        """The ids of worked solution i, its end token included."""
        return tuple(self.tokens.response[i][self.tokens.response_mask[i]].tolist())

    def text(self, i: int) -> str:
        """Prompt i as text; one made by a chat template without its special tokens."""
        prompt = self.rows[i].prompt
        if isinstance(prompt, str):
            return prompt
        return self.tokenizer.decode(list(self.prompt(i)))

    def request(
        self, i: int, ids: range, budget: int, given: tuple[int, ...] = ()
    ) -> Request:
        """Responses to prompt i that begin with the tokens `given`."""
        fixed = self.ends, self.stop, given
        return Request(self.prompt(i), tuple(ids), budget, *fixed)

    def numbers(self, column: str) -> np.ndarray:
        """A column [N] of the file. Raises DataError unless all values are numbers."""
        values = []
        for question in self.rows:
            value: Any = question.row.get(column)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                where = question.place or self.path
                raise DataError(
                    f"{where}: order.column: {column!r} is {value!r}; write a column "
                    "that holds a number in every row"
                )
            values.append(float(value))
        return np.array(values)


def open_questions(
    path: str,
    tokenizer: Tokenizer,
    prompt_length: int,
    budget: int,
    *,
    solved: bool = False,
    stop: tuple[str, ...] = (),
    columns: dict[str, str] | None = None,
    wording: Wording | None = None,
    too_long: TooLong = "raise",
    on_bad_row: OnBadRow = "raise",
) -> Questions:
    """Read and tokenise; `solved` reads worked solutions too, of up to `budget` tokens.

    Raises DataError naming file, line and reason, ValueError for a stop string that no
    decoded text holds.
    """
    questions = read_rows(
        path, "questions", columns, on_bad_row, tokenizer, wording=wording
    ).rows
    # a worked solution is read, and has to fit, only where it is a row of the group
    rows: list[Demonstration | Question] = list(questions)
    if solved:
        rows = [demonstration(q) for q in questions]
    lengths = prompt_length, budget
    tokens = encode_rows(
        tokenizer, rows, *lengths, too_long, budget="sampling.max_tokens"
    )
    check_stop(tokenizer, stop)
    kept = [questions[i] for i in tokens.index]
    return Questions(path, tokenizer, tokens, kept, stop)


def check_stop(tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    """Raises ValueError for a stop string that decoded text cannot hold."""
    for text in stop:
        if not tokenizer.decode(tokenizer.encode(text)):
            raise ValueError(
                f"data.stop: {text!r} is a special token, which decoded text leaves "
                "out; leave it out: end tokens end a response by themselves"
            )


def texts(tokenizer: Tokenizer, tokens, mask) -> list[str]:
    """Responses [N, T] as text, without special tokens."""
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    return [tokenizer.decode(t[m].tolist()) for t, m in zip(tokens, mask, strict=True)]
