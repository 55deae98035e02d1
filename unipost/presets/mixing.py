"""Presets that mix the policy's own samples with demonstrations in one group.

Rows of a group: the policy's own samples first, then demonstrations, flagged in
`batch.off_policy`. Where a paper and its released code differ, the docstring says so.
"""

from __future__ import annotations

from typing import Literal

from unipost.aggregation import Aggregation, Constant, TokenMean
from unipost.annealed import Annealed
from unipost.classical import PearsonChi2
from unipost.corrections import EntropyWeight, TopEntropy
from unipost.divergence import Divergence
from unipost.links import Clipped, Importance, Linear, Weighted
from unipost.mixed_groups import (
    DemonstrationRows,
    Gate,
    HybridMean,
    Outcome,
    OwnRows,
    SwitchedRows,
)
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.parametric import Shaping, unit_curvature
from unipost.parts import Scalar
from unipost.presets.rewards import ratio
from unipost.score import Score
from unipost.signals import Mean, Ones, Signal, Zeros, ZScore
from unipost.weights import Bernoulli, Truncate

Behavior = Literal["one", "given"]
Weighting = Literal["one", "probability", "bernoulli"]


def luffy(
    max_length: Scalar | None = None,
    gamma: Scalar | None = 0.1,
    clip: Scalar | None = None,
    signal: Signal = Mean(),
    aggregation: Aggregation | None = None,
    off_clip: Scalar | None = None,
    behavior: Behavior = "one",
) -> Objective:
    """LUFFY: own rows -A u, demonstrations -A q/(q + gamma), one union group.

    q = p, the behaviour's probability taken as 1, or with `behavior="given"` p over
    `batch.behavior`, which counts as 1 where it is NaN. Defaults are the released
    recipe's: A = r - mean over the union group, no clip on own rows, sum / max_length
    (not divided by rows, so the loss grows with the batch). The paper's Eq 4-6:
    `clip=0.2, signal=ZScore(), aggregation=TokenMean()`. The rows of its Table 4:
    `gamma=None, clip=0.2, off_clip=0.2` mixes alone (-A q; the code does not clip
    demonstrations, off_clip None), `clip=0.2` adds the shape, the defaults take the
    clip away as well. Source: 2504.14945.

    Raises ValueError unless exactly one of `max_length` and `aggregation` is given,
    and for `off_clip` with a shaped ratio, which has no band around 1.
    """
    if gamma is not None and off_clip is not None:
        raise ValueError(
            "luffy.off_clip: the shaped ratio is not 1 on policy; write gamma: null"
        )
    off = Score(
        divergence=_plain() if gamma is None else Shaping(gamma),
        anchor="none" if behavior == "one" else "behavior",
        link=Linear() if gamma is not None else _band(off_clip),
    )
    return ratio(
        _band(clip),
        signal,
        _denominator("luffy", max_length, aggregation),
        off_policy=off,
    )


def rl_sft(
    max_length: Scalar | None = None,
    sft: Scalar = 1.0,
    clip: Scalar | None = 0.2,
    signal: Signal = Mean(),
    aggregation: Aggregation | None = None,
    entropy: Scalar | None = None,
) -> Mixture:
    """RL with an SFT loss: L = L_RL(own rows) + sft mean_t -log pi(demonstrations).

    The baseline of LUFFY's Table 1: advantages over the own rows alone, sum /
    max_length, coefficient 1. `entropy` is the weight of the mean entropy of all rows
    (its code: 0.001). Source: 2504.14945.
    """
    link = _band(clip)
    rl = ratio(link, OwnRows(signal), _denominator("rl_sft", max_length, aggregation))
    bonus = () if entropy is None else ((_entropy(Zeros()), entropy),)
    return _sum((rl, 1.0), (_demonstrated(), sft), *bonus)


def srft(
    sft: Scalar = 0.5,
    rl: Scalar = 0.1,
    max_length: Scalar | None = None,
    gamma: Scalar | None = None,
    signal: Signal = ZScore(),
    aggregation: Aggregation | None = None,
) -> Mixture:
    """SRFT: L = L_self + L_RL(demonstrations) + L_SFT(demonstrations). 2506.19767.

    L_self = -w_RL log pi on correct own rows and +log pi on the others, w_RL = rl
    sg e^H; L_RL = -A p, A over the union group; L_SFT = -w_SFT log pi, w_SFT = sft
    sg e^-H, H the row's mean entropy. The RL losses are divided by `max_length`, not
    by rows, or by `aggregation`. The implementation in HPT's repository has gamma 0.1
    (shaped as LUFFY), signal Mean() and an entropy bonus of 0.001.
    """
    denominator = _denominator("srft", max_length, aggregation)
    own = Objective(
        signal=OwnRows(Outcome()),
        corrections=(EntropyWeight(rl, 1.0, "positive"),),
        aggregation=denominator,
    )
    shown = Objective(
        divergence=_plain() if gamma is None else Shaping(gamma),
        link=Importance() if gamma is None else Linear(),
        signal=DemonstrationRows(signal),
        aggregation=denominator,
    )
    imitated = Objective(
        signal=DemonstrationRows(), corrections=(EntropyWeight(sft, -1.0),)
    )
    return _sum((own, 1.0), (shown, 1.0), (imitated, 1.0))


def chord(
    mu: Scalar | Annealed = Annealed(0.9, 0.05, 200),
    weighting: Weighting = "one",
    clip: Scalar = 0.2,
    signal: Signal = ZScore(),
    aggregation: Aggregation = TokenMean(),
) -> Mixture:
    """CHORD-mu: L = (1 - mu) L_GRPO(own rows) + mu L_SFT(demonstrations). 2508.11408.

    mu falls from 0.9 to 0.05 in 200 steps along half a cosine; a warm-up from 0 is
    `Annealed(..., warmup=n)`. `weighting` of a demonstrated token: one, sg p
    ("probability", the importance-sampled SFT) or sg p(1 - p) ("bernoulli", phi).
    """
    grpo = ratio(_band(clip), OwnRows(signal), aggregation)
    return _sum((grpo, 1.0 - mu), (_demonstrated(weighting), mu))


def chord_phi(
    mu: Scalar | Annealed = 0.1,
    clip: Scalar = 0.2,
    signal: Signal = ZScore(),
    aggregation: Aggregation = TokenMean(),
) -> Mixture:
    """CHORD-phi: L = (1 - mu) L_GRPO(own rows) + mu mean_t -sg p(1 - p) log pi.

    A fixed mu; the token's weight phi does what CHORD-mu's schedule is for.
    Source: 2508.11408.
    """
    return chord(mu, "bernoulli", clip, signal, aggregation)


def hpt(
    max_length: Scalar | None = None,
    gate: Gate = Gate(),
    rl: Scalar = 1.0,
    sft: Scalar = 1.0,
    entropy: Scalar | None = 0.001,
    clip: Scalar | None = None,
    signal: Signal = Mean(),
    aggregation: Aggregation | None = None,
) -> Mixture:
    """HPT: a prompt that its own rows fail is SFT on its demonstration, else RL.

    L = rl L_RL(own rows of groups that pass) + sft mean_t -log pi(demonstrations of
    groups that fail) - entropy mean_t H of the rows kept. `gate`: 0 correct of the
    group fail. Defaults are the released script's: no clip, A = r - mean, sum /
    max_length, not divided by rows; sft is 0.3 for 1.5B. Source: 2509.04419.
    """
    denominator = _denominator("hpt", max_length, aggregation)
    solved = ratio(_band(clip), OwnRows(signal, gate=gate), denominator)
    failed = Objective(signal=DemonstrationRows(Ones(), gate))
    bonus = ()
    if entropy is not None:
        bonus = ((_entropy(SwitchedRows(Zeros(), gate)), entropy),)
    return _sum((solved, rl), (failed, sft), *bonus)


def relift(
    sft: Scalar = 1.0,
    entropy: Scalar | None = 1e-4,
    clip: Scalar = 0.2,
    signal: Signal = ZScore(),
    aggregation: Aggregation = TokenMean(),
) -> Mixture:
    """ReLIFT: L = L_GRPO(own rows) + sft mean_t(-log pi - entropy H), demonstrations.

    Which demonstrations a batch holds, and when, is the data's: those of failed
    questions, once enough are buffered; a batch may lack either kind of row. The
    paper's bonus is 1e-4, its code's 1e-3; token means as verl's. Source: 2506.07527.
    """
    grpo = ratio(_band(clip), OwnRows(signal), aggregation)
    tuned = Objective(signal=DemonstrationRows(), entropy_bonus=entropy)
    return _sum((grpo, 1.0), (tuned, sft))


def prefix_rft(
    share: Scalar = 0.2,
    low: Scalar = 0.2,
    high: Scalar = 0.2,
    dual: Scalar | None = 3.0,
    entropy: Scalar | None = 0.001,
    continuation: Literal["own", "hybrid"] = "own",
    aggregation: Aggregation = TokenMean(),
) -> Objective:
    """Prefix-RFT: L = mean_t -c min(u A, clip(u) A), prefixes of demonstrations.

    The policy has continued the prefix that `batch.off_policy` [P, G, T] flags. Its A
    is r minus the mean of the own rows, over the number of such rows; c is 1, but 0 on
    prefix tokens outside the `share` with the highest entropy. u = pi/old everywhere,
    dual clip `dual`; token mean and bonus as the released config, whose Dr. GRPO
    divides by `Constant(length, "nothing")`. `continuation` as in `HybridMean`: its
    code's is hybrid. The share is its code's schedule; 0.2 is 2506.01939's. Source:
    2507.01679.
    """
    return ratio(
        Clipped(low, high, dual),
        HybridMean(continuation),
        aggregation,
        corrections=(TopEntropy(share, "off_policy"),),
        entropy_bonus=entropy,
    )


def _plain() -> Divergence:
    """The ratio itself: f'(u) = u - 1."""
    return unit_curvature(PearsonChi2())


def _band(clip: Scalar | None) -> Clipped | Importance:
    return Importance() if clip is None else Clipped(clip, clip)


def _demonstrated(weighting: Weighting = "one") -> Objective:
    """Token mean of the demonstrations' negative log-likelihood."""
    if weighting == "one":
        return Objective(signal=DemonstrationRows())
    weight = Truncate(1.0) if weighting == "probability" else Bernoulli()
    return Objective(link=Weighted(weight, over="none"), signal=DemonstrationRows())


def _entropy(signal: Signal) -> Objective:
    """Minus the mean entropy of the tokens of the rows that the signal selects."""
    return Objective(signal=signal, entropy_bonus=1.0)


def _sum(*terms: tuple[Objective, Scalar | Annealed]) -> Mixture:
    objectives, weights = zip(*terms, strict=True)
    return Mixture(tuple(objectives), tuple(weights))


def _denominator(
    name: str, max_length: Scalar | None, aggregation: Aggregation | None
) -> Aggregation:
    if max_length is not None and aggregation is None:
        return Constant(max_length, over="nothing")
    if max_length is not None or aggregation is None:
        raise ValueError(
            f"{name}: the loss is divided by max_length or by an aggregation; write one"
        )
    return aggregation
