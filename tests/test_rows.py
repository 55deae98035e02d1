"""Rows from every format, and every way that a row can be bad."""

import json
from pathlib import Path

import pytest

from unipost.data import (
    DataError,
    Demonstration,
    Labelled,
    Preference,
    Question,
    read_rows,
)
from unipost.tokenizer import CharTokenizer, load_tokenizer

FIXTURES = Path(__file__).parent / "fixtures"


def write(folder, rows, name="data.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("".join(line + "\n" for line in lines))
    return name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def said(user, assistant, system=None):
    turns = [{"role": "user", "content": user}]
    turns.append({"role": "assistant", "content": assistant})
    return [{"role": "system", "content": system}, *turns] if system else turns


# columns


def test_demonstrations(folder):
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    made = read_rows(write(folder, rows), "demonstrations")
    assert made.rows == [Demonstration("a", "b"), Demonstration("c", "d")]
    assert [row.place for row in made.rows] == ["data.jsonl:1", "data.jsonl:2"]
    assert made.skipped == []


def test_columns_can_be_renamed(folder):
    file = write(folder, [{"q": "a", "text": "b"}])
    renamed = {"prompt": "q", "completion": "text"}
    assert read_rows(file, "demonstrations", renamed).rows == [Demonstration("a", "b")]
    message = refusal(read_rows, file, "questions", {"promt": "q"})
    assert message == (
        "data.jsonl: columns: unknown 'promt' "
        "(questions has answer, demonstration, prompt, question, tools)"
    )


def test_messages_are_rendered(folder):
    turns = [*said("one", "two"), *said("three", "four")]
    file = write(folder, [{"messages": turns}])
    plain = "user: one\nassistant: two\nuser: three\nassistant: "
    assert read_rows(file, "demonstrations").rows == [Demonstration(plain, "four")]
    # tokenizers without a template write the same lines, published ones included
    named = {"tokenizer": CharTokenizer("ab")}
    assert read_rows(file, "demonstrations", **named).rows[0].prompt == plain
    named["tokenizer"] = load_tokenizer(FIXTURES / "hf_models" / "tiny_qwen2_policy")
    assert read_rows(file, "demonstrations", **named).rows[0].prompt != plain
    named["tokenizer"].backend.chat_template = None
    assert read_rows(file, "demonstrations", **named).rows[0].prompt == plain


def test_preferences_as_text_and_as_conversations(folder):
    good, bad = said("hi", "yes"), said("hi", "no")
    rows = [
        {"prompt": "hi", "chosen": "yes", "rejected": "no"},
        {"chosen": good, "rejected": bad},
        {"prompt": "hi", "chosen": good, "rejected": bad},
        {"prompt": good[:1], "chosen": good[1:], "rejected": bad[1:]},
    ]
    made = read_rows(write(folder, rows), "preferences").rows
    chat = Preference("user: hi\nassistant: ", "yes", "no")
    assert made == [Preference("hi", "yes", "no"), chat, chat, chat]


def test_labelled_rows_as_text_and_as_conversations(folder):
    rows = [
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "c", "completion": "d", "label": 0},
    ]
    made = read_rows(write(folder, rows), "labelled")
    assert made.rows == [Labelled("a", "b", True), Labelled("c", "d", False)]
    assert made.rows[1].label is False and made.rows[1].place == "data.jsonl:2"
    turns = [{"messages": said("hi", "yes"), "good": 1}]
    chat = read_rows(write(folder, turns), "labelled", {"label": "good"}).rows
    assert chat == [Labelled("user: hi\nassistant: ", "yes", True)]


def test_questions(folder):
    rows = [
        {"prompt": "a", "answer": "4"},
        {"prompt": "b", "answer": 5, "demonstration": "so 5"},
        {"prompt": "c", "answer": 145.0, "demonstration": None},
        {"prompt": "d", "answer": "2+2=4\n#### 4"},
    ]
    assert read_rows(write(folder, rows), "questions").rows == [
        Question("a", "4"),
        Question("b", "5", "so 5"),
        Question("c", "145.0"),
        Question("d", "4", "2+2=4\n#### 4"),
    ]


def test_gsm8k_as_published():
    questions = read_rows(FIXTURES / "gsm8k.jsonl", "questions").rows
    assert len(questions) == 40
    assert questions[0].answer == "72"
    assert questions[0].prompt.startswith("Natalia sold clips to 48")
    assert questions[0].demonstration.endswith("altogether in April and May.\n#### 72")
    taught = read_rows(FIXTURES / "gsm8k.jsonl", "demonstrations").rows
    assert [row.response for row in taught] == [q.demonstration for q in questions]


# formats


def test_every_format_gives_the_same_rows(folder):
    import datasets

    rows = [{"prompt": "é 1", "answer": "4"}, {"prompt": "b\u2028c", "answer": "5"}]
    expected = [Question("é 1", "4"), Question("b\u2028c", "5")]
    write(folder, [json.dumps(row, ensure_ascii=False) for row in rows])
    (folder / "data.json").write_text(json.dumps(rows, indent=1))
    write(folder, rows, "lines.json")
    (folder / "bom.jsonl").write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows)).encode() + b"\r\n\r\n"
    )
    table = datasets.Dataset.from_list(rows)
    table.to_parquet("data.parquet")
    table.save_to_disk("saved")
    names = ["data.jsonl", "data.json", "lines.json", "bom.jsonl", "data.parquet"]
    for name in [*names, "saved"]:
        assert read_rows(name, "questions").rows == expected, name
    place = read_rows("data.parquet", "questions").rows[1].place
    assert place == "data.parquet row 2"
    datasets.DatasetDict({"test": table, "train": table}).save_to_disk("splits")
    assert refusal(read_rows, "splits", "questions") == (
        "splits: holds splits; write splits/test or splits/train"
    )


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b"", "a.jsonl: the file is empty"),
        ("a.jsonl", b"\n\n", "a.jsonl: no rows"),
        ("a.json", b"[]", "a.json: no rows"),
        (
            "a.json",
            b'[{"a": 1},\n {"b"',
            "a.json:2: not JSON at column 6: Expecting ':' delimiter",
        ),
        ("a.json", b'["\xff"]', "a.json: not UTF-8 at byte 3"),
        (
            "a.csv",
            b"a,b",
            "a.csv: unknown format '.csv' (reads .jsonl, .ndjson, .json, .parquet)",
        ),
    ],
)
def test_files_that_cannot_be_read(folder, name, content, message):
    (folder / name).write_bytes(content)
    assert refusal(read_rows, name, "questions") == message


def test_folders_and_parquet_that_cannot_be_read(folder):
    message = "gone.jsonl: no such file or folder"
    assert refusal(read_rows, "gone.jsonl", "questions") == message
    (folder / "other").mkdir()
    message = "other: not a folder written by Dataset.save_to_disk"
    assert refusal(read_rows, "other", "questions") == message
    (folder / "a.parquet").write_bytes(b"PAR1 cut")
    message = refusal(read_rows, "a.parquet", "questions")
    assert message.startswith("a.parquet: not a Parquet file: ") and "\n" not in message


# bad rows


GOOD = {"prompt": "a", "completion": "b"}
TURN = {"role": "user", "content": "a"}
BAD_ROWS = [
    (
        "demonstrations",
        {"prompt": "a", "text": "b"},
        "'completion' is missing (columns: prompt, text)",
    ),
    (
        "demonstrations",
        {"prompt": "a", "completions": "b"},
        "'completion' is missing; did you mean 'completions'? "
        "(columns: prompt, completions)",
    ),
    ("demonstrations", {"prompt": "", "completion": "b"}, "'prompt' is empty"),
    ("demonstrations", {"prompt": "a", "completion": " \n"}, "'completion' is empty"),
    ("demonstrations", {"prompt": "a", "completion": None}, "'completion' is empty"),
    (
        "demonstrations",
        {"prompt": "a", "completion": 3},
        "'completion' is a number; expected text",
    ),
    (
        "demonstrations",
        {"prompt": "a", "completion": True},
        "'completion' is bool; expected text or messages",
    ),
    (
        "demonstrations",
        {"prompt": "a", "completion": {"x": 1}},
        "'completion' is dict; expected text or messages",
    ),
    (
        "demonstrations",
        {"prompt": "a", "completion": [TURN]},
        "'completion' ends with a turn of 'user', not of 'assistant'",
    ),
    (
        "demonstrations",
        {"prompt": "a", "completion": said("a", "b")},
        "'completion' holds 2 turns; expected one",
    ),
    (
        "demonstrations",
        {"messages": said("a", "b")},
        "'prompt' is missing (columns: messages)",
    ),
    (
        "demonstrations",
        '{"prompt": "a", "completion": "\\ud800"}',
        "'completion' holds half of a surrogate pair",
    ),
    (
        "demonstrations",
        '{"prompt": "a", "compl',
        "not JSON at column 17: Unterminated string starting at",
    ),
    ("demonstrations", "[1, 2]", "expected an object of columns, got list"),
    ("messages", {"messages": []}, "'messages' is empty"),
    ("messages", {"messages": "a"}, "'messages' is text; expected a list of messages"),
    (
        "messages",
        {"messages": said("a", "b")[1:]},
        "'messages' holds no turn before the response",
    ),
    (
        "messages",
        {"messages": [*said("a", "b"), TURN]},
        "'messages' ends with a turn of 'user', not of 'assistant'",
    ),
    (
        "preferences",
        {"prompt": "a", "chosen": "b"},
        "'rejected' is missing (columns: prompt, chosen)",
    ),
    (
        "preferences",
        {"chosen": "a", "rejected": "b"},
        "'prompt' is missing, and 'chosen' does not hold it either; write a column "
        "prompt, or chosen and rejected as messages from the first turn on",
    ),
    (
        "preferences",
        {"chosen": said("a", "b"), "rejected": said("x", "c")},
        "'chosen' and 'rejected' differ before the last turn",
    ),
    ("questions", '{"prompt": "a", "answer": NaN}', "'answer' is nan, not a number"),
    (
        "questions",
        {"prompt": "a", "answer": "so\n#### "},
        "'answer' has nothing after '####'",
    ),
    (
        "questions",
        {"prompt": "a", "answer": said("a", "b")},
        "'answer' is messages; expected text or a number",
    ),
    ("questions", {"prompt": 3, "answer": "b"}, "'prompt' is a number; expected text"),
]
GOOD_ROWS = {
    "demonstrations": GOOD,
    "messages": {"messages": said("a", "b")},
    "preferences": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "questions": {"prompt": "a", "answer": "b"},
}


@pytest.mark.parametrize("sort, row, message", BAD_ROWS)
def test_a_bad_row_is_named_by_file_line_and_reason(folder, sort, row, message):
    kind = "demonstrations" if sort == "messages" else sort
    good = GOOD_ROWS[sort]
    file = write(folder, [good, good, row, good])
    assert refusal(read_rows, file, kind) == f"data.jsonl:3: {message}"
    with pytest.warns(UserWarning) as caught:
        made = read_rows(file, kind, on_bad_row="skip")
    assert str(caught[0].message) == f"skipped data.jsonl:3: {message}"
    assert len(made.rows) == 3 and made.skipped == [f"data.jsonl:3: {message}"]


def test_a_file_cut_inside_its_last_line(folder):
    file = write(folder, [GOOD, GOOD])
    text = (folder / file).read_text()
    (folder / file).write_text(text[:-5])
    assert refusal(read_rows, file, "demonstrations") == (
        "data.jsonl:2: not JSON at column 30: Expecting value; "
        "the file ends inside this line"
    )
    (folder / file).write_text(text[:-1])  # a missing last newline alone is no loss
    assert len(read_rows(file, "demonstrations").rows) == 2


def test_invalid_utf8_is_found_in_its_line(folder):
    line = json.dumps(GOOD).encode()
    (folder / "data.jsonl").write_bytes(line + b'\n{"prompt": "\xff"}\n' + line)
    message = "data.jsonl:2: not UTF-8 at byte 13 of the line"
    assert refusal(read_rows, "data.jsonl", "demonstrations") == message


def test_five_bad_rows_are_listed_and_the_rest_counted(folder):
    file = write(folder, [GOOD] + [{"prompt": "a", "completion": ""}] * 7)
    lines = [f"data.jsonl:{n}: 'completion' is empty" for n in range(2, 7)]
    expected = "\n".join(["7 of 8 rows:", *lines, "... and 2 more"])
    assert refusal(read_rows, file, "demonstrations") == expected
    with pytest.warns(UserWarning, match="skipped 7 of 8 rows:"):
        made = read_rows(file, "demonstrations", on_bad_row="skip")
    assert made.rows == [Demonstration("a", "b")] and len(made.skipped) == 7


def test_one_reason_for_all_rows_is_said_once(folder):
    file = write(folder, [{"problem": "a", "answer": "1"}] * 3)
    assert refusal(read_rows, file, "questions") == (
        "data.jsonl:1: 'prompt' is missing; did you mean 'problem'? "
        "(columns: problem, answer); so in all 3 rows"
    )


def test_skipping_never_leaves_nothing(folder):
    file = write(folder, [{"prompt": "a", "completion": ""}])
    message = refusal(read_rows, file, "demonstrations", on_bad_row="skip")
    assert message == "data.jsonl:1: 'completion' is empty"


def test_columns_of_another_kind(folder):
    file = write(folder, [{"instruction": "a", "output": "b"}])
    assert refusal(read_rows, file, "demonstrations") == (
        "data.jsonl: demonstrations need messages; or prompt, completion; or question, "
        "answer; map yours with columns: {usual: yours} (columns: instruction, output)"
    )
