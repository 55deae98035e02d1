"""The character tokenizer against `tokenizers` and `transformers` on the same files."""

import random
import subprocess
import sys

import pytest

from unipost.tokenizer import CharTokenizer, PretrainedTokenizer, load_tokenizer

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


def test_importing_and_using_it_loads_no_heavy_library(tmp_path):
    CharTokenizer("ab").save(tmp_path)
    code = (
        "import sys, unipost.hf, unipost.sampling, unipost.scoring\n"
        "from unipost.tokenizer import load_tokenizer\n"
        f"load_tokenizer({str(tmp_path)!r}).encode('ab')\n"
        "print([m for m in ('transformers', 'tokenizers', 'datasets', 'torch',"
        " 'matplotlib', 'orbax') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
