"""How different the responses to one prompt are.

A response is a sequence of tokens, words or characters: anything that compares. All
numbers are of the responses to one prompt; average them over prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

Response = Sequence[Hashable]


def ngrams(response: Response, n: int) -> Iterator[tuple[Hashable, ...]]:
    """The n-grams of a response in order; none of a shorter one."""
    return (tuple(response[i : i + n]) for i in range(len(response) - n + 1))


def distinct_n(responses: Sequence[Response], n: int) -> float:
    """Different n-grams over all n-grams of the responses, in 0 ... 1 (1510.03055).

    NaN where no response is n long. Longer and more responses repeat more: compare it
    at one number of responses.
    """
    found = Counter(gram for r in responses for gram in ngrams(r, n))
    total = found.total()
    return len(found) / total if total else math.nan


def bleu(
    response: Response,
    references: Sequence[Response],
    order: int = 4,
    floor: float = 0.1,
) -> float:
    """BLEU of one response against references, in 0 ... 1 (Papineni et al., 2002).

        BP exp( mean_n log p_n ),  n = 1 ... order
        p_n = clipped matches of n-grams / n-grams,  BP = min(1, exp(1 - r / c))

    c is the length, r that of the nearest reference, the shorter of two. No match
    counts `floor` (method 1 of Chen and Cherry, 2014). Orders for which the response is
    too short are left out of the mean. 0 for an empty response.
    """
    logs = []
    for n in range(1, min(order, len(response)) + 1):
        own = Counter(ngrams(response, n))
        most: Counter = Counter()
        for reference in references:
            most |= Counter(ngrams(reference, n))
        matches = (own & most).total()
        logs.append(math.log((matches or floor) / own.total()))
    if not logs or not references:
        return 0.0
    c = len(response)
    r = min((abs(len(x) - c), len(x)) for x in references)[1]
    penalty = 0.0 if c >= r else 1.0 - r / c
    return math.exp(penalty + sum(logs) / len(logs))


def self_bleu(responses: Sequence[Response], order: int = 4) -> float:
    """Mean BLEU of every response against the others (1802.01886): 1 where all agree.

    Lower is more diverse. NaN for fewer than two responses.
    """
    if len(responses) < 2:
        return math.nan
    each = [
        bleu(x, [*responses[:i], *responses[i + 1 :]], order)
        for i, x in enumerate(responses)
    ]
    return sum(each) / len(each)


def answer_entropy(answers: Sequence[Hashable]) -> float:
    """-sum_a s_a log s_a of the shares s of the answers, nats; 0 where all agree.

    Of n answers it is at most log n: an entropy of few samples is too small.
    """
    total = len(answers)
    counts = Counter(answers).values()
    return math.fsum(-c / total * math.log(c / total) for c in counts) + 0.0


def distinct_answers(answers: Sequence[Hashable]) -> int:
    """How many different answers there are."""
    return len(set(answers))
