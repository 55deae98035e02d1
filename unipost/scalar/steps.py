"""Solutions as rows of tokens, with a label at the end of every step."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unipost.chat import Rendered, chat_of
from unipost.data import DataError, Demonstration, encode_rows
from unipost.scalar.step_rows import Solution, read_solutions
from unipost.sources import Fixed, OnBadRow, Setting, Source, Stream, TooLong
from unipost.tokenizer import Tokenizer


def step_tokens(
    tokenizer: Tokenizer, steps: Sequence[str], separator: str
) -> tuple[list[int], list[int]]:
    """(ids of the steps, index of the last token of each), the separator after each.

    Every step and the separator are tokenised by themselves, so that a step has the
    same ends in training and where a model scores. Raises ValueError for text that
    cannot be encoded.
    """
    ids: list[int] = []
    ends = []
    after = list(tokenizer.encode(separator)) if separator else []
    for step in steps:
        ids += [*tokenizer.encode(step), *after]
        ends.append(len(ids) - 1)
    return ids, ends


@dataclass(frozen=True)
class LabelledSteps(Source):
    """Solutions whose steps are labelled right, neutral or wrong: groups of one.

    Columns and layouts: `unipost.scalar.step_rows`. A step is followed by `separator`,
    and its label stands on the last token of that, where a process reward model is
    read (TRL: a line break).
    """

    path: str
    prompts: int
    prompt_length: int
    response_length: int
    separator: str = "\n"
    columns: dict[str, str] = field(default_factory=dict)
    too_long: TooLong = "raise"
    on_bad_row: OnBadRow = "raise"

    @property
    def gives(self) -> str:
        return "steps"

    def open(self, setting: Setting) -> Stream:
        solutions = read_solutions(self.path, self.columns, self.on_bad_row)
        tokenizer = setting.tokenizer
        pairs = [self._row(x, tokenizer) for x in solutions]
        lengths = self.prompt_length, self.response_length
        rows, ends = [row for row, _ in pairs], [x for _, x in pairs]
        tokens = encode_rows(tokenizer, rows, *lengths, self.too_long)
        labels = np.zeros(tokens.response.shape, np.float32)
        steps = np.zeros_like(labels)
        for line, i in enumerate(map(int, tokens.index)):
            for end, label in zip(ends[i], solutions[i].labels, strict=True):
                if end < self.response_length and np.isfinite(label):
                    labels[line, end], steps[line, end] = label, 1.0
        # the loss is about the ends alone, and all else is context
        streams = {"steps": steps}
        return Fixed(tokens, self.prompts, 1, setting.seed, labels, streams)

    def _row(
        self, solution: Solution, tokenizer: Tokenizer
    ) -> tuple[Demonstration, list[int]]:
        """A solution as the encoder takes it, and where its steps end."""
        prompt = solution.prompt
        if isinstance(prompt, list):
            prompt = chat_of(tokenizer).prompt(prompt)
        try:
            ids, ends = step_tokens(tokenizer, solution.steps, self.separator)
        except (ValueError, KeyError) as error:
            raise DataError(f"{solution.place}: cannot be encoded: {error}") from error
        trained = array("b", [0] * len(ids))
        for end, label in zip(ends, solution.labels, strict=True):
            trained[end] = int(np.isfinite(label))
        response = Rendered(array("i", ids), trained)
        return Demonstration(prompt, response, solution.place), ends
