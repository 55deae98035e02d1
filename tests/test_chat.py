"""Conversations as the template's own ids, never tokenised across the boundary."""

import json
import shutil
from dataclasses import replace

import pytest
from chat_templates import FOLDER, styled, turns

from unipost.chat import Rendered, chat_of, stop_tokens
from unipost.data import DataError, Demonstration, encode_rows, read_rows
from unipost.tokenizer import load_tokenizer

TALK = turns("What is 2 + 3?", "It is 5.", "And 4 + 4, é?", "It is 8, 🙂.")
WHOLE = ["chatml", "llama3", "gemma", "marked"]


def file_of(folder, *rows) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines_of(tokenizer, path, kind="demonstrations", **options):
    """(prompt ids, response ids) of every line, as training gets them."""
    rows = read_rows(path, kind, tokenizer=tokenizer, **options).rows
    tokens = encode_rows(tokenizer, rows, 200, 100)
    return [
        (prompt[kept].tolist(), response[real].tolist())
        for prompt, kept, response, real in zip(*tokens[:4], strict=True)
    ]


def template_ids(tokenizer, conversation, **options) -> list[int]:
    """What transformers' apply_chat_template gives."""
    return tokenizer.backend.apply_chat_template(
        conversation, tokenize=True, return_dict=True, **options
    )["input_ids"]


def refusal(path, tokenizer, kind="demonstrations", **options) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, kind, tokenizer=tokenizer, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(path, "FILE")


@pytest.mark.parametrize("style", WHOLE)
def test_prompt_and_response_are_the_templates_rendering(style, tmp_path):
    tokenizer = styled(style)
    asked, said = TALK[:3], TALK[3:]
    path = file_of(tmp_path, {"messages": TALK})
    want = template_ids(tokenizer, asked, add_generation_prompt=True)
    ((prompt, response),) = lines_of(tokenizer, path)
    assert prompt == want
    assert prompt + response == template_ids(tokenizer, TALK)
    halves = [{"prompt": asked, "completion": said}]
    halves.append({"prompt": asked, "completion": said[0]["content"]})
    assert lines_of(tokenizer, file_of(tmp_path, *halves)) == [(prompt, response)] * 2
    # the template's bos once, its end of a turn once, and no second end after it
    begins = {"chatml": 0, "llama3": 1, "gemma": 1, "marked": 0}[style]
    assert prompt.count(tokenizer.backend.bos_token_id) == begins
    ends = {"llama3": "<|eot|>", "gemma": "</turn>"}.get(style, "<|im_end|>")
    end = tokenizer.backend.convert_tokens_to_ids(ends)
    assert response.count(end) == 1
    assert sum(i in chat_of(tokenizer).special for i in response) == 1
    assert prompt.count(end) == 3


def test_recorded_ids(tmp_path):
    """Of the checkpoint's own template, as transformers 5.23 gave them."""
    path = file_of(tmp_path, {"messages": turns("hi", "yo")})
    prompt = [1, 88, 86, 72, 85, 202, 75, 76, 2, 202, 1, 68, 304, 76, 86, 261, 81, 87]
    assert lines_of(load_tokenizer(FOLDER), path) == [
        ([*prompt, 202], [92, 82, 2, 202])
    ]


@pytest.mark.parametrize("style", WHOLE)
def test_preferences_that_hold_their_prompt(style, tmp_path):
    tokenizer = styled(style)
    worse = [*TALK[:3], *turns("It is 9.", first="assistant")]
    rows = [
        {"chosen": TALK, "rejected": worse},
        {"prompt": TALK[:3], "chosen": TALK[3:], "rejected": worse[3:]},
        {"prompt": TALK[:3], "chosen": TALK[3]["content"], "rejected": "It is 9."},
        {"prompt": "And 4 + 4?", "chosen": TALK, "rejected": worse},
    ]
    prompt = template_ids(tokenizer, TALK[:3], add_generation_prompt=True)
    whole = [template_ids(tokenizer, talk) for talk in (TALK, worse)]
    want = [(prompt, ids[len(prompt) :]) for ids in whole]
    assert [prompt + response for _, response in want] == whole
    assert lines_of(tokenizer, file_of(tmp_path, *rows), "preferences") == want * 4


def test_labelled_messages(tmp_path):
    tokenizer = styled("chatml")
    path = file_of(tmp_path, {"messages": TALK, "label": False})
    assert lines_of(tokenizer, path, "labelled") == lines_of(tokenizer, path)


def test_a_merge_across_the_boundary_is_not_taken(tmp_path):
    """The header ends in s, the answer begins with s, and `ss` is a token."""
    tokenizer = styled("open")
    talk = turns("a", "sit")
    prompt = template_ids(tokenizer, talk[:1], add_generation_prompt=True)
    whole = template_ids(tokenizer, talk)
    assert whole[: len(prompt)] != prompt
    eos = tokenizer.eos_token  # the template writes no end of a turn
    want = prompt, [*tokenizer.encode("sit"), eos]
    assert lines_of(tokenizer, file_of(tmp_path, {"messages": talk})) == [want]
    text = {"prompt": "usersaassistants", "completion": "sit"}
    assert lines_of(tokenizer, file_of(tmp_path, text)) == [want]


def test_a_template_that_does_not_continue_its_prompt_is_refused(tmp_path):
    path = file_of(tmp_path, {"messages": turns("a", "b")})
    assert refusal(path, styled("thinking")) == (
        "FILE:1: the chat template does not continue the prompt: '<think>' alone, "
        "'b<|im_end|>' with the answer; write prompt and completion as text, or "
        "another template"
    )


def test_a_template_that_writes_nothing_is_refused(tmp_path):
    tokenizer = load_tokenizer(FOLDER)
    tokenizer.backend.chat_template = (
        "{{ messages[1:] | map(attribute='content') | join }}"
    )
    path = file_of(tmp_path, {"messages": turns("a", "b")})
    reason = "the chat template writes nothing for these turns"
    assert refusal(path, tokenizer) == f"FILE:1: {reason}"


def test_a_template_may_refuse_turns(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    good = {"messages": TALK}
    path = file_of(tmp_path, good, {"messages": [system, *TALK]})
    assert refusal(path, styled("gemma")) == (
        "FILE:2: the chat template refuses the turns: System role not supported"
    )
    with pytest.warns(UserWarning, match="skipped"):
        made = read_rows(
            path, "demonstrations", on_bad_row="skip", tokenizer=styled("gemma")
        )
    assert len(made.rows) == 1


@pytest.mark.parametrize(
    "style, end, stops",
    [
        ("chatml", "<|im_end|>", 1),
        ("gemma", "</turn>", 2),
        ("phi", "<|end|>\n<|eot|>", 2),
        ("open", "<|im_end|>", 1),
    ],
)
def test_a_text_in_answer_to_messages_ends_as_the_template_does(style, end, stops):
    tokenizer = styled(style)
    row = Demonstration(chat_of(tokenizer).prompt(TALK[:1]), "So 5.")
    tokens = encode_rows(tokenizer, [row], 100, 20)
    response = tokens.response[0][tokens.response_mask[0]].tolist()
    assert response == tokenizer.encode("So 5." + end)
    assert tokenizer.eos_token in stop_tokens(tokenizer)
    assert len(stop_tokens(replace(tokenizer, ends=()))) == stops
    assert {*stop_tokens(tokenizer)} & {*response[-3:]}


def test_questions_as_messages(tmp_path):
    row = {"prompt": TALK[:1], "answer": "5", "demonstration": "2 + 3 = 5"}
    tokenizer = styled("llama3")
    ((prompt, response),) = lines_of(tokenizer, file_of(tmp_path, row), "questions")
    assert response == []
    assert prompt == template_ids(tokenizer, TALK[:1], add_generation_prompt=True)


def test_tools_and_their_calls_reach_the_template(tmp_path):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    call = [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]
    talk = [
        *turns("2 + 3?"),
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "5"},
        *turns("It is 5.", first="assistant"),
    ]
    tokenizer = styled("tools")
    said = [{**talk[1], "content": ""}]  # a template may read a content
    whole = template_ids(tokenizer, [talk[0], *said, *talk[2:]], tools=tools)
    rows = [{"messages": talk, "tools": given} for given in (tools, json.dumps(tools))]
    found = lines_of(tokenizer, file_of(tmp_path, *rows))
    assert [prompt + response for prompt, response in found] == [whole] * 2
    assert "add" in tokenizer.decode(found[0][0])
    plain = load_tokenizer(FOLDER)
    plain.backend.chat_template = None
    for row, reason in (
        (rows[0], "'tools' needs a tokenizer with a chat template"),
        ({"messages": talk}, "turn 2 calls tools, which needs a tokenizer with a"),
    ):
        assert reason in refusal(file_of(tmp_path, row), plain)
    path = file_of(tmp_path, {"messages": TALK, "tools": "[{"})
    assert "'tools' is not JSON at column 3" in refusal(path, tokenizer)


def test_rows_hold_ids_and_compare_by_them():
    chat = chat_of(styled("chatml"))
    one, other = chat.prompt(TALK[:1]), chat.prompt(TALK[:3])
    assert isinstance(one, Rendered) and one == chat.prompt(TALK[:1]) and one != other


@pytest.mark.parametrize("listed, more", [([5, 7], {5, 7}), (5, {5}), (None, set())])
def test_the_ends_of_generation_config_stop_a_response(tmp_path, listed, more):
    shutil.copytree(FOLDER, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": listed}))
    tokenizer = load_tokenizer(tmp_path / "model")
    assert set(stop_tokens(tokenizer)) == {tokenizer.eos_token} | more
    path.write_text('{"eos_token_id": "<end>"}')
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id = '<en"):
        load_tokenizer(tmp_path / "model")
