"""Rows of text from files: demonstrations, preferences, labelled rows, questions.

| kind | columns (the first layout that the rows have) |
|---|---|
| demonstrations | messages; prompt, completion; question, answer |
| preferences | chosen, rejected, and prompt unless they hold it as messages |
| labelled | messages, label; prompt, completion, label; the label true or false |
| questions | prompt, answer; question, answer; demonstration if there is one |

A value may be a list of messages {role, content}. The response is the content of the
last, assistant turn; the turns before it are the prompt. They are rendered by the
tokenizer's chat template, or else as lines `role: content` with `assistant: ` last.
GSM8K reads as published: the answer is what follows `####`, the whole text its
demonstration.
"""

import dataclasses
import difflib
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unipost.formats import DataError, Record, read_records, summary


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A prompt and the response to imitate."""

    prompt: str
    response: str
    place: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Preference:
    """A prompt, the response preferred and the one rejected."""

    prompt: str
    chosen: str
    rejected: str
    place: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A prompt and a response, desirable or not."""

    prompt: str
    response: str
    label: bool
    place: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt, the answer to check against, and a worked solution if there is one."""

    prompt: str
    answer: str
    demonstration: str | None = None
    place: str = dataclasses.field(default="", compare=False)


Row = Demonstration | Preference | Labelled | Question
Kind = Literal["demonstrations", "preferences", "labelled", "questions"]

_LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "demonstrations": (("messages",), ("prompt", "completion"), ("question", "answer")),
    "preferences": (("chosen", "rejected"),),
    "labelled": (("messages", "label"), ("prompt", "completion", "label")),
    "questions": (("prompt", "answer"), ("question", "answer")),
}
_OPTIONAL = {"preferences": ("prompt",), "questions": ("demonstration",)}


class Rows(NamedTuple):
    """The good rows of a file, and one line per row that was skipped."""

    rows: list[Any]
    skipped: list[str]


def read_rows(
    path: str | Path,
    kind: Kind,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    tokenizer: Any = None,
) -> Rows:
    """The rows of a file or folder, each as the dataclass of its kind.

    `columns` maps a usual name to the file's own, {"completion": "text"}. Bad rows
    raise DataError with file, line and reason, or are skipped with a warning and
    listed. Raises DataError when no row is good.
    """
    columns = dict(columns or {})
    records = list(read_records(path))
    if not records:
        raise DataError(f"{path}: no rows")
    layout = _layout(path, kind, columns, records)
    chat = _chat(tokenizer)
    rows, bad = [], []
    for record in records:
        try:
            rows.append(_row(record, kind, layout, columns, chat))
        except DataError as error:
            bad.append(f"{record.place}: {error}")
    if bad and (on_bad_row == "raise" or not rows):
        raise DataError(summary(bad, len(records)))
    if bad:
        warnings.warn(f"skipped {summary(bad, len(records))}", stacklevel=2)
    return Rows(rows, bad)


def _layout(
    path: str | Path, kind: Kind, columns: dict[str, str], records: list[Record]
) -> tuple[str, ...]:
    """The layout that most rows have whole, or else the one nearest to the first."""
    layouts = _LAYOUTS[kind]
    known = {name for layout in layouts for name in layout}
    known.update(_OPTIONAL.get(kind, ()))
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
    chat: Callable,
) -> Row:
    if record.problem:
        raise DataError(record.problem)
    read = {name: _label if name == "label" else _value for name in layout}
    values = {x: read[x](record.row, columns.get(x, x)) for x in layout}
    for name in _OPTIONAL.get(kind, ()):
        column = columns.get(name, name)
        if record.row.get(column) is not None:
            values[name] = _value(record.row, column)
    if kind == "demonstrations":
        return Demonstration(*_demonstration(values, chat), record.place)
    if kind == "preferences":
        return Preference(*_preference(values, chat), record.place)
    if kind == "labelled":
        label = values.pop("label")
        return Labelled(*_demonstration(values, chat), label, record.place)
    return Question(*_question(values, chat), record.place)


def _value(row: dict[str, Any], column: str) -> Any:
    """A value that says something: text, a finite number, or a list of messages."""
    if column not in row:
        close = difflib.get_close_matches(column, list(row), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        listed = ", ".join(row) or "none"
        raise DataError(f"'{column}' is missing{hint} (columns: {listed})")
    value = row[column]
    if isinstance(value, list):
        return [_message(column, message) for message in value] or _empty(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return _empty(column)
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"'{column}' is {value}, not a number")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        got = type(value).__name__
        raise DataError(f"'{column}' is {got}; expected text or messages")
    return _whole(column, value) if isinstance(value, str) else value


def _label(row: dict[str, Any], column: str) -> bool:
    """A label: true or false, or 1 or 0."""
    if column not in row:
        return _value(row, column)  # which says what there is instead
    if row[column] not in (0, 1):
        raise DataError(f"'{column}' is {row[column]!r}; expected true or false")
    return bool(row[column])


def _empty(column: str) -> Any:
    raise DataError(f"'{column}' is empty")


def _message(column: str, message: Any) -> dict[str, str]:
    turn = message if isinstance(message, dict) else {}
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
        raise DataError(f"'{column}' holds a turn without text in role and content")
    return {"role": role, "content": _whole(column, content)}


def _whole(column: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"'{column}' holds half of a surrogate pair") from error
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        got = "messages" if isinstance(value, list) else "a number"
        raise DataError(f"'{name}' is {got}; expected text")
    return value


def _prompt(name: str, value: Any, chat: Callable) -> str:
    return chat(value) if isinstance(value, list) else _text(name, value)


def _response(name: str, value: Any) -> tuple[list, str]:
    """The turns before the response, and the response."""
    if not isinstance(value, list):
        return [], _text(name, value)
    if value[-1]["role"] != "assistant":
        role = value[-1]["role"]
        raise DataError(f"'{name}' ends with a turn of '{role}', not of 'assistant'")
    return value[:-1], value[-1]["content"]


def _demonstration(values: dict[str, Any], chat: Callable) -> tuple[str, str]:
    if "messages" in values:
        if not isinstance(values["messages"], list):
            raise DataError("'messages' is text; expected a list of messages")
        before, response = _response("messages", values["messages"])
        if not before:
            raise DataError("'messages' holds no turn before the response")
        return chat(before), response
    (question, asked), (name, said) = values.items()
    before, response = _response(name, said)
    if before:
        raise DataError(f"'{name}' holds {len(before) + 1} turns; expected one")
    return _prompt(question, asked, chat), response


def _preference(values: dict[str, Any], chat: Callable) -> tuple[str, str, str]:
    before, chosen = _response("chosen", values["chosen"])
    other, rejected = _response("rejected", values["rejected"])
    if before != other:
        raise DataError("'chosen' and 'rejected' differ before the last turn")
    if before:  # the conversation holds the whole prompt, a prompt column its last turn
        return chat(before), chosen, rejected
    if "prompt" not in values:
        raise DataError("'prompt' is missing, and 'chosen' does not hold it either")
    return _prompt("prompt", values["prompt"], chat), chosen, rejected


def _question(values: dict[str, Any], chat: Callable) -> tuple[str, str, str | None]:
    (name, asked), (_, answer), *rest = values.items()
    if isinstance(answer, list):
        raise DataError("'answer' is messages; expected text or a number")
    answer = str(answer).strip()
    worked = _text(*rest[0]) if rest else None
    if "####" in answer:
        solution, answer = answer, answer.rsplit("####", 1)[1].strip()
        worked = worked or solution
        if not answer:
            raise DataError("'answer' has nothing after '####'")
    return _prompt(name, asked, chat), answer, worked


def _chat(tokenizer: Any) -> Callable[[list[dict[str, str]]], str]:
    tokenizer = getattr(tokenizer, "backend", tokenizer)  # of a PretrainedTokenizer
    template = getattr(tokenizer, "apply_chat_template", None)
    if template is None or not getattr(tokenizer, "chat_template", True):
        return _plain_chat

    def render(turns: list[dict[str, str]]) -> str:
        try:
            return template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates refuse turns with errors of their own
            reason = " ".join(str(error).split())
            raise DataError(f"the chat template refuses the turns: {reason}") from error

    return render


def _plain_chat(turns: list[dict[str, str]]) -> str:
    lines = [f"{turn['role']}: {turn['content']}\n" for turn in turns]
    return "".join(lines) + "assistant: "
