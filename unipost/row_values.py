"""Values of a row's columns, checked: text, labels, and lists of messages."""

import difflib
import json
import math
from typing import Any

from unipost.chat import Turn
from unipost.formats import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")


def value_of(row: dict[str, Any], column: str) -> Any:
    """A value that says something: text, a finite number, or a list of messages.

    Raises DataError, as everything here, with the column and the reason.
    """
    if column not in row:
        close = difflib.get_close_matches(column, list(row), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        listed = ", ".join(row) or "none"
        raise DataError(f"'{column}' is missing{hint} (columns: {listed})")
    value = row[column]
    if isinstance(value, list):
        turns = [_turn(column, i, turn) for i, turn in enumerate(value, start=1)]
        return turns or _empty(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return _empty(column)
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"'{column}' is {value}, not a number")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        got = type(value).__name__
        raise DataError(f"'{column}' is {got}; expected text or messages")
    return _whole(f"'{column}'", value) if isinstance(value, str) else value


def label_of(row: dict[str, Any], column: str) -> bool:
    """A label: true or false, or 1 or 0."""
    if column not in row:
        return value_of(row, column)  # which says what there is instead
    if row[column] not in (0, 1):
        raise DataError(f"'{column}' is {row[column]!r}; expected true or false")
    return bool(row[column])


def number_of(row: dict[str, Any], column: str) -> float:
    """A finite number."""
    value = row.get(column)
    if value is None:
        value_of(row, column)  # which says what there is instead
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"'{column}' is {value!r}; expected a number")
    if not math.isfinite(value):
        raise DataError(f"'{column}' is {value}; expected a finite number")
    return float(value)


def tools_of(row: dict[str, Any], column: str) -> list[Any] | None:
    """Tools as JSON schemas, a list or its JSON text; None where there are none."""
    tools = row.get(column)
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise DataError(
                f"'{column}' is not JSON at column {error.colno}: {error.msg}"
            ) from error
    if tools and not isinstance(tools, list):
        got = type(tools).__name__
        raise DataError(f"'{column}' is {got}; expected a list of JSON schemas")
    return tools or None


def text_of(name: str, value: Any) -> str:
    """The value if it is text."""
    if not isinstance(value, str):
        got = "messages" if isinstance(value, list) else "a number"
        raise DataError(f"'{name}' is {got}; expected text")
    return value


def answer_of(name: str, value: Any) -> tuple[list[Turn], Turn]:
    """The turns before the answer, none of text, and the assistant's turn."""
    if not isinstance(value, list):
        return [], {"role": "assistant", "content": text_of(name, value)}
    role = value[-1]["role"]
    if role != "assistant":
        raise DataError(f"'{name}' ends with a turn of '{role}', not of 'assistant'")
    return value[:-1], value[-1]


def _empty(column: str) -> Any:
    raise DataError(f"'{column}' is empty")


def _turn(column: str, number: int, turn: Any) -> Turn:
    """A message with what it says beside role and content: calls of tools, thoughts."""
    where = f"turn {number} of '{column}'"
    if not isinstance(turn, dict):
        got = type(turn).__name__
        raise DataError(f"{where} is {got}; expected an object of role and content")
    turn = {key: value for key, value in turn.items() if value is not None}
    if "role" not in turn or not {"content", "tool_calls"} & turn.keys():
        listed = ", ".join(map(str, turn)) or "none"
        raise DataError(f"{where} has no role or no content (keys: {listed})")
    if turn["role"] not in ROLES:
        known = ", ".join(ROLES)
        raise DataError(f"{where} has the role {turn['role']!r}; expected {known}")
    content = turn.get("content", "")
    if not isinstance(content, str):
        got = type(content).__name__
        raise DataError(f"the content of {where} is {got}; expected text")
    if not content.strip() and not turn.get("tool_calls"):
        raise DataError(f"the content of {where} is empty")
    return turn | {"content": _whole(where, content)}


def _whole(where: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half of a surrogate pair") from error
    return text
