"""How a question is put: text around it, messages, and what has no meaning."""

import json

import pytest
from chat_templates import styled

from unipost.data import encode_rows
from unipost.formats import DataError
from unipost.rows import read_rows
from unipost.wording import Wording

ASK = "{prompt}\nAnswer in \\boxed{}."


def test_text_around_a_question():
    assert Wording(ASK, form="text").put("2+2?") == "2+2?\nAnswer in \\boxed{}."
    assert Wording().put("a") == [{"role": "user", "content": "a"}]
    assert Wording(ASK, system="Think.").put("a{b}") == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "a{b}\nAnswer in \\boxed{}."},
    ]


def test_the_last_turn_of_messages_is_worded():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns += [{"role": "user", "content": "c"}]
    put = Wording("<{prompt}>").put(turns)
    assert put[:2] == turns[:2] and put[2]["content"] == "<c>"


def test_refused():
    with pytest.raises(ValueError, match="wording.text: 'x' has no place"):
        Wording("x")
    with pytest.raises(ValueError, match="wording.system: a text has no system"):
        Wording(system="x", form="text")
    with pytest.raises(DataError, match="write wording.form: chat"):
        Wording(form="text").put([{"role": "user", "content": "a"}])
    twice = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(DataError, match="has a system message already"):
        Wording(system="x").put(twice)


@pytest.mark.parametrize("kind", ["questions", "demonstrations"])
def test_rows_are_worded_as_messages_written_out_would_be(kind, tmp_path):
    """Token ids equal those of the same conversation spelled out in the file."""
    tokenizer = styled("chatml")
    said = [{"role": "system", "content": "S"}, {"role": "user", "content": "<1+1?>"}]
    worded, spelled = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    worded.write_text(json.dumps({"question": "1+1?", "answer": "2"}) + "\n")
    name = "answer" if kind == "questions" else "completion"
    spelled.write_text(json.dumps({"prompt": said, name: "2"}) + "\n")
    wording = Wording("<{prompt}>", "S")
    one = read_rows(worded, kind, tokenizer=tokenizer, wording=wording).rows
    other = read_rows(spelled, kind, tokenizer=tokenizer).rows
    first, second = (encode_rows(tokenizer, rows, 64, 16) for rows in (one, other))
    for a, b in zip(first[:4], second[:4], strict=True):
        assert a.tolist() == b.tolist()


def test_a_file_without_a_prompt_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(DataError, match="a.jsonl:1: wording: the rows have no column"):
        read_rows(path, "demonstrations", wording=Wording())
