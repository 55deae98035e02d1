"""Rows from files: demonstrations, preferences, labelled rows, questions.

| kind | columns (the first layout that the rows have) |
|---|---|
| demonstrations | messages; prompt, completion; question, answer |
| preferences | chosen, rejected, and prompt unless they hold it as messages |
| labelled | messages, label; prompt, completion, label; the label true or false |
| questions | prompt, answer; question, answer; demonstration if there is one |
| prompts | prompt; question: a question without an answer |

A value may be text or a list of messages {role, content}. The response is the last,
assistant turn; the turns before it are the prompt. The tokenizer's chat template makes
token ids of them (`unipost.chat`), with the row's `tools` if it has that column;
without a template they become lines `role: content` with `assistant: ` last. GSM8K
reads as published: the answer is what follows `####`, the whole text its demonstration.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unipost.chat import Chat, Rendered, TrainOn, Turn, chat_of
from unipost.formats import DataError, Record, read_records, summary
from unipost.row_values import (
    answer_of,
    label_of,
    number_of,
    text_of,
    tools_of,
    value_of,
)
from unipost.tokenizer import Tokenizer
from unipost.wording import Wording

Text = str | Rendered
"""Text, or the token ids that a chat template made of messages."""


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate."""

    prompt: Text
    response: Text
    place: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Preference:
    """A prompt, the response preferred and the one rejected."""

    prompt: Text
    chosen: Text
    rejected: Text
    place: str = dataclasses.field(default="", compare=False)
    margin: float | None = None


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A prompt and a response, desirable or not."""

    prompt: Text
    response: Text
    label: bool
    place: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt, the answer to check against, and a worked solution if there is one.

    row  the file's row as it is, all of its columns
    """

    prompt: Text
    answer: str
    demonstration: str | None = None
    place: str = dataclasses.field(default="", compare=False)
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


def demonstration(question: Question) -> Demonstration:
    """The question with its worked solution, or its answer, as the response."""
    response = question.demonstration or question.answer
    return Demonstration(question.prompt, response, question.place)


Row = Demonstration | Preference | Labelled | Question
Kind = Literal["demonstrations", "preferences", "labelled", "questions", "prompts"]

_LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "demonstrations": (("messages",), ("prompt", "completion"), ("question", "answer")),
    "preferences": (("chosen", "rejected"),),
    "labelled": (("messages", "label"), ("prompt", "completion", "label")),
    "questions": (("prompt", "answer"), ("question", "answer")),
    "prompts": (("prompt",), ("question",)),
}
_OPTIONAL = {"preferences": ("prompt",), "questions": ("demonstration",)}
_TOOLS = "tools"
_MARGIN = "margin"
"""Of preferences: read where `columns` names it."""


class Rows(NamedTuple):
    """The good rows of a file, and one line per row that was skipped."""

    rows: list[Any]
    skipped: list[str]


def read_rows(
    path: str | Path,
    kind: Kind,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    tokenizer: Tokenizer | None = None,
    train_on: TrainOn = "last",
    wording: Wording | None = None,
) -> Rows:
    """The rows of a file or folder, each as the dataclass of its kind.

    `columns` maps a usual name to the file's own, {"completion": "text"}. Bad rows
    raise DataError with file, line and reason, or are skipped with a warning and
    listed. Raises DataError when no row is good. `train_on` assistant makes messages
    a response from the assistant's first turn on, with its other turns marked.
    `wording` makes the prompt of a column prompt or question.
    """
    columns = dict(columns or {})
    records = list(read_records(path))
    if not records:
        raise DataError(f"{path}: no rows")
    layout = _layout(path, kind, columns, records)
    chat = chat_of(tokenizer)
    if train_on == "assistant":
        _check_assistant(path, layout, chat)
    rows, bad = [], []
    for record in records:
        try:
            row = _row(record, kind, layout, columns, chat, train_on, wording)
            rows.append(row)
        except DataError as error:
            bad.append(f"{record.place}: {error}")
    if bad and (on_bad_row == "raise" or not rows):
        raise DataError(summary(bad, len(records)))
    if bad:
        warnings.warn(f"skipped {summary(bad, len(records))}", stacklevel=2)
    return Rows(rows, bad)


def _check_assistant(path: str | Path, layout: tuple[str, ...], chat: Chat) -> None:
    if layout != ("messages",):
        raise DataError(
            f"{path}: train_on: assistant needs demonstrations in a column messages, "
            f"the rows have {', '.join(layout)}; write train_on: last"
        )
    try:
        chat.check_marks()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _layout(
    path: str | Path, kind: Kind, columns: dict[str, str], records: list[Record]
) -> tuple[str, ...]:
    """The layout that most rows have whole, or else the one nearest to the first."""
    layouts = _LAYOUTS[kind]
    known = {name for layout in layouts for name in layout}
    known.update((*_OPTIONAL.get(kind, ()), _TOOLS))
    known.update((_MARGIN,) if kind == "preferences" else ())
    for name in columns:
        if name not in known:
            listed = ", ".join(sorted(known))
            raise DataError(f"{path}: columns: unknown '{name}' ({kind} has {listed})")
    names = [{n for n in known if columns.get(n, n) in r.row} for r in records]
    whole = [sum(set(layout) <= has for has in names) for layout in layouts]
    if any(whole):
        return layouts[whole.index(max(whole))]
    first = next((i for i, r in enumerate(records) if not r.problem), 0)
    near = [len(names[first] & set(layout)) / len(layout) for layout in layouts]
    if any(near) or records[first].problem:
        return layouts[near.index(max(near))]
    needs = "; or ".join(", ".join(layout) for layout in layouts)
    found = ", ".join(map(str, records[first].row)) or "none"
    hint = "map yours with columns: {usual: yours}"
    raise DataError(f"{path}: {kind} need {needs}; {hint} (columns: {found})")


def _row(
    record: Record,
    kind: Kind,
    layout: tuple[str, ...],
    columns: dict[str, str],
    chat: Chat,
    train_on: TrainOn,
    wording: Wording | None = None,
) -> Row:
    if record.problem:
        raise DataError(record.problem)
    read = {name: label_of if name == "label" else value_of for name in layout}
    values = {x: read[x](record.row, columns.get(x, x)) for x in layout}
    for name in _OPTIONAL.get(kind, ()):
        column = columns.get(name, name)
        if record.row.get(column) is not None:
            values[name] = value_of(record.row, column)
    if wording is not None:
        asked = next((name for name in ("prompt", "question") if name in values), None)
        if asked is None:
            raise DataError("wording: the rows have no column prompt or question")
        values[asked] = wording.put(values[asked])
    if any(isinstance(value, list) for value in values.values()):
        tools = tools_of(record.row, columns.get(_TOOLS, _TOOLS))
        chat = chat if tools is None else chat.given(tools)
    if kind == "demonstrations":
        return Demonstration(*_demonstration(values, chat, train_on), record.place)
    if kind == "preferences":
        name = columns.get(_MARGIN)
        margin = None if name is None else number_of(record.row, name)
        return Preference(*_preference(values, chat), record.place, margin)
    if kind == "labelled":
        label = values.pop("label")
        return Labelled(*_demonstration(values, chat), label, record.place)
    if kind == "prompts":
        ((name, asked),) = values.items()
        return Question(_prompt(name, asked, chat), "", None, record.place, record.row)
    return Question(*_question(values, chat), record.place, record.row)


def _prompt(name: str, value: Any, chat: Chat) -> Text:
    return chat.prompt(value) if isinstance(value, list) else text_of(name, value)


def _answered(
    name: str, asked: Any, chat: Chat, *answers: Turn
) -> tuple[Text, list[Text]]:
    """The prompt and the answers to it, by the chat template if it is messages."""
    if isinstance(asked, list):
        return chat.answers(asked, answers)
    return text_of(name, asked), [turn["content"] for turn in answers]


def _demonstration(
    values: dict[str, Any], chat: Chat, train_on: TrainOn = "last"
) -> tuple[Text, Text]:
    if "messages" in values:
        return _conversation(values["messages"], chat, train_on)
    (question, asked), (name, said) = values.items()
    before, answer = answer_of(name, said)
    if before:
        raise DataError(f"'{name}' holds {len(before) + 1} turns; expected one")
    prompt, (response,) = _answered(question, asked, chat, answer)
    return prompt, response


def _conversation(turns: Any, chat: Chat, train_on: TrainOn) -> tuple[Text, Text]:
    if not isinstance(turns, list):
        raise DataError("'messages' is text; expected a list of messages")
    if train_on == "assistant":
        if not any(turn["role"] == "assistant" for turn in turns):
            raise DataError("'messages' holds no turn of 'assistant'")
        return chat.marked(turns)
    before, answer = answer_of("messages", turns)
    if not before:
        raise DataError("'messages' holds no turn before the response")
    prompt, (response,) = chat.answers(before, [answer])
    return prompt, response


def _preference(values: dict[str, Any], chat: Chat) -> tuple[Text, Text, Text]:
    before, chosen = answer_of("chosen", values["chosen"])
    other, rejected = answer_of("rejected", values["rejected"])
    if before != other:
        raise DataError("'chosen' and 'rejected' differ before the last turn")
    # the conversation holds the whole prompt, a prompt column its last turn
    if not before and "prompt" not in values:
        raise DataError(
            "'prompt' is missing, and 'chosen' does not hold it either; write a column "
            "prompt, or chosen and rejected as messages from the first turn on"
        )
    asked = before or values["prompt"]
    prompt, (good, bad) = _answered("prompt", asked, chat, chosen, rejected)
    return prompt, good, bad


def _question(values: dict[str, Any], chat: Chat) -> tuple[Text, str, str | None]:
    (name, asked), (_, answer), *rest = values.items()
    if isinstance(answer, list):
        raise DataError("'answer' is messages; expected text or a number")
    answer = str(answer).strip()
    worked = text_of(*rest[0]) if rest else None
    if "####" in answer:
        solution, answer = answer, answer.rsplit("####", 1)[1].strip()
        worked = worked or solution
        if not answer:
            raise DataError("'answer' has nothing after '####'")
    return _prompt(name, asked, chat), answer, worked
