"""Packing and padding: TRL's exact output, and what no strategy may do to tokens."""

import json
from pathlib import Path

import numpy as np
import pytest

from unipost.packing import (
    collate,
    collate_preferences,
    gather,
    pack,
    pack_plan,
    position_ids,
)

CASES = Path(__file__).parent / "fixtures" / "cases"
ARRAYS = np.load(CASES / "data.npz")
HYPER = {
    case["case"]: case["hyper"]
    for case in json.loads((CASES / "data.json").read_text())["cases"]
}
ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10], [11], []]


def ragged(name):
    """Rows that the file stores as one flat array and their lengths."""
    flat, sizes = ARRAYS[f"{name}flat"], ARRAYS[f"{name}lens"]
    return [row.tolist() for row in np.split(flat, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize("case", ["pack-bfd_split-8", "pack-wrapped-8"])
def test_golden_packing(case):
    hyper = HYPER[case]
    packed, lengths = pack(
        ragged(f"{case}/in/"), hyper["seq_length"], hyper["strategy"]
    )
    assert packed == ragged(f"{case}/out/input_ids_")
    if hyper["strategy"] != "wrapped":
        assert lengths == ragged(f"{case}/out/seq_lengths_")


@pytest.mark.parametrize("case", ["collate-pref-ml7"])
def test_golden_preference_collator(case):
    fields = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [
        [ARRAYS[f"{case}/in/{field}_{i}"].tolist() for i in range(4)]
        for field in fields
    ]
    out = collate_preferences(*rows, **HYPER[case])
    for field in ("input_ids", "attention_mask", "completion_mask"):
        np.testing.assert_array_equal(
            getattr(out, field), ARRAYS[f"{case}/out/{field}"]
        )


@pytest.mark.parametrize(
    "strategy, rows, lengths",
    [
        # TRL's documented example, plus an empty row
        ("bfd", [[1, 2, 3, 4], [8, 9, 10, 11], [6, 7]], [[4], [3, 1], [2]]),
        ("bfd_split", [[1, 2, 3, 4], [8, 9, 10, 5], [6, 7, 11]], [[4], [3, 1], [2, 1]]),
        (
            "wrapped",
            [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]],
            [[4], [1, 2, 1], [2, 1]],
        ),
    ],
)
def test_packing_by_hand(strategy, rows, lengths):
    assert pack(ROWS, 4, strategy) == (rows, lengths)


def test_the_fullest_pack_with_room_is_taken_and_ties_go_to_the_first():
    sizes = [6, 5, 5, 4, 3, 3, 2, 2]
    plan = pack_plan(sizes, 8, "bfd")
    # 6 | 5 | 5 | 4 open packs; 3 -> first 5; 3 -> second 5; 2 -> 6; 2 -> 4
    assert [[piece.row for piece in pack] for pack in plan] == [
        [0, 6],
        [1, 4],
        [2, 5],
        [3, 7],
    ]


def random_rows(seed):
    """Rows of distinct tokens, so that every token can be followed."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 30, rng.integers(1, 60))
    tokens = np.split(np.arange(sizes.sum()), np.cumsum(sizes)[:-1])
    return [row.tolist() for row in tokens], int(rng.integers(1, 25))


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("seed", range(20))
def test_packing_keeps_tokens_order_and_length(strategy, seed):
    rows, length = random_rows(seed)
    packed, lengths = pack(rows, length, strategy)
    kept = [row[:length] if strategy == "bfd" else row for row in rows]
    assert sorted(sum(packed, [])) == sum(kept, [])
    assert [len(row) for row in packed] == [sum(sizes) for sizes in lengths]
    assert all(0 < len(row) <= length for row in packed)
    assert all(size > 0 for sizes in lengths for size in sizes)
    owner = {token: i for i, row in enumerate(rows) for token in row}
    for row, sizes in zip(packed, lengths, strict=True):
        for piece in np.split(np.array(row), np.cumsum(sizes)[:-1]):
            # one sequence: consecutive tokens of one row
            assert np.all(np.diff(piece) == 1)
            assert len({owner[token] for token in piece.tolist()}) == 1


@pytest.mark.parametrize("seed", range(20))
def test_best_fit_leaves_no_two_packs_that_would_fit_together(seed):
    rows, length = random_rows(seed)
    sizes = sorted(len(row) for row in pack(rows, length, "bfd_split")[0])
    assert len(sizes) < 2 or sizes[0] + sizes[1] > length


@pytest.mark.parametrize("seed", range(5))
def test_wrapped_is_the_concatenation(seed):
    rows, length = random_rows(seed)
    packed, _ = pack(rows, length, "wrapped")
    assert sum(packed, []) == sum(rows, [])
    assert all(len(row) == length for row in packed[:-1])


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_one_plan_serves_every_column(strategy):
    rows, length = random_rows(3)
    odd = [[token % 2 for token in row] for row in rows]
    plan = pack_plan([len(row) for row in rows], length, strategy)
    tokens, masks = gather(rows, plan), gather(odd, plan)
    assert masks == [[token % 2 for token in row] for row in tokens]
    assert tokens == pack(rows, length, strategy)[0]


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_nothing_packs_to_nothing(strategy):
    assert pack([], 4, strategy) == pack([[], []], 4, strategy) == ([], [])


def test_position_ids_start_anew():
    assert position_ids([3, 1, 2]) == [0, 1, 2, 0, 0, 1]


def test_preferences_keep_the_end_or_everything():
    pair = ([[1, 2, 3]], [[4, 5]], [[6]])
    end = collate_preferences(*pair, 2, 0, "keep_end")
    np.testing.assert_array_equal(end.input_ids, [[4, 5], [3, 6]])
    np.testing.assert_array_equal(end.completion_mask, [[1, 1], [0, 1]])
    whole = collate_preferences(*pair, None, 9, pad_to_multiple_of=4)
    np.testing.assert_array_equal(
        whole.input_ids, [[1, 2, 3, 4, 5, 9, 9, 9], [1, 2, 3, 6, 9, 9, 9, 9]]
    )
    np.testing.assert_array_equal(whole.attention_mask.sum(1), [5, 4])
    np.testing.assert_array_equal(whole.completion_mask.sum(1), [2, 1])


def test_language_modelling_collator():
    """TRL's documented example: padding is -100 in the labels, as are prompts."""
    out = collate([[1, 2, 3], [4, 5]], None, None, 0)
    np.testing.assert_array_equal(out.input_ids, [[1, 2, 3], [4, 5, 0]])
    np.testing.assert_array_equal(out.attention_mask, [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(out.labels, [[1, 2, 3], [4, 5, -100]])
    masked = collate([[1, 2, 3], [4, 5]], [[0, 1, 1], [0, 1]], None, 0)
    np.testing.assert_array_equal(masked.labels, [[-100, 2, 3], [-100, 5, -100]])
    cut = collate([[1, 2, 3], [4, 5]], [[0, 1, 1], [0, 1]], 2, 0, "keep_end", 3)
    np.testing.assert_array_equal(cut.labels, [[2, 3, -100], [-100, 5, -100]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pack(ROWS, 0), r"pack\.length: 0"),
        (lambda: pack(ROWS, 4, "ffd"), r"pack\.strategy: 'ffd'; write one of bfd"),
        (lambda: collate(ROWS, None, 0, 0), r"collate\.max_length: 0"),
        (lambda: collate(ROWS, None, 4, 0, "middle"), r"'middle'; write keep_start"),
        (lambda: collate(ROWS, None, 4, 0, pad_to_multiple_of=0), "multiple_of: 0"),
        (lambda: collate([[1, 2]], [[1]], None, 0), "lengths .1.; the rows say .2."),
        (lambda: collate_preferences([[1]], [], [[2]], None, 0), "0 chosen, 1 rej"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
