"""Presets on rewards: policy gradients and the clipped ratio."""

from __future__ import annotations

from typing import Literal

from unipost.advantages import GAE, Returns
from unipost.aggregation import (
    Aggregation,
    Constant,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from unipost.classical import PearsonChi2
from unipost.levels import Level
from unipost.links import Clipped, Importance, Link, SoftGate, Weighted
from unipost.objective import Objective
from unipost.parametric import unit_curvature
from unipost.parts import Scalar, concrete
from unipost.penalties import Estimator, Penalty
from unipost.ratios import GeometricClip, Ratio
from unipost.signals import LeaveOneOut, Mean, Raw, Signal, ZScore
from unipost.weights import GammaWeight, Truncate


def _penalty(kl: Scalar | None, estimator: Estimator = "k3") -> Penalty | None:
    if concrete(kl) == 0.0:
        raise ValueError("kl: 0 changes nothing; write kl: null for no KL")
    return None if kl is None else Penalty(kl, estimator=estimator)


def ratio(
    link: Link,
    signal: Signal,
    aggregation: Aggregation,
    level: Level = "token",
    treatment: Ratio | None = None,
    **parts,
) -> Objective:
    """The importance ratio u = pi/old: implicit reward u - 1, the link decides."""
    return Objective(
        divergence=unit_curvature(PearsonChi2()),
        anchor="old",
        ratio=treatment,
        level=level,
        link=link,
        signal=signal,
        aggregation=aggregation,
        **parts,
    )


def reinforce(
    signal: Signal = Raw(), aggregation: Aggregation = SequenceSum()
) -> Objective:
    """REINFORCE: L = -mean_i A_i sum_t log pi, with A = r by default.

    The gradient of E[r] for responses that the policy itself has just sampled.
    """
    return Objective(signal=signal, aggregation=aggregation)


def rloo(
    kl: Scalar | None = 0.05, level: Literal["none", "sequence"] = "none"
) -> Objective:
    """RLOO: L = -mean_i A_i sum_t log pi, A_i = R_i - mean_{j != i} R_j. 2402.14740.

    R = r - kl sum_t log(old/ref): k1 in the reward, weight `kl` (0.05 as TRL; None:
    no KL). `level="sequence"` multiplies by the sequence ratio to `old` instead of
    assuming fresh samples: L = -mean_i A_i prod_t pi/old.
    """
    penalty = _penalty(kl, "in_reward")
    if level == "none":
        return Objective(
            signal=LeaveOneOut(),
            aggregation=SequenceSum(),
            penalty=penalty,
        )
    return Objective(
        divergence=unit_curvature(PearsonChi2()),
        anchor="old",
        level="sequence",
        link=Importance(),
        signal=LeaveOneOut(),
        aggregation=SequenceMean(),
        penalty=penalty,
    )


def grpo(
    low: Scalar = 0.2,
    high: Scalar = 0.2,
    kl: Scalar | None = 0.04,
    estimator: Estimator = "k3",
    ddof: int = 1,
    eps: Scalar = 1e-6,
) -> Objective:
    """GRPO: L = mean_i mean_t [-min(u A, clip(u, 1-low, 1+high) A) + kl k3].

    A = (r - mean)/(std + eps) over the group, ddof 1 and eps 1e-6 as verl (TRL: 1e-4);
    u = pi/old per token. k3 in the loss has the gradient of the forward KL(ref || pi);
    `estimator="importance_k3"` or "k2" has that of KL(pi || ref). kl None: no KL.
    Source: 2402.03300 Eq 3-4.
    """
    if kl is None and estimator != "k3":
        raise ValueError(f"estimator: {estimator} without a KL; write kl: 0.04")
    penalty = _penalty(kl, estimator)
    link, signal = Clipped(low, high), ZScore(ddof, eps)
    return ratio(link, signal, SequenceMean(), penalty=penalty)


def dr_grpo(
    max_length: Scalar, low: Scalar = 0.2, high: Scalar = 0.2, kl: Scalar | None = None
) -> Objective:
    """Dr. GRPO: L = sum_it -min(u A, clip(u) A) / (rows max_length), A = r - mean.

    No division by the response's length nor by the group's deviation, and no KL.
    `max_length` is the generation budget in tokens. Source: 2503.20783.
    """
    penalty = _penalty(kl)
    aggregation = Constant(max_length)
    return ratio(Clipped(low, high), Mean(), aggregation, penalty=penalty)


def dapo(
    low: Scalar = 0.2, high: Scalar = 0.28, ddof: int = 1, eps: Scalar = 1e-6
) -> Objective:
    """DAPO: L = sum_it -min(u A, clip(u, 1-low, 1+high) A) / tokens, A a z-score.

    The token mean is over the logical batch (as verl and TRL; the paper normalises
    per group), no KL. Dynamic sampling and the overlong penalty belong to the data.
    Source: 2503.14476 Eq 8.
    """
    return ratio(Clipped(low, high), ZScore(ddof, eps), TokenMean())


def reinforce_pp(
    low: Scalar = 0.2,
    high: Scalar = 0.2,
    kl: Scalar | None = 0.01,
    gamma: Scalar = 1.0,
) -> Objective:
    """REINFORCE++: L = mean_t -min(u A, clip(u) A), A the whitened return to go.

    R_t = r - kl sum_{s >= t} log(old/ref), whitened over all tokens of the logical
    batch; no group is needed. `gamma` discounts. Source: 2501.03262.
    """
    penalty = _penalty(kl, "in_reward")
    return ratio(Clipped(low, high), Returns(gamma), TokenMean(), penalty=penalty)


def ppo(
    low: Scalar = 0.2,
    high: Scalar = 0.2,
    kl: Scalar | None = 0.05,
    gamma: Scalar = 1.0,
    lam: Scalar = 0.95,
) -> Objective:
    """PPO: L = mean_t -min(u A, clip(u, 1-low, 1+high) A), A by GAE. 1707.06347.

    `batch.values` are the critic's; r_t = -kl log(old/ref) per token plus the outcome
    at the end; advantages are whitened over the logical batch. The critic's own loss
    is `unipost.critic.value_loss`.
    """
    penalty = _penalty(kl, "in_reward")
    return ratio(Clipped(low, high), GAE(gamma, lam), TokenMean(), penalty=penalty)


def gspo(
    low: Scalar = 3e-4, high: Scalar = 4e-4, ddof: int = 1, eps: Scalar = 1e-6
) -> Objective:
    """GSPO: L = mean_i -min(s A, clip(s, 1-low, 1+high) A), s = (prod_t pi/old)^(1/n).

    The clip is on the geometric mean ratio of the sequence, whose band is narrow.
    Source: 2507.18071 (bounds of its section 5.1).
    """
    link = Clipped(low, high)
    return ratio(link, ZScore(ddof, eps), SequenceMean(), "sequence_mean")


def gmpo(
    low: Scalar = 0.4,
    high: Scalar = 0.4,
    kl: Scalar | None = None,
    signal: Signal = ZScore(),
) -> Objective:
    """GMPO: L = mean_i -A exp(mean_t d_t), d = log pi/old clipped in log space.

    d_t <= high where A > 0, d_t >= -low where A < 0: the geometric mean of clipped
    token ratios. `kl` adds k3 per row. Source: 2507.20673.
    """
    treatment, aggregation = GeometricClip(low, high), SequenceMean()
    penalty = _penalty(kl)
    link = Importance()
    level = "sequence_mean"
    return ratio(link, signal, aggregation, level, treatment, penalty=penalty)


def cispo(cap: Scalar = 1.28, signal: Signal = ZScore()) -> Objective:
    """CISPO: L = -mean_t sg(min(u, cap)) A log pi, u = pi/old. 2506.13585 Eq 4-5.

    `cap` is the bound itself, 1 + eps_high of the paper; TRL's `epsilon_high` is the
    cap, verl's is cap - 1. No token loses its gradient. No lower bound.
    """
    link = Weighted(Truncate(cap), over="old")
    return Objective(link=link, signal=signal, aggregation=TokenMean())


def sapo(
    tau_pos: Scalar = 1.0, tau_neg: Scalar = 1.05, signal: Signal = ZScore()
) -> Objective:
    """SAPO: L = mean_i mean_t -A (4/tau) sigmoid(tau (u - 1)). Source: 2511.20347.

    A soft gate instead of a clip; tau is `tau_pos` for A > 0 and `tau_neg` otherwise.
    """
    return ratio(SoftGate(tau_pos, tau_neg), signal, SequenceMean())


def vespo(
    k_pos: Scalar = 2.0,
    rate_pos: Scalar = 3.0,
    k_neg: Scalar = 3.0,
    rate_neg: Scalar = 2.0,
    signal: Signal = ZScore(),
) -> Objective:
    """VESPO: L = -mean_t sg(W^k e^(rate (1-W))) A log pi, W = prod_t pi/old.

    (k, rate) by the sign of A; the weight is 1 on policy. Source: 2602.10693 and its
    code, whose defaults these are.
    """
    weight = GammaWeight(k_pos, rate_pos, k_neg, rate_neg)
    link = Weighted(weight, over="old", level="sequence")
    return Objective(link=link, signal=signal, aggregation=TokenMean())
