"""Rewards for tests in a module that imports nothing: their process starts at once."""


def length(response: str, answer: str) -> float:
    """Half a point for every character: a reward that random text can earn."""
    return len(response) / 2


def failing(response: str, answer: str) -> float:
    """A point for a single character, an error for more."""
    if len(response) > 1:
        raise RuntimeError("no verdict")
    return 1.0


def constant(response: str, answer: str) -> float:
    """Half a point for anything."""
    return 0.5


def only_digits(response: str, answer: str) -> float:
    """A point for the right answer, an error for what is no number."""
    if not response.isdigit():
        raise ValueError("not a number")
    return float(response == answer)


def number(response: str, answer: str) -> float:
    """About 1 for the right number, more for fewer characters; an error for none."""
    if not response.isdigit():
        raise ValueError("not a number")
    return float(int(response) == int(answer)) * (1.1 - len(response) / 100)


def unpadded(response: str, answer: str) -> float:
    """A point for a text that does not begin with 0."""
    return float(not response.startswith("0"))


def short(response: str, answer: str) -> float:
    """A point for a single character."""
    return float(len(response) == 1)
