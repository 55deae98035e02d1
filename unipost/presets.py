"""Presets: functions that return the one `Objective`, named as in the papers.

Every number is an argument; where papers and libraries differ, the docstring says
whose convention the default is. Any part of the object returned can be swapped with
`dataclasses.replace`, and in a config by naming the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from unipost.aggregation import (
    Aggregation,
    Constant,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from unipost.classical import PearsonChi2, ReverseKL
from unipost.divergence import Divergence
from unipost.links import Clipped, Importance, Linear, Matching, Weighted
from unipost.objective import Gauge, Objective
from unipost.pair_links import Logistic, Squared
from unipost.parametric import Shaping, unit_curvature
from unipost.parts import Scalar, concrete
from unipost.penalties import Estimator, Penalty
from unipost.score import Score
from unipost.signals import (
    LeaveOneOut,
    Mean,
    Ones,
    Preference,
    Raw,
    Signal,
    ZScore,
)
from unipost.weights import Truncate


def _penalty(kl: Scalar | None, estimator: Estimator = "k3") -> Penalty | None:
    if concrete(kl) == 0.0:
        raise ValueError("kl: 0 changes nothing; write kl: null for no KL")
    return None if kl is None else Penalty(kl, estimator=estimator)


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
        link=Weighted(Truncate(1.0), over="none"), signal=Ones(), aggregation=aggregation
    )


def dpo(beta: Scalar = 0.1) -> Objective:
    """DPO: L = -log sigmoid(beta (D_w - D_l)), D = sum_t log pi/ref. 2305.18290 Eq 7.

    The mean is over pairs. log 2 at step 0.
    """
    return f_dpo(ReverseKL(), beta)


def f_dpo(divergence: Divergence, beta: Scalar = 0.1) -> Objective:
    """f-DPO: L = -log sigmoid(beta f'(u_w) - beta f'(u_l)), u = prod_t pi/ref.

    Source: 2309.16240. Admissible when f'(0+) = -inf (reverse_kl, forward_kl,
    jensen_shannon, alpha in (0,1), squared_hellinger, neyman_chi2, jeffreys, chi2_kl);
    others are refused. Sequence level. |log u| is clamped at 20 except for reverse_kl.
    """
    return Objective(
        divergence=divergence,
        beta=beta,
        anchor="reference",
        level="sequence",
        link=Logistic(),
        signal=Preference(),
        aggregation=SequenceMean(),
    )


def ipo(
    tau: Scalar = 0.1, length: Literal["sequence", "sequence_mean"] = "sequence"
) -> Objective:
    """IPO: L = (D_w - D_l - 1/(2 tau))^2. Source: 2310.12036 Eq 17.

    D = sum_t log pi/ref as in the paper; `length="sequence_mean"` divides each D by
    its number of tokens, as TRL does.
    """
    return Objective(
        anchor="reference",
        level=length,
        link=Squared(tau),
        signal=Preference(),
        aggregation=SequenceMean(),
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


def _ratio(
    low: Scalar,
    high: Scalar,
    signal: Signal,
    aggregation: Aggregation,
    penalty: Penalty | None = None,
) -> Objective:
    """The clipped importance ratio: f' = u - 1 to `old`, per token."""
    return Objective(
        divergence=unit_curvature(PearsonChi2()),
        anchor="old",
        link=Clipped(low, high),
        signal=signal,
        aggregation=aggregation,
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
    return _ratio(low, high, ZScore(ddof, eps), SequenceMean(), penalty)


def dr_grpo(
    max_length: Scalar, low: Scalar = 0.2, high: Scalar = 0.2, kl: Scalar | None = None
) -> Objective:
    """Dr. GRPO: L = sum_it -min(u A, clip(u) A) / (rows max_length), A = r - mean.

    No division by the response's length nor by the group's deviation, and no KL.
    `max_length` is the generation budget in tokens. Source: 2503.20783.
    """
    penalty = _penalty(kl)
    return _ratio(low, high, Mean(), Constant(max_length), penalty)


def dapo(
    low: Scalar = 0.2, high: Scalar = 0.28, ddof: int = 1, eps: Scalar = 1e-6
) -> Objective:
    """DAPO: L = sum_it -min(u A, clip(u, 1-low, 1+high) A) / tokens, A a z-score.

    The token mean is over the logical batch (as verl and TRL; the paper normalises
    per group), no KL. Dynamic sampling and the overlong penalty belong to the data.
    Source: 2503.14476 Eq 8.
    """
    return _ratio(low, high, ZScore(ddof, eps), TokenMean())


def luffy(
    max_length: Scalar | None = None,
    gamma: Scalar = 0.1,
    clip: Scalar | None = None,
    signal: Signal = Mean(),
    aggregation: Aggregation | None = None,
) -> Objective:
    """LUFFY: on-policy rows -A u, demonstrations -A p/(p + gamma), one union group.

    Rows flagged `off_policy` have behaviour probability 1 (no anchor, no clip) and
    weight gamma p/(p+gamma)^2. Defaults are the released recipe's: A = r - mean over
    the union group, no clip on-policy, sum / max_length (not divided by rows, so the
    loss grows with the batch). The paper's Eq 4-6: `luffy(clip=0.2, signal=ZScore(),
    aggregation=TokenMean())`. Source: 2504.14945.

    Raises ValueError unless exactly one of `max_length` and `aggregation` is given.
    """
    if max_length is not None and aggregation is None:
        aggregation = Constant(max_length, over="nothing")
    elif max_length is not None or aggregation is None:
        raise ValueError(
            "luffy: the loss is divided by max_length or by an aggregation; write one"
        )
    return Objective(
        divergence=unit_curvature(PearsonChi2()),
        anchor="old",
        link=Importance() if clip is None else Clipped(clip, clip),
        signal=signal,
        off_policy=Score(divergence=Shaping(gamma), link=Linear()),
        aggregation=aggregation,
    )


PRESETS: dict[str, Callable[..., Objective]] = {
    "sft": sft,
    "f_sft": f_sft,
    "dft": dft,
    "dpo": dpo,
    "f_dpo": f_dpo,
    "ipo": ipo,
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "luffy": luffy,
}
