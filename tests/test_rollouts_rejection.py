"""Rejection sampling against a count by hand of what was written."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scripted import Scripted, right
from tiny_rewards import number, only_digits, unpadded
from tiny_runs import MODEL, SETTING, params_of, write_sums

from unipost.data import read_rows
from unipost.rewards import exact
from unipost.rollouts.rejection import Passing, Rejection, rejection_sample
from unipost.sampling import Sampling
from unipost.sources import Setting

CANDIDATES = 6


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def written(prompt: str, i: int) -> str:
    """Six candidates: right, right again, spelled longer, wrong, no number, cut off."""
    answer = right(prompt, i)
    return [answer, answer, "0" + answer, "99", "+" + answer, "00000" + answer][i % 6]


def rejection(path: str, **changes) -> Rejection:
    settings = Rejection(path, 4, Sampling(4), number, CANDIDATES, prompts=4)
    settings = replace(settings, threshold=1.0, sampler=Scripted(written))
    return replace(settings, **changes)


def texts_by_prompt(rows) -> dict[str, list[str]]:
    found = {}
    for row in rows:
        found.setdefault(row["prompt"], []).append(row["completion"])
    return found


@pytest.mark.parametrize(
    "keep, most, expected",
    [
        ("all", 1, ["A", "0A"]),
        ("first", 1, ["A"]),
        ("first", 5, ["A", "0A"]),
        ("best", 1, ["A"]),
        ("shortest", 2, ["A", "0A"]),
    ],
)
def test_what_is_kept_of_every_question(sums, keep, most, expected):
    rows, numbers = rejection_sample(SETTING, rejection(sums, keep=keep, most=most))
    asked = [json.loads(line) for line in open(sums)]
    assert list(texts_by_prompt(rows)) == [row["prompt"] for row in asked]
    for row in asked:
        want = [x.replace("A", row["answer"]) for x in expected]
        assert texts_by_prompt(rows)[row["prompt"]] == want
    assert all(row["reward"] >= 1.0 for row in rows)
    assert numbers == {
        "questions": 10.0,
        "sampled": 60.0,
        "right": 30.0,
        # neither a plus nor a text without an end is right
        "unscored": 10.0,
        "truncated": 10.0,
        "filtered": 0.0,
        "kept": 10.0 * len(expected),
        "covered": 1.0,
    }


def test_the_best_is_that_of_the_largest_reward(sums):
    def longer(prompt, i):
        return "0" * (2 - i % 3) + right(prompt, i)[:1]

    settings = rejection(sums, samples=3, sampler=Scripted(longer), reward=number)
    digits = replace(settings, threshold=0.5, limit=4)  # sums of one digit
    for keep, zeros in (("best", 0), ("first", 2), ("shortest", 0)):
        rows = rejection_sample(SETTING, replace(digits, keep=keep)).rows
        assert {len(r["completion"]) - 1 for r in rows} == {zeros}


def test_a_filter_refuses_what_is_right(sums):
    filters = (Passing(unpadded), Passing(only_digits, least=0.0))
    rows, numbers = rejection_sample(
        SETTING, rejection(sums, keep="all", filters=filters)
    )
    assert all(not r["completion"].startswith("0") for r in rows)
    zero = [r for r in rows if r["answer"] == "0"]
    assert not zero and numbers["filtered"] == 10.0 and numbers["kept"] == 10.0


def test_cut_off_responses_are_kept_on_request_only(sums):
    for truncated, most in (("refused", 4), ("kept", 7)):
        settings = rejection(sums, keep="all", truncated=truncated, threshold=0.0)
        rows = rejection_sample(SETTING, settings).rows
        assert max(len(r["completion"]) for r in rows) <= most
        cut = [r for r in rows if len(r["completion"]) == 4]
        assert bool(cut) == (truncated == "kept")


def test_limit_and_last_batch(sums):
    rows, numbers = rejection_sample(SETTING, rejection(sums, limit=6))
    assert numbers["questions"] == 6 and len(texts_by_prompt(rows)) == 6


def test_rows_are_demonstrations_and_questions_again(sums, tmp_path):
    """Messages stay messages, with their tools; the answer goes along."""
    rows = rejection_sample(SETTING, rejection(sums)).rows
    path = tmp_path / "kept.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taught = read_rows(path, "demonstrations").rows
    assert [(x.prompt, x.response) for x in taught] == [
        (row["prompt"], row["completion"]) for row in rows
    ]
    assert [x.answer for x in read_rows(path, "questions").rows] == [
        row["answer"] for row in rows
    ]


def test_samples_are_of_the_seed_and_the_parameters(sums):
    settings = Rejection(sums, 4, Sampling(3), exact, samples=4, prompts=4)
    settings = replace(settings, threshold=0.0, keep="all", truncated="kept")

    def drawn(seed, params):
        tools = MODEL.policy, params, MODEL.tokenizer
        return rejection_sample(Setting(*tools, seed), settings).rows

    first = drawn(0, params_of(5))
    assert drawn(0, params_of(5)) == first
    assert drawn(1, params_of(5)) != first and drawn(0, params_of(6)) != first
    # batches of another size ask the same of every question but draw anew
    assert {r["prompt"] for r in first} == {r["prompt"] for r in drawn(1, params_of(5))}


def test_nothing_right_is_an_error_that_says_so(sums):
    settings = rejection(sums, threshold=5.0)
    with pytest.raises(ValueError) as caught:
        rejection_sample(SETTING, settings)
    assert str(caught.value) == (
        f"{sums}: none of 60 responses is kept (0 are right); write a lower threshold "
        "or more samples"
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"samples": 0}, "samples: 0; write 1 or more"),
        ({"limit": 0}, "limit: 0; write 1 or more"),
        ({"keep": "all", "most": 2}, "most: 2 beside keep: all; write keep: first"),
    ],
)
def test_refused_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        rejection("x.jsonl", **changes)


def test_columns_name_the_prompt_of_the_file(tmp_path):
    path = tmp_path / "named.jsonl"
    path.write_text('{"ask": "1+2=", "truth": "3", "other": 1}\n')
    columns = {"question": "ask", "answer": "truth"}
    rows = rejection_sample(SETTING, rejection(str(path), columns=columns)).rows
    assert rows == [
        {
            "prompt": "1+2=",
            "completion": "3",
            "answer": "3",
            "reward": pytest.approx(1.09),
        }
    ]
    assert np.isfinite(rows[0]["reward"])
