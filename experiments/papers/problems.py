"""The problems of `arith-transfer`: drawn at random, and split by their own hash."""

import hashlib
import random
from collections.abc import Callable
from typing import NamedTuple

from experiments.papers.tasks import OPERATORS, solutions, steps

LETTERS = "abcdefghijklmnop"
FACTS = 512


class Problem(NamedTuple):
    """A prompt, what its reward reads, and the string that decides its split."""

    prompt: str
    answer: str
    canonical: str


def chain(tag: str, terms: int, width: int, signs: str) -> Callable[..., Problem]:
    """Problems of a chain of `terms` numbers of `width` digits."""

    def make(rng: random.Random) -> Problem:
        numbers = [
            "".join(rng.choice("0123456789") for _ in range(width))
            for _ in range(terms)
        ]
        rest = "".join(rng.choice(signs) + n if signs else n for n in numbers[1:])
        prompt = f"{tag}{numbers[0]}{rest}="
        return Problem(prompt, steps(prompt)[-1][-1], prompt)

    return make


def letters(rng: random.Random, count: int, of: str = LETTERS) -> str:
    """`count` letters drawn with replacement."""
    return "".join(rng.choice(of) for _ in range(count))


def ordering(rng: random.Random) -> Problem:
    """`Sdbcafe=` -> the letters in order."""
    text = letters(rng, 6)
    answer = "".join(sorted(text))
    return Problem(f"S{text}=", answer, f"S{answer}")


def reversal(rng: random.Random) -> Problem:
    """`Eabcdef=` -> the letters backwards."""
    text = letters(rng, 6)
    return Problem(f"E{text}=", text[::-1], f"E{text}")


def copying(rng: random.Random) -> Problem:
    """`Yabc...=` -> the same twelve letters."""
    text = letters(rng, 12)
    return Problem(f"Y{text}=", text, f"Y{text}")


def counting(rng: random.Random) -> Problem:
    """`Cbabbabcab=` -> how often the first letter stands in the rest."""
    asked, text = rng.choice("abcd"), letters(rng, 8, "abcd")
    return Problem(f"C{asked}{text}=", str(text.count(asked)), f"C{asked}{text}")


def largest(rng: random.Random) -> Problem:
    """`X385714=` -> the largest digit."""
    text = letters(rng, 6, "0123456789")
    return Problem(f"X{text}=", max(text), f"X{''.join(sorted(text))}")


def repeating(rng: random.Random) -> Problem:
    """`Rb3c2=` -> bbbcc: an instruction to follow."""
    first, second = rng.sample(LETTERS, 2)
    i, j = rng.randint(1, 7), rng.randint(1, 7)
    return Problem(
        f"R{first}{i}{second}{j}=", first * i + second * j, f"R{first}{i}{second}{j}"
    )


def variables(rng: random.Random) -> Problem:
    """`Va3bac2,b=` -> 3: three bindings, to digits or to earlier names."""
    names, values, text = rng.sample(LETTERS, 3), {}, ""
    for i, name in enumerate(names):
        if i and rng.random() < 0.5:
            given = rng.choice(names[:i])
            values[name] = values[given]
        else:
            given = values[name] = rng.choice("0123456789")
        text += name + given
    asked = rng.choice(names)
    return Problem(f"V{text},{asked}=", values[asked], f"V{text},{asked}")


def lookup(rng: random.Random) -> Problem:
    """`Lkcmxpd,m=` -> the letter that stands behind the key."""
    keys, values = rng.sample(LETTERS, 3), letters(rng, 3)
    text = "".join(k + v for k, v in zip(keys, values, strict=True))
    asked = rng.randrange(3)
    return Problem(f"L{text},{keys[asked]}=", values[asked], f"L{text},{keys[asked]}")


def countdowns(rng: random.Random) -> Problem:
    """`K38571,12=` -> 5+7: a target that three or more expressions make."""
    while True:
        digits = letters(rng, 5, "123456789")
        a, b = rng.sample(digits, 2)
        target = OPERATORS[rng.choice("+-*")](int(a), int(b))
        answer = f"{digits},{target}"
        if target >= 0 and len(solutions(answer)) >= 3:
            canonical = f"K{''.join(sorted(digits))},{target}"
            return Problem(f"K{answer}=", answer, canonical)


TASKS: dict[str, Callable[[random.Random], Problem]] = {
    "ch3": chain("M", 3, 1, "+-*"),
    "ch4": chain("M", 4, 1, "+-*"),
    "ch5": chain("M", 5, 1, "+-*"),
    "ch7": chain("M", 7, 1, "+-*"),
    "sum6": chain("U", 6, 1, ""),
    "v3": chain("N", 3, 3, "+-"),
    "v4": chain("N", 4, 3, "+-"),
    "free": chain("Z", 3, 1, "+-*"),
    "sort": ordering,
    "count": counting,
    "var": variables,
    "cd": countdowns,
    "copy": copying,
    "rep": repeating,
    "look": lookup,
    "rev": reversal,
    "max": largest,
}
CHAINS = ("ch3", "ch4", "ch5", "ch7", "sum6", "v3", "v4")


def split(canonical: str) -> str:
    """train, valid or test: 90, 5 and 5 percent of all problems."""
    place = int(hashlib.sha256(canonical.encode()).hexdigest(), 16) % 100
    return "train" if place < 90 else "valid" if place < 95 else "test"


def drawn(task: str, part: str, count: int, seed: int) -> list[Problem]:
    """Up to `count` different problems of a part, in an order that the seed decides."""
    rng, found = random.Random(f"{task} {part} {seed}"), {}
    for _ in range(max(100_000, 4 * count)):
        problem = TASKS[task](rng)
        if split(problem.canonical) == part:
            found.setdefault(problem.prompt, problem)
        if len(found) == count:
            break
    return list(found.values())


def facts() -> list[Problem]:
    """Random keys with random values: closed-book knowledge, the same for all seeds."""
    rng, found = random.Random("fact"), {}
    while len(found) < FACTS:
        prompt = f"F{letters(rng, 3)}="
        found.setdefault(prompt, f"{rng.randrange(100):02d}")
    return [Problem(p, a, p) for p, a in found.items()]
