"""Solutions with labelled steps: every published layout, every label on its token."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import MODEL, SETTING

from unipost.data import DataError
from unipost.scalar.step_rows import read_solutions
from unipost.scalar.steps import LabelledSteps, step_tokens

STEPS = Path(__file__).parent / "fixtures" / "steps"
NAN = math.nan


def written(folder, *rows):
    path = folder / "steps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_rating_of_prm800k_counts_once():
    """The record as published: a path, and each completion beside it."""
    record = json.loads((STEPS / "prm800k.jsonl").read_text())
    found = read_solutions(STEPS / "prm800k.jsonl", {})
    path, beside = found[-1], found[:-1]
    want, ratings = [], []
    for step in record["label"]["steps"]:
        chosen, human = step["chosen_completion"], step["human_completion"]
        ratings += [x["rating"] for x in step["completions"]]
        taken = human if chosen is None else step["completions"][chosen]
        want.append((taken["text"], 1.0 if chosen is None else taken["rating"]))
    assert list(zip(path.steps, path.labels, strict=True)) == want
    assert path.prompt == record["question"]["problem"]
    given = [x for s in found for x in s.labels if not math.isnan(x)]
    human = sum(x["chosen_completion"] is None for x in record["label"]["steps"])
    assert len(given) == len(ratings) + human
    for solution in beside:
        assert all(map(math.isnan, solution.labels[:-1]))
        before = len(solution.steps) - 1
        assert solution.steps[:-1] == path.steps[:before]
        completions = record["label"]["steps"][before]["completions"]
        assert solution.steps[-1] in {x["text"] for x in completions}


def test_math_shepherd_as_published():
    first, second = read_solutions(STEPS / "shepherd.jsonl", {})
    assert first.labels == (1.0, 1.0, 1.0, 1.0, -1.0)
    assert second.labels == (-1.0, -1.0, -1.0)
    assert first.prompt.startswith("Janet pays") and first.prompt.endswith("a year?")
    assert [s[:7] for s in first.steps] == [f"Step {i}:" for i in range(1, 6)]
    row = json.loads((STEPS / "shepherd.jsonl").read_text().splitlines()[0])
    mark = " \u043a\u0438"
    rebuilt = first.prompt + " " + "\n".join(s + mark for s in first.steps)
    assert rebuilt == row["input"]


@pytest.mark.parametrize(
    "row, columns",
    [
        ({"prompt": "1=", "steps": ["1", "2"], "labels": [1, -1]}, {}),
        ({"prompt": "1=", "completions": ["1", "2"], "labels": [True, False]}, {}),
        (
            {"q": "1=", "s": ["1", "2"], "l": [1.0, -1.0]},
            {"prompt": "q", "steps": "s", "labels": "l"},
        ),
    ],
)
def test_lists_of_steps_and_labels(tmp_path, row, columns):
    (found,) = read_solutions(written(tmp_path, row), columns)
    assert (found.prompt, found.steps, found.labels) == ("1=", ("1", "2"), (1.0, -1.0))


def test_every_label_stands_on_the_last_token_of_its_separator(tmp_path):
    rows = [
        {"prompt": "1+1=", "steps": ["12", "3", "4"], "labels": [1, None, -1]},
        {"prompt": "2=", "steps": ["5"], "labels": [0]},
    ]
    source = LabelledSteps(written(tmp_path, *rows), 2, 4, 10, separator="+=")
    drawn = source.open(SETTING).batch(0, None)
    tokens, real = (np.asarray(x) for x in drawn.rows[2:4])
    steps, labels, mask = (
        np.asarray(getattr(drawn.batch, name)) for name in ("steps", "rewards", "mask")
    )
    texts = {}
    for p in range(2):
        text = MODEL.tokenizer.decode(tokens[p, 0][real[p, 0]].tolist())
        ends = np.flatnonzero(steps[p, 0]).tolist()
        texts[text] = [(end, float(labels[p, 0, end])) for end in ends]
        assert np.flatnonzero(mask[p, 0]).tolist() == ends
    # the second step has no label; no end token, as where a model scores
    assert texts == {"12+=3+=4+=": [(3, 1.0), (9, -1.0)], "5+=": [(2, 0.0)]}


def test_a_step_has_the_same_tokens_wherever_it_stands():
    tokenizer = MODEL.tokenizer
    ids, ends = step_tokens(tokenizer, ["12", "3"], "+")
    assert tokenizer.decode(ids) == "12+3+" and ends == [2, 4]
    assert step_tokens(tokenizer, [], "+") == ([], [])
    bare, places = step_tokens(tokenizer, ["12", "3"], "")
    assert tokenizer.decode(bare) == "123" and places == [1, 2]


def test_too_long_is_named_dropped_or_cut(tmp_path):
    rows = [
        {"prompt": "1=", "steps": ["12", "3456"], "labels": [1, -1]},
        {"prompt": "2=", "steps": ["1"], "labels": [1]},
        {"prompt": "3=", "steps": ["12345", "6"], "labels": [None, 1]},
    ]
    path = written(tmp_path, *rows)
    with pytest.raises(DataError, match="the response has 8 tokens with the end"):
        LabelledSteps(path, 1, 2, 5, separator="+").open(SETTING)
    with pytest.warns(UserWarning, match="dropped 2 of 3 rows"):
        source = LabelledSteps(path, 1, 2, 5, separator="+", too_long="drop")
        assert source.open(SETTING).size == 1
    # cut before its only label, the third row has nothing left to learn from
    with pytest.warns(UserWarning, match="cut 2 of 3 rows"):
        source = LabelledSteps(path, 2, 2, 5, separator="+", too_long="truncate")
        stream = source.open(SETTING)
    assert stream.size == 2
    batch = stream.batch(0, None).batch
    assert sorted(np.asarray(batch.steps).sum((1, 2)).tolist()) == [1.0, 1.0]


GOOD = {"prompt": "1=", "steps": ["1"], "labels": [1]}


@pytest.mark.parametrize(
    "row, words",
    [
        ({**GOOD, "labels": [1, 1]}, "1 steps, but 2 labels"),
        ({**GOOD, "labels": [0.5]}, "label 0.5; expected 1, 0, -1, true"),
        ({**GOOD, "labels": ["+"]}, r"label '\+'; expected"),
        ({**GOOD, "steps": [" "]}, "step 1 of 'steps' is ' '; expected text"),
        ({**GOOD, "steps": "1"}, "'steps' is no list of steps"),
        ({"prompt": "1=", "labels": [1]}, "'steps' is no list of steps"),
        ({"steps": ["1"], "labels": [1]}, "'prompt' is missing"),
        ({"question": {"problem": "x"}, "label": {}}, "no question.problem and label"),
        (
            {"question": {"problem": "x"}, "label": {"steps": [{}]}},
            "'label' is not as PRM800K has it",
        ),
        ({"input": "a \u043a\u0438", "label": "a -"}, "has no 'Step 1:' before"),
        ({"input": "Step 1: a \u043a\u0438", "label": "Step 1: a"}, "no . or - after"),
        ({**GOOD, "labels": [None]}, "no rows with a labelled step"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, words):
    with pytest.raises(DataError, match=words) as error:
        read_solutions(written(tmp_path, row), {})
    assert "steps.jsonl" in str(error.value)


def test_bad_rows_may_be_skipped(tmp_path):
    path = written(tmp_path, {**GOOD, "labels": []}, GOOD)
    with pytest.warns(UserWarning, match="skipped"):
        assert len(read_solutions(path, {}, "skip")) == 1
    with pytest.raises(DataError, match="columns: unknown 'label'"):
        read_solutions(path, {"label": "x"})


def test_text_that_cannot_be_encoded_is_named(tmp_path):
    path = written(tmp_path, {**GOOD, "steps": ["a"]})
    with pytest.raises(DataError, match="steps.jsonl:1: cannot be encoded: .*'a'"):
        LabelledSteps(path, 1, 4, 4, separator="+").open(SETTING)
