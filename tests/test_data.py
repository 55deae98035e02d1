"""Hashes, tokens with their masks, and an order that needs no state."""

import hashlib

import numpy as np
import pytest

from unipost.data import (
    DataError,
    Demonstration,
    Preference,
    Question,
    batch_indices,
    data_hash,
    encode_rows,
)


class Letters:
    """A character tokenizer: a-z and space, 0 pads, 1 ends."""

    pad_token, eos_token, vocab_size = 0, 1, 29
    letters = "abcdefghijklmnopqrstuvwxyz "

    def encode(self, text):
        return [self.letters.index(letter) + 2 for letter in text]

    def decode(self, ids):
        return "".join(self.letters[i - 2] for i in ids if i > 1)


def refusal(call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# hashes


def test_data_hash_is_that_of_the_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path
    (folder / "a").write_bytes(b"one")
    (folder / "sub").mkdir()
    (folder / "sub" / "b").write_bytes(b"two")
    assert data_hash("a") == hashlib.sha256(b"one").hexdigest()
    assert data_hash(["a"]) == data_hash(folder / "a") == data_hash("a")
    assert data_hash("sub") == hashlib.sha256(b"two").hexdigest()
    both = data_hash(["a", "sub"])
    assert both != data_hash(["sub", "a"]) and both != data_hash("a")
    (folder / "sub" / "b").write_bytes(b"twp")
    assert data_hash(["a", "sub"]) != both
    assert refusal(data_hash, "gone") == (
        "gone: cannot be read: No such file or directory"
    )


# tokens


def test_padding_masks_and_end_tokens():
    rows = [Demonstration("abc", "de"), Demonstration("a", "bcd")]
    made = encode_rows(Letters(), rows, 4, 5)
    assert made.prompt.tolist() == [[0, 2, 3, 4], [0, 0, 0, 2]]
    assert made.prompt_mask.tolist() == [[False] + [True] * 3, [False] * 3 + [True]]
    assert made.response.tolist() == [[5, 6, 1, 0, 0], [3, 4, 5, 1, 0]]
    assert made.response_mask.tolist() == [
        [True] * 3 + [False] * 2,
        [True] * 4 + [False],
    ]
    assert made.prompt.dtype == made.response.dtype == np.int32
    assert made.prompt_mask.dtype == made.response_mask.dtype == bool
    assert made.index.tolist() == [0, 1] and made.dropped == []


def test_preferences_are_two_lines_and_questions_one_without_response():
    pair = Preference("a", "b", "cd")
    made = encode_rows(Letters(), [pair, Question("e", "5", "why")], 2, 3)
    assert made.prompt.tolist() == [[0, 2], [0, 2], [0, 6]]
    assert made.response.tolist() == [[3, 1, 0], [4, 5, 1], [0, 0, 0]]
    assert made.response_mask.sum(1).tolist() == [2, 3, 0]
    assert made.index.tolist() == [0, 0, 1]


def test_an_end_token_already_there_is_not_doubled():
    class Ending(Letters):
        def encode(self, text):
            return [*super().encode(text), 1]

    made = encode_rows(Ending(), [Demonstration("a", "b")], 2, 3)
    assert made.response.tolist() == [[3, 1, 0]]


LONG = [
    Demonstration("abc", "de", "data.jsonl:4"),
    Demonstration("abcd", "de", "data.jsonl:5"),
    Preference("abc", "d", "defg", "data.jsonl:6"),
]
TOO_LONG = [
    "data.jsonl:5: the prompt has 4 tokens, prompt_length is 3",
    "data.jsonl:6: the response has 5 tokens with the end token, response_length is 3",
]


def test_rows_that_do_not_fit_are_refused():
    message = refusal(encode_rows, Letters(), LONG, 3, 3)
    assert message == "\n".join(["2 of 3 rows:", *TOO_LONG])
    assert refusal(encode_rows, Letters(), LONG[:2], 3, 3) == TOO_LONG[0]


def test_rows_that_do_not_fit_are_dropped_and_counted():
    with pytest.warns(UserWarning, match="dropped 2 of 3 rows:"):
        made = encode_rows(Letters(), LONG, 3, 3, too_long="drop")
    assert made.index.tolist() == [0] and made.dropped == TOO_LONG
    message = refusal(encode_rows, Letters(), LONG[1:2], 3, 3, too_long="drop")
    assert message == TOO_LONG[0]


def test_rows_that_do_not_fit_are_cut():
    with pytest.warns(UserWarning, match="cut 2 of 3 rows:"):
        made = encode_rows(Letters(), LONG, 3, 3, too_long="truncate")
    assert made.prompt[1].tolist() == [3, 4, 5]  # the end of the prompt
    assert made.response[3].tolist() == [5, 6, 7]  # the beginning, no end token
    assert made.index.tolist() == [0, 1, 2, 2] and made.dropped == []


def test_text_that_cannot_be_encoded_names_its_row():
    row = Demonstration("a", "B", "data.jsonl:9")
    assert refusal(encode_rows, Letters(), [row], 3, 3) == (
        "data.jsonl:9: cannot be encoded: substring not found"
    )
    message = refusal(encode_rows, Letters(), [Demonstration("", "b")], 3, 3)
    assert message == "row 1: '' encodes to no tokens"


# order


@pytest.mark.parametrize("batch, size", [(4, 10), (10, 10), (1, 3), (7, 3), (3, 100)])
def test_every_row_comes_once_per_epoch(batch, size):
    steps = -(-5 * size // batch)
    stream = np.concatenate([batch_indices(3, s, batch, size) for s in range(steps)])
    for epoch in range(5):
        part = stream[epoch * size : (epoch + 1) * size]
        assert sorted(part.tolist()) == list(range(size))


def test_order_depends_on_seed_and_step_alone():
    forwards = [batch_indices(0, s, 8, 30) for s in range(20)]
    backwards = [batch_indices(0, s, 8, 30) for s in reversed(range(20))][::-1]
    assert np.array_equal(forwards, backwards)
    first, second = (
        np.concatenate([batch_indices(seed, s, 10, 30) for s in range(3)])
        for seed in (0, 1)
    )
    assert not np.array_equal(first, second)
    again = np.concatenate([batch_indices(0, s, 10, 30) for s in range(3, 6)])
    assert not np.array_equal(first, again)
    # Fixed for ever: a resumed run must not see another order under another NumPy.
    assert batch_indices(0, 0, 6, 6).tolist() == [3, 2, 1, 0, 4, 5]


def test_batches_do_not_depend_on_what_the_caller_does_with_them():
    taken = batch_indices(5, 0, 4, 4)
    expected = taken.copy()
    taken[:] = 0
    assert np.array_equal(batch_indices(5, 0, 4, 4), expected)


def test_positions_are_uniform():
    first = [batch_indices(seed, 0, 1, 4)[0] for seed in range(2000)]
    assert np.bincount(first, minlength=4) == pytest.approx(500, abs=100)


@pytest.mark.parametrize("args", [(0, 0, 0, 5), (0, 0, 2, 0), (-1, 0, 2, 5)])
def test_refused_orders(args):
    seed, step, batch, size = args
    with pytest.raises(ValueError) as caught:
        batch_indices(*args)
    assert str(caught.value) == (
        f"batch_indices: seed={seed}, step={step}, batch={batch}, size={size}; "
        "batch and size start at 1, others 0"
    )
