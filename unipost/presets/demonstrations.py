"""Presets on demonstrations: SFT and its relatives."""

from __future__ import annotations

from typing import Literal

from unipost.aggregation import Aggregation, TokenMean
from unipost.classical import PearsonChi2
from unipost.divergence import Divergence
from unipost.links import Clipped, Matching, Weighted
from unipost.objective import Gauge, Objective
from unipost.parametric import Alpha, unit_curvature
from unipost.parts import Scalar, in_range
from unipost.signals import Ones
from unipost.weights import Truncate


def sft(aggregation: Aggregation = TokenMean()) -> Objective:
    """Supervised fine-tuning: L = -mean_t log pi(y_t | s_t).

    Linear link on z = log pi with signal 1 and no anchor. In expectation over the
    demonstrations this is KL(expert || policy), exactly. Default: mean over the tokens
    of the logical batch; `sequence_mean` weighs every demonstration alike.
    """
    return Objective(signal=Ones(), aggregation=aggregation)


def f_sft(
    divergence: Divergence,
    beta: Scalar = 1.0,
    gauge: Gauge = "zero",
    cap: Scalar = 100.0,
    aggregation: Aggregation = TokenMean(),
) -> Objective:
    """f-SFT: L = mean_t -phi_f(r_t) + V_t - V_t+1, r = beta log(pi/ref) + V - V'.

    phi_f(x) = -f*(-x). total_variation is SFT (for r < 1/2), pearson_chi2 adds
    r^2/4, squared_hellinger r^2/(1+r): they keep pulling towards the reference. The
    gradient is beta phi'(r) times that of SFT (gauge zero). Gauges: zero (default,
    recommended), lse (logits as Q), lsediff (V = 0 at the reference). `cap` bounds
    phi' outside the dual domain. A reconstruction from the IQ-Learn dual (2106.12142)
    of the f-divergence SFT of 2507.00018, whose own formulas were not available.
    """
    return Objective(
        beta=beta,
        anchor="reference",
        link=Matching(divergence, cap),
        signal=Ones(),
        gauge=gauge,
        aggregation=aggregation,
    )


def dft(aggregation: Aggregation = TokenMean()) -> Objective:
    """Dynamic fine-tuning: L = -mean_t sg(pi) log pi. Source: 2508.05629.

    The gradient is that of 1 - pi, the total variation to a one-hot target: tokens
    that the policy finds improbable are learned slowly or not at all.
    """
    return Objective(
        link=Weighted(Truncate(1.0), over="none"),
        signal=Ones(),
        aggregation=aggregation,
    )


def alpha_sft(power: Scalar = 0.5, aggregation: Aggregation = TokenMean()) -> Objective:
    """Beyond log-likelihood: L = mean_t (1 - p^power) / power. Source: 2510.00526.

    The gradient is that of SFT times p^power: power -> 0 is SFT, power 1 has DFT's
    gradient with value 1 - p. For power < 1 it is the alpha-divergence to a one-hot
    target, up to a factor; beyond, it is a potential and no alpha-divergence.
    """
    in_range("alpha_sft.power", power, 0.0, what="is not positive; 0 is sft")
    return Objective(Alpha(-power), signal=Ones(), aggregation=aggregation)


def psft(high: Scalar = 0.2, aggregation: Aggregation = TokenMean()) -> Objective:
    """Proximal SFT: L = -mean_t min(u, 1 + high), u = pi/old. Source: 2508.17784.

    PPO's clip with A = 1: a token that has risen by `high` since the snapshot `old` is
    left alone. Default 0.2 (paper; the repository writes 0.2/0.28, the lower bound and
    its dual clip never bind at A = 1).
    """
    return Objective(
        divergence=unit_curvature(PearsonChi2()),
        anchor="old",
        link=Clipped(low=float("inf"), high=high),
        signal=Ones(),
        aggregation=aggregation,
    )


def iw_sft(
    temperature: Scalar = 2.0,
    cap: Scalar = 16.0,
    floor: Scalar = 0.0,
    level: Literal["token", "sequence", "sequence_mean"] = "sequence_mean",
    aggregation: Aggregation = TokenMean(),
) -> Objective:
    """Importance-weighted SFT: L = -mean_t sg(clip(u^temperature, floor, cap)) log pi.

    u is the geometric mean over the sequence of pi/ref (released code: temperature 2,
    [0, 16]); `level="token"` with floor 0.2 and cap 1.8 is its per-token variant. A
    lower bound on the RL objective over filtered demonstrations. Source: 2507.12856.
    """
    weight = Truncate(cap, floor, temperature)
    own = "own" if level == "token" else level
    return Objective(
        link=Weighted(weight, over="reference", level=own),
        signal=Ones(),
        aggregation=aggregation,
    )
