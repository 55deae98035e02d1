"""Every way that a list of messages can be bad, each in one line with file and row."""

import json

import pytest
from chat_templates import styled, turns

from unipost.data import DataError, read_rows
from unipost.tokenizer import CharTokenizer

TALK = turns("a", "b")
TURN = TALK[0]
LAST = TALK[1]
KNOWN = "expected system, developer, user, assistant, tool"
BAD = [
    (
        [{"from": "human", "value": "a"}, LAST],
        "turn 1 of 'messages' has no role or no ",
    ),
    (
        [{"role": "user"}, LAST],
        "turn 1 of 'messages' has no role or no content (keys: ",
    ),
    ([TURN, {"role": "gpt", "content": "b"}], f"has the role 'gpt'; {KNOWN}"),
    ([TURN, {"role": 3, "content": "b"}], f"has the role 3; {KNOWN}"),
    (
        [TURN, "b"],
        "turn 2 of 'messages' is str; expected an object of role and content",
    ),
    (
        [TURN, {**LAST, "content": " \n"}],
        "the content of turn 2 of 'messages' is empty",
    ),
    (
        [TURN, {**LAST, "content": None}],
        "turn 2 of 'messages' has no role or no content",
    ),
    (
        [TURN, {**LAST, "content": "", "tool_calls": []}],
        "the content of turn 2 of 'messages' is empty",
    ),
    (
        [{**TURN, "content": [{"type": "text", "text": "a"}]}, LAST],
        "the content of turn 1 of 'messages' is list; expected text",
    ),
    (
        [TURN, {**LAST, "content": "\ud800"}],
        "turn 2 of 'messages' holds half of a surr",
    ),
    ([TURN], "'messages' ends with a turn of 'user', not of 'assistant'"),
    ([LAST], "'messages' holds no turn before the response"),
    ([], "'messages' is empty"),
]


@pytest.mark.parametrize("messages, reason", BAD)
@pytest.mark.parametrize("style", [None, "chatml"])
def test_bad_messages(messages, reason, style, tmp_path):
    path = tmp_path / "talks.jsonl"
    rows = [{"messages": TALK}, {"messages": messages}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = CharTokenizer("ab") if style is None else styled(style)
    with pytest.raises(DataError) as caught:
        read_rows(path, "demonstrations", tokenizer=tokenizer)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ") and reason in message
    assert "\n" not in message


@pytest.mark.parametrize("column", ["chosen", "rejected", "prompt"])
def test_bad_messages_of_preferences(column, tmp_path):
    row = {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": TALK[1:]}
    row[column] = [{"role": "bot", "content": "x"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError) as caught:
        read_rows(path, "preferences", tokenizer=styled("chatml"))
    assert str(caught.value) == (
        f"{path}:1: turn 1 of '{column}' has the role 'bot'; {KNOWN}"
    )
