"""Conversations as token ids, written by a chat template through transformers.

    prompt    ids of the turns before the answer, with the header of the answer's turn
    response  ids that the template adds to these when the answer is there too

The boundary lies between two tokens of one rendering, or, where the tokenizer merges
across it, between two texts that are tokenised apart. A template whose rendering of
the whole does not begin with that of the prompt is refused: the model would be trained
on a context that it never sees.
"""

from __future__ import annotations

import dataclasses
import os
import re
from array import array
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from unipost.formats import DataError
from unipost.tokenizer import PretrainedTokenizer, Tokenizer

TrainOn = Literal["last", "assistant"]
Turn = dict[str, Any]
MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
UNMARKED = (
    "train_on: assistant needs a tokenizer with a chat template that marks generation; "
    "write train_on: last"
)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Token ids of a part of a conversation, the template's special tokens included.

    trained  1 at tokens to learn from, as many as `ids`; None: all of them
    end      of a prompt: the ids that end an answer to it
    """

    ids: array[int]
    trained: array[int] | None = None
    end: tuple[int, ...] = ()


class Chat(Protocol):
    """Writes conversations. Raises DataError where it cannot."""

    def given(self, tools: Any) -> Chat:
        """The same with a row's tools, JSON schemas of functions."""
        ...

    def prompt(self, turns: Sequence[Turn]) -> Any:
        """Turns that an answer of the assistant follows, as text or Rendered."""
        ...

    def answers(self, turns: Sequence[Turn], answers: Sequence[Turn]) -> Any:
        """The prompt, and each of several answers to it, as text or Rendered."""
        ...

    def check_marks(self) -> None:
        """Refuse `marked` once for all rows, where no row can have it."""
        ...

    def marked(self, turns: Sequence[Turn]) -> tuple[Rendered, Rendered]:
        """What comes before the first text of the assistant, and all the rest."""
        ...


def chat_of(tokenizer: Tokenizer | None) -> Chat:
    """The tokenizer's chat template, or plain lines where it has none."""
    found = tokenizer, getattr(tokenizer, "backend", None)
    backend: Any = next((x for x in found if hasattr(x, "apply_chat_template")), None)
    if backend is None or not backend.chat_template:
        return PlainChat()
    known = backend.added_tokens_decoder.items()
    special = frozenset(index for index, token in known if token.special)
    return Template(backend, special | {*backend.all_special_ids}).with_end()


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that end a response.

    The tokenizer's eos, those of generation_config.json, and the template's end of a
    turn.
    """
    chat, ends = chat_of(tokenizer), [tokenizer.eos_token]
    if isinstance(tokenizer, PretrainedTokenizer):
        ends += tokenizer.ends
    if isinstance(chat, Template):
        ends += [index for index in chat.end if index in chat.special]
    return tuple(dict.fromkeys(ends))


@dataclasses.dataclass(frozen=True)
class PlainChat:
    """Lines `role: content`, with `assistant: ` last: no template, nothing but text."""

    def given(self, tools: Any) -> PlainChat:
        """Refused: lines have no place for tools."""
        raise DataError("'tools' needs a tokenizer with a chat template")

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The turns as lines, and the beginning of the answer's."""
        for number, turn in enumerate(turns, start=1):
            if not turn.get("content") or turn.get("tool_calls"):
                need = "which needs a tokenizer with a chat template"
                raise DataError(f"turn {number} calls tools, {need}")
        lines = [f"{turn['role']}: {turn['content']}\n" for turn in turns]
        return "".join(lines) + "assistant: "

    def answers(
        self, turns: Sequence[Turn], answers: Sequence[Turn]
    ) -> tuple[str, list[str]]:
        """The prompt and the contents of the answers."""
        self.prompt(answers)  # which refuses calls of tools
        return self.prompt(turns), [turn["content"] for turn in answers]

    def check_marks(self) -> None:
        """Refused: only a template can mark what the assistant says."""
        raise DataError(UNMARKED)

    def marked(self, turns: Sequence[Turn]) -> tuple[Rendered, Rendered]:
        """Refused, as by `check_marks`."""
        raise DataError(UNMARKED)


@dataclasses.dataclass(frozen=True)
class Template:
    """The chat template of a transformers tokenizer.

    special  ids of its special tokens
    end      ids after what the assistant says, to the last of these, or eos
    tools    those of the row
    """

    backend: Any
    special: frozenset[int]
    end: tuple[int, ...] = ()
    tools: Any = None

    def given(self, tools: Any) -> Template:
        """The same with a row's tools."""
        return dataclasses.replace(self, tools=tools)

    def with_end(self) -> Template:
        """The same with `end` as a short answer shows it."""
        answer = {"role": "assistant", "content": "b"}
        try:
            _, (ids,) = self._split([{"role": "user", "content": "a"}], [answer])
        except DataError:  # it wants other turns
            ids = []
        eos = self.backend.eos_token_id
        end = self._closing(ids) or (() if eos is None else (eos,))
        return dataclasses.replace(self, end=end)

    def prompt(self, turns: Sequence[Turn]) -> Rendered:
        """Ids of the turns and of the header of an assistant's turn."""
        ids = self._ids(turns, add_generation_prompt=True)
        return Rendered(array("i", ids), end=self.end)

    def answers(
        self, turns: Sequence[Turn], answers: Sequence[Turn]
    ) -> tuple[Rendered, list[Rendered]]:
        """The prompt, and what the template writes for each answer after it.

        Where it ends the turn without a special token, eos is added, and never else.
        """
        prompt, responses = self._split(turns, answers)
        ended = [ids if self._closing(ids) else [*ids, *self.end] for ids in responses]
        rendered = [Rendered(array("i", ids)) for ids in ended]
        return Rendered(array("i", prompt), end=self.end), rendered

    def marked(self, turns: Sequence[Turn]) -> tuple[Rendered, Rendered]:
        """One rendering, cut where the assistant first speaks and after it last does.

        `trained` is the mask of the template's generation blocks. Refused where they
        are fewer than the assistant's turns, as the mask of transformers is too where
        a block begins or ends in a space that the tokenizer leaves out of its offsets.
        """
        out = self._apply(
            turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = out["input_ids"], out["assistant_masks"]
        spoken = sum(turn["role"] == "assistant" for turn in turns)
        runs = sum(b > a for a, b in zip([0, *mask], mask, strict=False))
        if runs < spoken:
            raise DataError(
                f"the chat template marks {runs} stretches of text as generated, the "
                f"conversation has {spoken} turns of 'assistant'; mark each of them"
            )
        first, last = mask.index(1), len(mask) - mask[::-1].index(1)
        if first == 0:
            raise DataError("the chat template writes nothing before the assistant")
        said, marks = array("i", ids[first:last]), array("b", mask[first:last])
        return Rendered(array("i", ids[:first])), Rendered(said, marks)

    def check_marks(self) -> None:
        """Refuse a template that marks nothing as generated; names its folder."""
        if not MARK.search(self.backend.get_chat_template()):
            folder = self.backend.name_or_path or "the tokenizer"
            raise DataError(
                f"train_on: assistant, but the chat template of {folder} marks nothing "
                "as generated; write {% generation %} and {% endgeneration %} around "
                "what the assistant says there, or train_on: last"
            )

    def _split(self, turns: Sequence[Turn], answers: Sequence[Turn]):
        """Ids of the prompt, and those that each answer adds."""
        prompt = self._ids(turns, add_generation_prompt=True)
        return prompt, [self._added(prompt, turns, answer) for answer in answers]

    def _added(self, prompt: list[int], turns: Sequence[Turn], answer: Turn):
        whole = self._ids([*turns, answer])
        if len(whole) > len(prompt) and whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        before = self._apply(turns, tokenize=False, add_generation_prompt=True)
        text = self._apply([*turns, answer], tokenize=False)
        ids = []
        if text.startswith(before):
            ids = self.backend.encode(text[len(before) :], add_special_tokens=False)
        if not ids:
            at = len(os.path.commonprefix([before, text]))
            raise DataError(
                "the chat template does not continue the prompt: "
                f"{before[at : at + 20]!r} alone, {text[at : at + 20]!r} with the "
                "answer; write prompt and completion as text, or another template"
            )
        return ids

    def _closing(self, ids: list[int]) -> tuple[int, ...]:
        """Special tokens and whitespace at the end, to the last special token."""
        stop = len(ids)
        for start in range(len(ids) - 1, -1, -1):
            if ids[start] in self.special:
                continue
            if self.backend.decode([ids[start]]).strip():
                return tuple(ids[start + 1 : stop])
            if start == stop - 1:  # whitespace after the last special token
                stop = start
        return tuple(ids[:stop])

    def _ids(self, turns: Sequence[Turn], **options: Any) -> list[int]:
        out = self._apply(turns, tokenize=True, return_dict=True, **options)
        if not out["input_ids"]:
            raise DataError("the chat template writes nothing for these turns")
        return out["input_ids"]

    def _apply(self, turns: Sequence[Turn], **options: Any) -> Any:
        try:
            return self.backend.apply_chat_template(
                list(turns), tools=self.tools, **options
            )
        except Exception as error:  # templates refuse turns with errors of their own
            reason = " ".join(str(error).split())
            raise DataError(f"the chat template refuses the turns: {reason}") from error
