"""Rewards for the form of a response, whatever it says. The answer is not looked at."""

import re
from typing import Literal

from unipost.rewards.answers import boxed

_TAGS = re.compile(r"</?(?:think|answer)>")
_ORDER = ["<think>", "</think>", "<answer>", "</answer>"]


def think_format(
    response: str, answer: str, opened_by: Literal["response", "prompt"] = "response"
) -> float:
    """1.0 for `<think>...</think><answer>...</answer>` and no more, else 0.0.

    Each tag once, in this order, nothing but white space outside. `opened_by: prompt`
    is for a prompt that ends with <think>: the response then begins inside it. Source:
    the template of DeepSeek-R1 (2501.12948).
    """
    text = response if opened_by == "response" else "<think>" + response
    tags = list(_TAGS.finditer(text))
    if [tag[0] for tag in tags] != _ORDER:
        return 0.0
    first, closed, second, last = tags
    outside = text[: first.start()], text[closed.end() : second.start()]
    return float(not "".join([*outside, text[last.end() :]]).strip())


def trl_think_format(response: str, answer: str) -> float:
    """1.0 where the text starts with its only <think> and has a </think>, else 0.0.

    What follows is free. The definition of TRL's think_format_reward.
    """
    starts = response.startswith("<think>") and response.count("<think>") == 1
    return float(starts and "</think>" in response)


def boxed_format(response: str, answer: str) -> float:
    """1.0 where the response has a closed \\boxed{...} that is not empty, else 0.0."""
    return float(bool(boxed(response)))
