"""The character tokenizer against `tokenizers` and `transformers` on the same files."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unipost.data import Demonstration, encode_rows
from unipost.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    PretrainedTokenizer,
    check_vocabulary,
    load_tokenizer,
)

QWEN = Path(__file__).parent / "fixtures" / "hf_models" / "tiny_qwen2_policy"

CHARACTERS = '0123456789+-*/=() \n\tabcé中🙂"\\^$.|?<>'
CASES = [
    CharTokenizer(CHARACTERS),
    CharTokenizer("ba", bos="<s>"),
    CharTokenizer("ab<pd>", unk="?", eos="\n"),
    CharTokenizer("xyz", pad="[PAD]", eos="[E]", bos="[B]", unk="[U]"),
]


def texts(tokenizer):
    """Random strings over the characters, special tokens strewn in."""
    draw = random.Random(0)
    parts = [*tokenizer.characters, *tokenizer.specials.values()]
    return ["", *("".join(draw.choices(parts, k=n)) for n in range(1, 40))]


@pytest.mark.parametrize("tokenizer", CASES)
def test_decode_undoes_encode_but_for_special_tokens(tokenizer):
    for text in texts(tokenizer):
        expected = text
        for special in sorted(tokenizer.specials.values(), key=len, reverse=True):
            expected = expected.replace(special, "")
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == expected
        assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("tokenizer", CASES)
def test_tokenizers_reads_the_file_and_encodes_identically(tokenizer, tmp_path):
    from tokenizers import Tokenizer

    tokenizer.save(tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    for text in texts(tokenizer):
        ids = tokenizer.encode(text)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


@pytest.mark.parametrize("tokenizer", CASES)
def test_transformers_reads_the_folder(tokenizer, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer.save(tmp_path)
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        theirs = kind.from_pretrained(tmp_path)
        assert theirs.pad_token_id == tokenizer.pad_token
        assert theirs.eos_token_id == tokenizer.eos_token
        assert theirs.bos_token_id == tokenizer.bos_token
        wrapped = PretrainedTokenizer(theirs)
        for text in texts(tokenizer):
            ids = tokenizer.encode(text)
            assert wrapped.encode(text) == ids
            assert wrapped.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("tokenizer", CASES)
def test_loading_gives_back_what_was_saved(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path) == tokenizer


def test_other_files_go_to_transformers(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[E]": 0, "one": 1, "two": 2}, unk_token="[E]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[E]")
    fast.save_pretrained(tmp_path / "first")
    found = load_tokenizer(tmp_path / "first")
    assert isinstance(found, PretrainedTokenizer)
    assert found.encode("two one") == [2, 1]
    assert (found.eos_token, found.pad_token, found.vocab_size) == (0, 0, 3)
    found.save(tmp_path / "second")
    assert load_tokenizer(tmp_path / "second").encode("two one") == [2, 1]
    endless = PretrainedTokenizer(PreTrainedTokenizerFast(tokenizer_object=words))
    with pytest.raises(ValueError, match="names no eos_token"):
        _ = endless.eos_token


def test_unknown_characters():
    with pytest.raises(ValueError, match="'z' is not in the vocabulary"):
        CharTokenizer("ab").encode("abz")
    tokenizer = CharTokenizer("ab", unk="<unk>")
    assert tokenizer.encode("azb") == [3, 2, 4]
    assert tokenizer.decode([3, 2, 4]) == "ab"


def test_text_that_spells_a_special_token_is_that_token():
    tokenizer = CharTokenizer("<eos>"[:4] + ">")
    assert tokenizer.encode("<eos>") == [tokenizer.eos_token]
    assert len(tokenizer.encode("<eos")) == 4


def test_vocabularies_that_cannot_work_are_refused():
    for arguments, words in (
        (("aba",), "'a' appears twice"),
        (("ab", "a"), "'a' appears twice"),
        (("ab", ""), "empty"),
    ):
        with pytest.raises(ValueError, match=words):
            CharTokenizer(*arguments)
    with pytest.raises(ValueError, match="id 9 is outside"):
        CharTokenizer("ab").decode([9])
    with pytest.raises(ValueError, match="id -1 is outside"):
        CharTokenizer("ab").decode([-1])


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        load_tokenizer(tmp_path / "gone")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda data: data[: len(data) // 2], "not JSON at line"),
        (lambda data: b"", "not JSON at line 1, column 1"),
        (lambda data: b"\xff" + data, "not UTF-8 at byte 1"),
        (lambda data: b"[1]", "holds a list, not the object of a tokenizer"),
    ],
)
def test_damaged_files_are_named(name, damage, reason, tmp_path):
    folder = shutil.copytree(QWEN, tmp_path / "copy")
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError) as caught:
        load_tokenizer(folder)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and reason in message
    assert "\n" not in message


def test_files_that_transformers_rejects_are_named(tmp_path):
    folder = shutil.copytree(QWEN, tmp_path / "copy")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["type"] = "Other"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        load_tokenizer(folder)
    start = f"{folder}: transformers cannot load this tokenizer: "
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


def test_a_vocabulary_beyond_the_embedding_is_refused(tmp_path):
    from transformers import AutoTokenizer

    for tokenizer in (load_tokenizer(QWEN), ByteTokenizer(), CharTokenizer("ab")):
        for rows in (tokenizer.vocab_size, tokenizer.vocab_size + 64):
            check_vocabulary(tokenizer, rows, "here")
        with pytest.raises(ValueError, match="here: the tokenizer has ids up to"):
            check_vocabulary(tokenizer, tokenizer.vocab_size - 1, "here")
    backend = AutoTokenizer.from_pretrained(QWEN)
    backend.add_tokens(["<new>"])
    backend.save_pretrained(tmp_path)
    with pytest.raises(ValueError) as caught:
        check_vocabulary(load_tokenizer(tmp_path), 320, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: the tokenizer has ids up to 320, the embedding 320 rows "
        "('<new>' is the first beyond); give the tokenizer of this model"
    )


def test_the_largest_id_counts_not_the_number_of_tokens(tmp_path):
    folder = shutil.copytree(QWEN, tmp_path / "copy")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    (last,) = (token for token, index in vocab.items() if index == 319)
    vocab[last] = 400
    (folder / "tokenizer.json").write_text(json.dumps(content))
    found = load_tokenizer(folder)
    assert len(found.backend) == 320 and found.vocab_size == 401
    with pytest.raises(ValueError, match="ids up to 400"):
        check_vocabulary(found, 320, folder)


def test_a_token_for_images_needs_no_row(tmp_path):
    """As in Gemma 3 1B: one id more than the embedding, and it is never in text."""
    folder = shutil.copytree(QWEN, tmp_path / "copy")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["extra_special_tokens"] = {"image_token": "<image>"}
    path.write_text(json.dumps(settings))
    found = load_tokenizer(folder)
    assert found.backend.get_vocab()["<image>"] == 320
    check_vocabulary(found, 320, folder)


def test_start_tokens_are_what_the_tokenizer_itself_puts_first(tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    assert load_tokenizer(QWEN).start_tokens == ()  # it has a bos token but adds none
    content = json.loads((QWEN / "tokenizer.json").read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {
            "<|endoftext|>": {
                "id": "<|endoftext|>",
                "ids": [0],
                "tokens": ["<|endoftext|>"],
            }
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    names["tokenizer_class"] = PreTrainedTokenizerFast.__name__
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    found = load_tokenizer(tmp_path)
    assert found.start_tokens == (0,)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("What is 2 + 3?", "<|endoftext|>What is 2 + 3?"):
        tokens = encode_rows(found, [Demonstration(text, "5")], 40, 3)
        prompt = tokens.prompt[0][tokens.prompt_mask[0]].tolist()
        assert prompt == theirs("What is 2 + 3?")["input_ids"]
        response = tokens.response[0][tokens.response_mask[0]].tolist()
        assert response == [*found.encode("5"), found.eos_token]


def test_importing_and_using_it_loads_no_heavy_library(tmp_path):
    CharTokenizer("ab").save(tmp_path / "characters")
    ByteTokenizer().save(tmp_path / "bytes")
    code = (
        "import sys, unipost, unipost.chat, unipost.hf, unipost.sampling\n"
        "import unipost.data, unipost.scoring\n"
        "from unipost.tokenizer import load_tokenizer\n"
        "for name in ('characters', 'bytes'):\n"
        f"    load_tokenizer({str(tmp_path)!r} + '/' + name).encode('ab')\n"
        "print([m for m in ('transformers', 'tokenizers', 'datasets', 'torch',"
        " 'matplotlib', 'orbax') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
