"""A penalty for saying the same again."""

from typing import Literal


def repetition_penalty(
    response: str,
    answer: str,
    size: int = 3,
    penalty: float = -1.0,
    unit: Literal["word", "character"] = "word",
) -> float:
    """penalty * (1 - different n-grams / n-grams), in [penalty, 0].

    n-grams of `size` words, in lower case and separated by white space, or of
    characters (for text without spaces); 0 for a text that is shorter. Source:
    2502.03373 C.2 and TRL's get_repetition_penalty_reward, which counts tokens.
    """
    if size < 1 or not -1e6 <= penalty <= 0:
        raise ValueError(
            f"repetition: size {size}, penalty {penalty}; write >= 1, <= 0"
        )
    words = response.lower().split()
    units = words if unit == "word" else list("".join(words))
    grams = list(zip(*(units[i:] for i in range(size)), strict=False))
    if not grams:
        return 0.0
    return penalty * (1 - len(set(grams)) / len(grams))
