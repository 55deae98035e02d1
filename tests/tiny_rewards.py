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
