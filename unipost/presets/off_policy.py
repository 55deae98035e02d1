"""Presets on rewards of data that the policy did not just sample."""

from __future__ import annotations

from typing import Literal

from unipost.advantages import Exponential, Shifted
from unipost.aggregation import (
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from unipost.classical import ReverseKL
from unipost.corrections import SamplerCorrection
from unipost.divergence import Divergence
from unipost.links import (
    Balance,
    Clipped,
    Contrast,
    Residual,
    Weighted,
)
from unipost.objective import Objective
from unipost.parts import Scalar
from unipost.presets.rewards import ratio
from unipost.signals import Mean, Raw, Signal, ZScore
from unipost.weights import Mask, NegativeTruncate, Truncate

Unit = Literal["token", "sequence"]


def awr(tau: Scalar = 1.0, cap: Scalar = 20.0) -> Objective:
    """AWR: L = -mean_t min(e^(A/tau), cap) log pi, A = r - mean. 1910.00177.

    Forward KL to pi* proportional to mu e^(A/tau), the cap aside; no ratio is needed.
    """
    return Objective(signal=Exponential(tau, cap, Mean()), aggregation=TokenMean())


def opmd(tau: Scalar = 0.5, signal: Signal = Mean()) -> Objective:
    """OPMD, Kimi k1.5: L = mean_i (A - tau sum_t log pi/old)^2 / 2, A = r - mean.

    The implicit reward tau log(pi/old) is regressed on the advantage; on policy the
    gradient is that of r - tau KL(pi || old). Kimi prints it without the 1/2.
    Source: 2501.12599 Eq 3.
    """
    return Objective(
        beta=tau,
        anchor="old",
        level="sequence",
        link=Residual(),
        signal=signal,
        aggregation=SequenceMean(),
    )


def _to_reference(link, beta: Scalar = 1.0) -> Objective:
    """Raw rewards against the sequence's log-ratio to the reference."""
    return Objective(
        beta=beta,
        anchor="reference",
        level="sequence",
        link=link,
        signal=Raw(),
        aggregation=SequenceMean(),
    )


def agro(beta: Scalar = 0.1) -> Objective:
    """AGRO: L = mean_x 1/2 Var_group(r - beta sum_t log pi/ref). 2503.19612.

    At the optimum of KL-regularised RL this difference is constant over responses
    ("generation consistency"), whoever sampled them. Variance with ddof 0; derived
    from the stated principle, the paper's equations were not available.
    """
    return _to_reference(Residual(centre="group"), beta)


def copg(beta: Scalar = 0.1) -> Objective:
    """CoPG: L = mean over pairs i<j of -(r_i - r_j) d + beta/2 d^2, d = h_i - h_j.

    h = sum_t log pi/ref. The gradient is -(R_i - R_j)(grad h_i - grad h_j) with
    R = r - beta h: a contrastive policy gradient that needs no importance ratio.
    Source: 2406.19185 (from its abstract and derivation).
    """
    return _to_reference(Contrast(beta))


def f_tb(divergence: Divergence = ReverseKL(), tau: Scalar = 0.1) -> Objective:
    """f-TB: L = mean_i K_f(sum_t log pi/ref - r/tau + log Z). Source: 2605.15417.

    K_f(d) = int_0^d f'(e^s) ds; log Z is the group's mean of r/tau - log pi/ref, a
    constant (VarGrad). On policy the gradient is that of D_f(pi || pi*), pi*
    proportional to ref e^(r/tau); off policy the minimiser is the same. reverse_kl is
    trajectory balance.
    """
    return _to_reference(Balance(divergence, tau))


def topr(cap: Scalar = 1.0) -> Objective:
    """TOPR: L = -mean_i w r log pi, w = 1 for r > 0, sg min(pi/old, cap) otherwise.

    log pi and the ratio are the sequence's, r = +-1 without a baseline, `old` the
    sampler. Source: 2503.14286.
    """
    return Objective(
        level="sequence",
        link=Weighted(NegativeTruncate(cap), over="old"),
        signal=Raw(),
        aggregation=SequenceMean(),
    )


def asymre(shift: Scalar = -0.1) -> Objective:
    """AsymRE: L = -mean_i (r - (mean + shift)) sum_t log pi. Source: 2506.20520.

    Off-policy REINFORCE without a ratio; a `shift` below 0 leans on the good
    responses. 0 collapses off policy (and is refused: write reinforce).
    """
    signal = Shifted(shift, Mean())
    return Objective(signal=signal, aggregation=SequenceSum())


def tis(
    cap: Scalar = 2.0,
    level: Unit = "token",
    low: Scalar = 0.2,
    high: Scalar = 0.2,
    signal: Signal = ZScore(),
) -> Objective:
    """Truncated importance sampling: L = mean_t w -min(u A, clip(u) A).

    w = sg min(old/behavior, cap) answers for a sampler whose log-probs are not the
    trainer's; u = pi/old. `level` sequence takes the product over the response.
    Source: the TIS note of 2025 (fengyao.notion.site/off-policy-rl), cap 2.
    """
    return _corrected(Truncate(cap), level, low, high, signal)


def masked_is(
    cap: Scalar = 3.0,
    floor: Scalar = 0.0,
    level: Unit = "sequence",
    low: Scalar = 0.2,
    high: Scalar = 0.2,
    signal: Signal = ZScore(),
) -> Objective:
    """Masked importance sampling: L = mean_t w -min(u A, clip(u) A).

    w = old/behavior inside [floor, cap], 0 outside: what the sampler cannot have meant
    is left out (IcePop; TRL's default, sequence and cap 3).
    """
    return _corrected(Mask(cap, floor), level, low, high, signal)


def decoupled_ppo(
    low: Scalar = 0.2, high: Scalar = 0.2, signal: Signal = ZScore()
) -> Objective:
    """Decoupled PPO: L = mean_t (old/behavior) -min(u A, clip(u) A), u = pi/old.

    `old` is the proximal policy before the update, `behavior` the stale sampler: the
    clip is around the one, the correction for the other, per token and untruncated.
    Source: 2110.00641; AReaL 2505.24298 Eq 5.
    """
    return _corrected(Truncate(float("inf")), "token", low, high, signal)


def _corrected(weight, level: Unit, low, high, signal) -> Objective:
    corrections = (SamplerCorrection(weight, level),)
    return ratio(Clipped(low, high), signal, TokenMean(), corrections=corrections)
