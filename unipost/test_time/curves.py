"""Accuracy against the number N of responses, out of n that were drawn per item.

Two estimates of the accuracy of a rule on N responses:

- by trials (prm800k/eval): a random subset of N of the n for every item, the rule on
  it, the share of items whose choice is right; mean and standard deviation over trials.
- exactly, where the expectation over all subsets is an order statistic. Best of n: the
  item's responses in order of score, the r-th from 0 is the best of a subset with
  probability C(n-1-r, N-1) / C(n, N). pass@k: 1 - C(n-c, N) / C(n, N).

Ties are broken by the order of drawing, also within a subset, so best of n is exact
with ties too. N = n is one subset: all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unipost.analysis.statistics import bootstrap_mean
from unipost.evaluate import pass_at_k
from unipost.test_time.votes import best, majority, weighted

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Drawn(NamedTuple):
    """I items with n responses each.

    answers  [I, n] codes, -1 for none (`unipost.test_time.votes.coded`)
    correct  [I, n] bool
    scores   [I, n] by name; NaN where a response was not scored
    weights  [I, n] by name, 0 or more: what a vote counts; a score that is missing
             here has no weighted vote
    """

    answers: np.ndarray
    correct: np.ndarray
    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]


class Point(NamedTuple):
    """The accuracy of one rule at one N.

    mean, std  over trials of random subsets; std 0 where there is one subset
    exact      the expectation over all subsets, None where it has no closed form
    low, high  95% interval over items, of the exact expectation if there is one
    """

    rule: str
    samples: int
    mean: float
    std: float
    exact: float | None
    low: float
    high: float


def expected_best(drawn: Drawn, score: str, size: int) -> np.ndarray:
    """E[best of `size` is right] [I], over all subsets of the n responses."""
    values = drawn.scores[score]
    usable = (drawn.answers >= 0) & ~np.isnan(values)
    # what cannot be chosen ranks last, and is wrong if nothing else was drawn
    order = np.argsort(np.where(usable, -values, np.inf), -1, kind="stable")
    right = np.take_along_axis(drawn.correct & usable, order, -1)
    return right @ _rank_probabilities(right.shape[-1], size)


def _rank_probabilities(n: int, size: int) -> np.ndarray:
    """P(rank r from 0 is the best of a random subset) [n], C(n-1-r, N-1) / C(n, N)."""
    found = np.zeros(n)
    found[0] = size / n
    for r in range(n - size):
        found[r + 1] = found[r] * (n - size - r) / (n - 1 - r)
    return found


def expected_pass(drawn: Drawn, size: int) -> np.ndarray:
    """pass@`size` [I]: a response without an answer is wrong."""
    right = drawn.correct & (drawn.answers >= 0)
    return pass_at_k(right.shape[-1], right.sum(-1), size)


def trials(
    drawn: Drawn,
    choose: Callable[[np.ndarray, np.ndarray], np.ndarray],
    size: int,
    count: int,
    seed: int,
) -> np.ndarray:
    """Whether the choice was right [count, I], on a random subset per trial and item.

    `choose(answers, places)` is given the subset's answers [I, N] and its places in
    the n responses, in the order of drawing, and gives the index in the subset.
    """
    items, n = drawn.answers.shape
    rng = np.random.default_rng([seed, size])
    found = np.zeros((1 if size == n else count, items), bool)
    for trial in found:
        places = np.sort(rng.random((items, n)).argsort(-1)[:, :size], -1)
        chosen = choose(np.take_along_axis(drawn.answers, places, -1), places)
        place = np.take_along_axis(places, np.maximum(chosen, 0)[:, None], -1)
        right = np.take_along_axis(drawn.correct, place, -1)[:, 0]
        trial[:] = right & (chosen >= 0)
    return found


class Measured(NamedTuple):
    """One rule at one N: outcomes of the trials [count, I], the expectation [I].

    known  None where it has no closed form
    """

    rule: str
    samples: int
    tried: np.ndarray
    known: np.ndarray | None

    @property
    def items(self) -> np.ndarray:
        """The accuracy of every item [I]: the expectation, else the mean of trials."""
        return self.tried.mean(0) if self.known is None else self.known


def measured(
    drawn: Drawn, sizes: Sequence[int], count: int = 400, seed: int = 0
) -> list[Measured]:
    """Every rule at every N of `sizes`: best of n, votes, weighted votes, pass@k.

    `count` trials for each. Raises ValueError for an N that is not in 1..n.
    """
    n = drawn.answers.shape[-1]
    for size in sizes:
        if not 1 <= size <= n:
            raise ValueError(f"sizes: {size} of {n} responses; write 1 to {n}")
    found = []
    for name, (choose, exact) in _rules(drawn).items():
        for size in sizes:
            known = None if exact is None else exact(size)
            tried = trials(drawn, choose, size, count, seed)
            found.append(Measured(name, size, tried, known))
    return found


def curves(
    drawn: Drawn, sizes: Sequence[int], count: int = 400, seed: int = 0
) -> list[Point]:
    """The points of `measured`: means over items, with their intervals."""
    return [point(x) for x in measured(drawn, sizes, count, seed)]


def rule_names(scores: Sequence[str], weights: Sequence[str]) -> list[str]:
    """The rules of `measured`, in its order, for these scores and weights."""
    best_of = [f"best of n, {name}" for name in scores]
    votes = ["majority", *(f"weighted vote, {name}" for name in weights)]
    return [*best_of, *votes, "pass@n"]


def _rules(drawn: Drawn):
    """{name: (choice in a subset, exact expectation by N or None)}."""

    def on(values: np.ndarray, rule: Rule):
        return lambda answers, places: rule(
            answers, np.take_along_axis(values, places, -1)
        )

    rules = {}
    for name, values in drawn.scores.items():
        exact = _partial(expected_best, drawn, name)
        rules[f"best of n, {name}"] = on(values, best), exact
    rules["majority"] = (lambda answers, places: majority(answers)), None
    for name, values in drawn.weights.items():
        rules[f"weighted vote, {name}"] = on(values, weighted), None
    oracle = on(drawn.correct.astype(float), best)
    rules["pass@n"] = oracle, _partial(expected_pass, drawn)
    return rules


def _partial(function: Callable[..., np.ndarray], *first):
    return lambda size: function(*first, size)


def point(found: Measured) -> Point:
    """The mean over items and trials, with its interval over items."""
    each = found.tried.mean(1)
    interval = bootstrap_mean([found.items])
    exact = None if found.known is None else float(found.known.mean())
    numbers = float(each.mean()), float(each.std()), exact
    return Point(found.rule, found.samples, *numbers, interval.low, interval.high)
