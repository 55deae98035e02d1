"""Rewards of form, language, length and repetition: hand-computed, and TRL's numbers.

fixtures/trl_text_rewards.json holds what TRL 1.16 gave for the same inputs.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from unipost.rewards import (
    REWARDS,
    CosineLength,
    KimiLength,
    Noted,
    Sample,
    SoftOverlong,
    boxed_format,
    exact,
    language_consistency,
    open_reward,
    repetition_penalty,
    think_format,
    trl_think_format,
)

TRL = json.loads(
    (Path(__file__).parent / "fixtures" / "trl_text_rewards.json").read_text()
)


def score(reward, samples):
    return open_reward(reward)(samples).values.tolist()


def lengths(counts, right=None, group=0, limit=-1):
    right = [True] * len(counts) if right is None else right
    return [
        Sample("yes" if r else "no", "yes", tokens=n, group=group, limit=limit)
        for n, r in zip(counts, right, strict=True)
    ]


@pytest.mark.parametrize("case", TRL["cosine"])
def test_cosine_is_trls(case):
    o = {"min_value_wrong": -1.0, "max_value_wrong": -0.5} | case["options"]
    o = {"min_value_correct": 0.5, "max_value_correct": 1.0} | o
    reward = CosineLength(
        exact,
        o["max_len"],
        correct=(o["max_value_correct"], o["min_value_correct"]),
        wrong=(o["min_value_wrong"], o["max_value_wrong"]),
    )
    shown = lengths(case["lengths"], [case["right"]] * len(case["lengths"]))
    np.testing.assert_allclose(score(reward, shown), case["rewards"], rtol=1e-12)


def test_cosine_by_hand_and_by_the_samples_own_limit():
    shown = lengths([0, 50, 100, 900], limit=100)
    np.testing.assert_allclose(score(CosineLength(exact), shown), [1, 0.75, 0.5, 0.5])
    shown = lengths([0, 50, 100], [False] * 3, limit=100)
    np.testing.assert_allclose(score(CosineLength(exact), shown), [-1, -0.75, -0.5])


@pytest.mark.parametrize("case", TRL["repetition"])
def test_repetition_is_trls_on_words(case):
    for ids, reward in zip(case["ids"], case["rewards"], strict=True):
        text = " ".join(map(str, ids))
        found = repetition_penalty(text, "", case["size"], case["penalty"])
        assert found == pytest.approx(reward, abs=1e-12)


def test_repetition_by_hand():
    assert repetition_penalty("a b a b a", "", size=2) == -0.5
    assert repetition_penalty("A b\na  B", "", size=2) == pytest.approx(-1 / 3)
    assert repetition_penalty("\u54c8\u54c8\u54c8", "", 1, -3.0, "character") == -2.0
    assert repetition_penalty("\u54c8\u54c8\u54c8", "", 1) == 0.0
    assert repetition_penalty("", "") == repetition_penalty("a b", "") == 0.0
    for options in ({"size": 0}, {"penalty": 0.5}, {"penalty": math.nan}):
        with pytest.raises(ValueError, match="repetition: size"):
            repetition_penalty("a", "", **options)


@pytest.mark.parametrize("case", TRL["soft_overlong"])
def test_soft_overlong_is_trls(case):
    reward = SoftOverlong(case["cache"], case["max_length"])
    found = score(reward, lengths(case["lengths"]))
    np.testing.assert_allclose(found, case["rewards"], rtol=1e-12)
    shown = lengths(case["lengths"], limit=case["max_length"])
    assert score(SoftOverlong(case["cache"]), shown) == found


def test_trl_think_format_is_trls():
    found = [trl_think_format(text, "") for text in TRL["think"]["texts"]]
    assert found == TRL["think"]["rewards"]
    assert {0.0, 1.0} == set(found)


def test_kimi_by_hand():
    right = [True, True, True, False, False]
    shown = lengths([10, 20, 30, 10, 30], right, group=1)
    shown[1:1] = lengths([7, 7], [True, False], group=2)  # all as long: 0
    expected = [0.5, 0.0, 0.0, 0.0, -0.5, 0.0, -0.5]
    assert score(KimiLength(exact), shown) == expected


def test_length_rewards_keep_an_unscored_sample_unscored():
    def moody(response, answer):
        return math.nan if response == "nan" else float(response == answer)

    shown = lengths([10, 20, 30], limit=40)
    shown[1] = Sample("nan", "yes", tokens=20, limit=40)
    for reward in (KimiLength(moody), CosineLength(moody)):
        graded = open_reward(reward)(shown)
        assert np.isnan(graded.values).tolist() == [False, True, False]
        assert graded.reasons == ["accuracy: sample 1: the reward is nan"]
    # its length counts among those of the group all the same
    assert score(KimiLength(moody), shown)[::2] == [0.5, -0.5]


def test_lengths_that_are_not_known_are_no_reward():
    for reward, why in (
        (SoftOverlong(4), "the limit is not known here; write max_length"),
        (SoftOverlong(4, 9), "the length in tokens is not known here"),
        (KimiLength(exact), "the length in tokens is not known here"),
        (CosineLength(exact), "the limit is not known here; write max_length"),
    ):
        graded = open_reward(reward)([Sample("a", "a")])
        assert graded.unscored == 1 and graded.reasons[0].endswith(why)
    for make in (
        lambda: SoftOverlong(-1),
        lambda: SoftOverlong(8, 4),
        lambda: CosineLength(max_length=0),
    ):
        with pytest.raises(ValueError, match="; write "):
            make()


@pytest.mark.parametrize(
    "text, value",
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("\n<think>\na\n</think>\n\n<answer>b</answer>\n", 1),
        ("<think></think><answer></answer>", 1),
        ("<think>\u8003\u3048</think> <answer>\u00e9\U0001f600</answer>", 1),
        ("so <think>a</think><answer>b</answer>", 0),
        ("<think>a</think> so <answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer>.", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a<answer>b</answer></think>", 0),
        ("<think>a</think><answer>b</answer><answer>b</answer>", 0),
        ("<think>a<think>b</think><answer>c</answer>", 0),
        ("<think>a</think><answer>b", 0),
        ("<Think>a</Think><answer>b</answer>", 0),
        ("a</think><answer>b</answer>", 0),
        ("", 0),
    ],
)
def test_think_format(text, value):
    assert think_format(text, "") == value
    cut = text.removeprefix("<think>")
    if value and cut != text:
        assert think_format(cut, "", opened_by="prompt") == 1.0
        assert think_format(text, "", opened_by="prompt") == 0.0


def test_boxed_format():
    assert boxed_format(r"so \boxed{\frac{1}{2}}.", "") == 1.0
    assert boxed_format(r"\boxed{}", "") == boxed_format(r"\boxed{3", "") == 0.0
    assert boxed_format("3", "") == boxed_format("", "") == 0.0


@pytest.mark.parametrize(
    "text, script, value",
    [
        ("all of it is English", "latin", 1),
        ("four words, \u043e\u0434\u043d\u043e here", "latin", 3 / 4),
        ("so \u6240\u4ee5 the", "latin", 2 / 4),  # every Chinese letter is one
        ("\u6240\u4ee5 x", "chinese", 2 / 3),
        ("na\u00efve caf\u00e9 \u00c5ngstr\u00f6m e\u0301t", "latin", 1),
        ("\u3053\u308c\u306f\u672c", "japanese", 1),
        ("\u3053\u308c\u306f\u672c", "chinese", 1 / 4),
        ("\ud55c\uad6d\uc5b4 \ub2e8\uc5b4", "korean", 1),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 word", "devanagari", 1 / 2),
        ("\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440", "cyrillic", 1),
        ("m\u0438xed", "latin", 0),  # a Cyrillic letter within
        ("the angle \u03b1 and \u03bb\u03cc\u03b3\u03bf\u03c2", "latin", 3 / 4),
        ("12 + 3 = 15", "cyrillic", 1),
        ("\u0434\u0430 $x+y$ \\frac{}{} `if a:` \\(c\\)", "cyrillic", 1),
        ("```\ndef f(): pass\n```\n\u0434\u0430", "cyrillic", 1),
        ("<think>\u0434\u0430</think> https://a.b/c", "cyrillic", 1),
        ("\uff21\uff22 wide", "latin", 1),
        ("", "latin", 0),
        (" \n", "latin", 0),
        ("\U0001f600", "latin", 1),
    ],
)
def test_language(text, script, value):
    assert language_consistency(text, "", script) == pytest.approx(value)


def test_language_of_the_thinking_alone():
    text = "<think>\u0434\u0430 yes</think>\u0434\u0430 \u0434\u0430"
    assert language_consistency(text, "") == 1 / 4
    assert language_consistency(text, "", part="thinking") == 1 / 2
    assert language_consistency("yes</think>\u0434\u0430", "", part="thinking") == 1.0
    assert language_consistency("never closed", "", part="thinking") == 0.0


def test_every_reward_takes_an_empty_response():
    sample = Sample("", "5", tokens=0, limit=8)
    made = {"soft_overlong": SoftOverlong(4)}
    for name, reward in REWARDS.items():
        if name == "sum" or reward.__module__.endswith(".learned"):
            continue
        reward = made.get(name) or (reward() if isinstance(reward, type) else reward)
        graded = open_reward(reward)([sample])
        assert graded.unscored == 0, (name, graded.reasons)
        assert graded.values[0] in (0.0, -1.0), name


def test_a_note_is_a_number():
    assert Noted(0.5, "why") == 0.5 and Noted(0.5, "why").note == "why"
    assert Noted(0.5, "why") + 1 == 1.5
