"""The two ways of writing an answer that the equations' files hold, as rewards.

The target style is GSM8K's money format, `24.00`; the base writes it rarely. It stands
in for the target language of a chain of thought: `consistency` is the share of numbers
written in it, as the reward of DeepSeek-R1 (2501.12948) is the share of words in the
target language.
"""

import re

_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_MONEY = re.compile(r"[0-9]+\.[0-9]{2}")


def consistency(response: str, answer: str) -> float:
    """The share of the numbers in a response that have two decimals; 0 without any."""
    numbers = _NUMBER.findall(response)
    money = [number for number in numbers if _MONEY.fullmatch(number)]
    return len(money) / len(numbers) if numbers else 0.0


def one_number(response: str, answer: str) -> float:
    """1.0 for a response that is one number and nothing else, the format to keep."""
    return float(bool(re.fullmatch(rf"-?{_NUMBER.pattern}", response.strip())))
