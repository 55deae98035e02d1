"""The byte tokenizer against Python's UTF-8 and transformers on the saved folder."""

import random

import pytest
from chat_templates import turns
from tiny_runs import TINY

from unipost.chat import stop_tokens
from unipost.loading import NewModel, load_model
from unipost.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    PretrainedTokenizer,
    load_tokenizer,
)

BYTES = ByteTokenizer()
TEXTS = [
    "",
    "a b\n",
    "é中🙂",
    "\x00\x7f\u0080\u2028",
    "<|eos|>a<|turn|>",
    "<|eos|",
    "e\u0301 ",
]
TALK = turns(" Hi é ", "yo 🙂 ", "中")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bytes")
    BYTES.save(folder)
    return AutoTokenizer.from_pretrained(folder)


def strings() -> list[str]:
    """Characters of one to four bytes in any order, special tokens among them."""
    draw = random.Random(0)
    parts = [*"ab \n", *"éß", *"中\ufffd", *"🙂\U0010ffff", "<|eos|>", "<|pad|>", "<|"]
    return [*TEXTS, *("".join(draw.choices(parts, k=n)) for n in range(1, 60))]


def sequences() -> list[list[int]]:
    """Ids that spell no text: cut characters, stray and overlong bytes, specials."""
    draw = random.Random(1)
    parts = [
        *"🙂中é".encode(),
        0xC0,
        0xED,
        0xA0,
        0xF4,
        0x90,
        0xFF,
        65,
        256,
        257,
        258,
        259,
    ]
    drawn = [draw.choices(parts, k=n % 30) for n in range(400)]
    return [[byte] for byte in range(260)] + drawn


def test_ids_are_bytes():
    assert BYTES.encode("aé") == [97, 0xC3, 0xA9]
    assert BYTES.encode("<|bos|>a<|eos|>") == [258, 97, 257]
    assert (BYTES.pad_token, BYTES.eos_token, BYTES.vocab_size) == (256, 257, 260)
    for text in strings():
        spelled = BYTES.decode(BYTES.encode(text))
        for token in ("<|eos|>", "<|pad|>", "<|turn|>", "<|bos|>"):
            text = text.replace(token, "")
        assert spelled == text


def test_transformers_gives_the_same_ids_and_text(theirs):
    assert len(theirs) == BYTES.vocab_size
    ends = theirs.pad_token_id, theirs.eos_token_id, theirs.bos_token_id
    assert ends == (BYTES.pad_token, BYTES.eos_token, BYTES.bos_token)
    for text in strings():
        ids = BYTES.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.encode(text) == ids
    for ids in sequences():
        assert theirs.decode(ids, skip_special_tokens=True) == BYTES.decode(ids)
    assert BYTES.decode([65, 0xF0, 0x9F, 66, 257, 0x99]) == "A\ufffdB\ufffd"


def test_transformers_writes_the_same_conversations(theirs):
    for talk in (TALK, [{"role": "system", "content": "s"}, *TALK]):
        options = {"return_dict": True, "return_assistant_tokens_mask": True}
        own = BYTES.backend.apply_chat_template(talk, **options)
        assert dict(own) == dict(theirs.apply_chat_template(talk, **options))
        texts = "".join(f"<|turn|>{t['role']}\n{t['content']}<|eos|>" for t in talk)
        assert own["input_ids"] == BYTES.encode("<|bos|>" + texts)
        marks = zip(own["input_ids"], own["assistant_masks"], strict=True)
        said = [index for index, mark in marks if mark]
        assert said == BYTES.encode("yo 🙂 <|eos|>")
    assert stop_tokens(BYTES) == (BYTES.eos_token,)
    for talk in (
        [{**TALK[1], "tool_calls": [{"name": "f"}]}],
        [{"role": "tool", "content": "x", "tool_calls": [{"name": "f"}]}],
    ):
        with pytest.raises(Exception, match="tool calls are not supported"):
            BYTES.backend.apply_chat_template(talk)


def test_loading_gives_back_what_was_saved(tmp_path):
    BYTES.save(tmp_path)
    assert load_tokenizer(tmp_path) == BYTES
    changed = ByteTokenizer(BYTES.chat_template.replace("assistant", "model"))
    changed.save(tmp_path)
    assert load_tokenizer(tmp_path) == changed != BYTES
    # other special tokens or none: no longer ours, and transformers reads it
    (tmp_path / "chat_template.jinja").unlink()
    found = load_tokenizer(tmp_path)
    assert isinstance(found, PretrainedTokenizer)
    assert found.encode("é<|eos|>") == BYTES.encode("é<|eos|>")


def test_a_template_beside_characters_is_not_lost(tmp_path):
    CharTokenizer("ab").save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    found = load_tokenizer(tmp_path)
    assert isinstance(found, PretrainedTokenizer) and found.encode("ba") == [3, 2]
    assert found.backend.chat_template.startswith("{{ messages")


def test_refused_text_and_ids():
    with pytest.raises(ValueError, match="surrogates not allowed"):
        BYTES.encode("\ud800")
    for index in (-1, 260):
        with pytest.raises(ValueError, match=rf"id {index} is outside \[0, 260\)"):
            BYTES.decode([index])


def test_a_new_model_of_bytes(tmp_path):
    sizes = {
        k: v for k, v in vars(TINY).items() if k not in ("characters", "tokenizer")
    }
    model = load_model(NewModel(tokenizer="bytes", **sizes), 0)
    assert model.tokenizer == BYTES
    assert model.config is not None and model.config.vocab_size == 260
    model.save(tmp_path, model.params)
    again = load_model(str(tmp_path / "final"), 0)
    assert again.tokenizer == BYTES
    for wrong, reason in (
        (
            {"tokenizer": "bytes", "characters": "ab"},
            "characters: given with tokenizer",
        ),
        ({}, "characters: missing; write them, or tokenizer: bytes"),
    ):
        with pytest.raises(ValueError, match=reason):
            NewModel(**wrong, **sizes)
