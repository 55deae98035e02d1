"""The lines of `unipost analyze`: measures of two models on a file of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unipost.analysis.calibration import brier, confidences, ece
from unipost.analysis.compare import Compared
from unipost.analysis.diversity import (
    answer_entropy,
    distinct_answers,
    distinct_n,
    self_bleu,
)
from unipost.analysis.implicit import separation
from unipost.analysis.latent import LatentShift
from unipost.analysis.pass_curves import maj_curve, pass_curve
from unipost.analysis.responses import Responses
from unipost.analysis.statistics import Interval, bootstrap_mean, paired_difference
from unipost.analysis.token_kl import paper_kl, per_response, token_kl, token_mean
from unipost.analysis.token_shift import rank_shift, shifts
from unipost.analysis.weights import WeightDistance


class Measure(NamedTuple):
    """One line of the table.

    base, tuned  the number of each model, None where it is of both
    value        their difference, tuned - base, or the distance between them
    digits       how it is written, a format of numbers
    """

    group: str
    name: str
    value: Interval | float | None
    base: float | None = None
    tuned: float | None = None
    digits: str = ".3f"


class Pair(NamedTuple):
    """What was drawn of both models: greedy [N 1] and sampled [N G] responses."""

    base: Responses
    tuned: Responses
    base_greedy: Responses
    tuned_greedy: Responses


def answer_measures(pair: Pair) -> Iterator[Measure]:
    """Accuracies in percent, lengths in tokens; differences over the same prompts."""
    group, n = "answers", pair.base.shape[1]
    right = [x.correct for x in pair]
    base, tuned, base_greedy, tuned_greedy = right
    if base is not None and tuned is not None:
        assert base_greedy is not None and tuned_greedy is not None
        yield _both(group, "accuracy, greedy, %", (base_greedy, tuned_greedy), 100)
        yield _both(group, "accuracy of samples, %", (base, tuned), 100)
        if n > 1:
            passes = pass_curve(base, [n]), pass_curve(tuned, [n])
            yield _both(group, f"pass@{n}, %", passes, 100)
            voted = (pair.base.codes, base), (pair.tuned.codes, tuned)
            votes = [maj_curve(codes, right, [n]) for codes, right in voted]
            yield _both(group, f"maj@{n}, %", votes, 100)
    lengths = pair.base.lengths, pair.tuned.lengths
    yield _both(group, "tokens of a sample", lengths, digits=".1f")


def token_measures(own: Compared, before: Compared) -> Iterator[Measure]:
    """Distances along samples of the tuned model (`own`) and of the base (`before`)."""
    group, kl = "tokens, nats", token_kl(own)
    yield Measure(group, "KL(tuned‖base) per token", token_mean(own, own.reverse))
    yield Measure(group, "KL(base‖tuned) per token", token_mean(before, before.forward))
    yield Measure(group, "KL(tuned‖base) per response", per_response(own, own.reverse))
    late = per_response(before, before.forward)
    yield Measure(group, "KL(base‖tuned) per response", late)
    yield Measure(group, "KL(tuned‖base) per token, k1", kl.k1)
    yield Measure(group, "KL(tuned‖base) per token, k3", kl.k3)
    yield Measure(group, "KL(tuned‖base) as in 2507.00432's code", paper_kl(own))
    varied = token_mean(before, before.variation)
    yield Measure(group, "total variation per token", varied)
    entropy = [
        token_mean(before, before.base.entropy),
        token_mean(own, own.tuned.entropy),
    ]
    means = [x.mean for x in entropy]
    yield _gap(group, "entropy on own samples", means)

    group, found = "rank shift", rank_shift(own)
    yield Measure(group, "mean", token_mean(own, shifts(own)), digits=".2f")
    yield Measure(group, "median", found.median, digits=".1f")
    yield Measure(group, "tokens shifted, %", 100 * found.shifted, digits=".1f")
    yield Measure(group, "below rank 3 of the base, %", 100 * found.far, digits=".1f")


def text_measures(found: Compared) -> Iterator[Measure]:
    """How likely the file's own responses are."""
    group = "responses of the file"
    sides = [token_mean(found, s.logp) for s in (found.base, found.tuned)]
    gap = token_mean(found, found.log_ratio)
    yield Measure(group, "log-prob per token", gap, sides[0].mean, sides[1].mean)
    kl = token_mean(found, found.reverse)
    yield Measure(group, "KL(tuned‖base) per token", kl)
    chances = [
        float(np.exp(s.logp[found.mask]).mean()) for s in (found.base, found.tuned)
    ]
    yield _gap(group, "probability of a token", chances)


def state_measures(robust: LatentShift, paper: LatentShift) -> Iterator[Measure]:
    """Distances of the hidden states of the file's texts."""
    group = "hidden states"
    yield Measure(
        group, "PCA shift by layer, in deviations of the base", robust.distance
    )
    yield Measure(group, "PCA shift as in 2507.00432's code", paper.distance)
    layer = int(np.nanargmin(robust.cka))
    name = f"linear CKA, lowest (layer {layer} of {len(robust.cka) - 1})"
    yield Measure(group, name, float(robust.cka[layer]))


def weight_measures(moved: WeightDistance) -> Iterator[Measure]:
    """Norms of the difference of the weights."""
    for name, value in (
        ("L1 of the difference", moved.l1),
        ("L2 of the difference", moved.l2),
        ("L2 over that of the base, %", 100 * moved.relative),
        ("spectral norm, largest matrix", moved.spectral),
        ("unchanged, %", 100 * moved.unchanged),
    ):
        yield Measure("weights", name, value, digits=".4g")


def diversity_measures(pair: Pair) -> Iterator[Measure]:
    """Means over prompts of the diversity of the samples of each."""
    group = "diversity of samples"
    if pair.base.shape[1] < 2:
        return

    def line(name: str, of: Callable[[Any], float], sides: Sequence[list]) -> Measure:
        values = [np.array([[of(one)] for one in side], float) for side in sides]
        kept = ~np.isnan(values[0] + values[1])[:, 0]
        return _both(group, name, [v[kept] for v in values])

    tokens = pair.base.tokens, pair.tuned.tokens
    answers = pair.base.answers, pair.tuned.answers
    for n in (1, 2):
        yield line(f"distinct-{n}", lambda one, n=n: distinct_n(one, n), tokens)
    yield line("self-BLEU (lower is more diverse)", self_bleu, tokens)
    yield line("different answers", distinct_answers, answers)
    yield line("entropy of answers, nats", answer_entropy, answers)


def calibration_measures(pair: Pair, own: Compared, before: Compared):
    """Confidence of a sample, exp of its mean log-prob, against whether it is right."""
    if pair.base.correct is None or pair.tuned.correct is None:
        return
    conf = [
        confidences(before.base.logp, before.mask),
        confidences(own.tuned.logp, own.mask),
    ]
    right = pair.base.correct, pair.tuned.correct
    for name, measure in (("ECE, 10 bins", ece), ("Brier score", brier)):
        values = [
            measure(c[~np.isnan(c)], r[~np.isnan(c)])
            for c, r in zip(conf, right, strict=True)
        ]
        yield _gap("calibration", name, values)


def reward_measures(
    pair: Pair, own: Compared, rewards: np.ndarray
) -> Iterator[Measure]:
    """Implicit reward of the tuned model's samples, and whether it tells right ones."""
    group = "implicit reward"
    total = rewards.sum(-1)
    yield Measure(group, "per response", bootstrap_mean(total.mean(-1)[None]))
    right = pair.tuned.correct
    if right is None or right.all() or not right.any():
        return
    yield Measure(group, "of right samples", float(total[right].mean()))
    yield Measure(group, "of wrong samples", float(total[~right].mean()))
    score = own.per_row(rewards)
    kept = ~np.isnan(score)
    area = separation(score[kept], right[kept])
    yield Measure(group, "P(right above wrong), mean per token", area)


def _gap(group: str, name: str, both: Sequence[float]) -> Measure:
    """Two numbers and their difference, without an interval."""
    return Measure(group, name, both[1] - both[0], both[0], both[1])


def _both(
    group: str,
    name: str,
    both: Sequence[ArrayLike],
    scale: float = 1.0,
    digits: str = "",
) -> Measure:
    """Means of both [N ...], their difference with an interval over the N prompts."""
    rows = [
        scale * np.asarray(x, float).reshape(len(np.asarray(x)), -1).mean(1)
        for x in both
    ]
    gap = paired_difference(rows[1][None], rows[0][None]) if len(rows[0]) else None
    means = [float(x.mean()) if x.size else None for x in rows]
    digits = digits or (".1f" if scale > 1 else ".3f")
    return Measure(group, name, gap, means[0], means[1], digits)
