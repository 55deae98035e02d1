"""Presets on preferences: DPO and its relatives."""

from __future__ import annotations

from typing import Literal

from unipost.aggregation import SequenceMean, TokenMean
from unipost.classical import Chi2KL, ReverseKL
from unipost.corrections import Confidence
from unipost.divergence import Divergence
from unipost.levels import Level
from unipost.links import Gain
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.pair_links import (
    AnchoredDown,
    AnchoredUp,
    BinaryClassifier,
    DiscoPOP,
    Exo,
    Hinge,
    Logistic,
    NoiseContrastive,
    PairLink,
    RobustLogistic,
    SelfPlay,
    Squared,
)
from unipost.parametric import LogOdds
from unipost.parts import Scalar, in_range
from unipost.ratios import LengthDesensitised
from unipost.reference_points import MismatchedMean, OrderStatistics
from unipost.signals import Chosen, Desirability, Preference

Free = Literal["reference", "none"]


def _pairs(
    link: PairLink,
    beta: Scalar = 1.0,
    divergence: Divergence = ReverseKL(),
    anchor: Free = "reference",
    level: Level = "sequence",
    **parts,
) -> Objective:
    """A preference at sequence level, the mean over pairs."""
    return Objective(
        divergence=divergence,
        beta=beta,
        anchor=anchor,
        level=level,
        link=link,
        signal=Preference(),
        aggregation=SequenceMean(),
        **parts,
    )


def dpo(
    beta: Scalar = 0.1, anchor: Literal["reference", "none"] = "reference"
) -> Objective:
    """DPO: L = -log sigmoid(beta (D_w - D_l)), D = sum_t log pi/ref. 2305.18290 Eq 7.

    The mean is over pairs. log 2 at step 0. `anchor="none"` is reference-free DPO, the
    preference term of CPO (2401.08417).
    """
    return _pairs(Logistic(), beta, anchor=anchor)


def f_dpo(
    divergence: Divergence,
    beta: Scalar = 0.1,
    level: Literal["sequence", "token"] = "sequence",
) -> Objective:
    """f-DPO: L = -log sigmoid(beta f'(u_w) - beta f'(u_l)), u = prod_t pi/ref.

    Source: 2309.16240. Admissible when f'(0+) = -inf (reverse_kl, forward_kl,
    jensen_shannon, alpha in (0,1), squared_hellinger, neyman_chi2, jeffreys, chi2_kl);
    others are refused. |log u| is clamped at 20 except for reverse_kl.

    `level="token"` regularises every token's distribution instead of the sequence's:
    the reward is sum_t beta f'(u_t) - c(s_t) with the vocabulary correction c(s) =
    beta E_ref[f*(f'(u))], which needs the log-probs of the whole vocabulary.
    """
    gauge = "vocabulary" if level == "token" else "zero"
    return _pairs(Logistic(), beta, divergence, level=level, gauge=gauge)


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


def cdpo(beta: Scalar = 0.1, smoothing: Scalar = 0.1) -> Objective:
    """Conservative DPO: L = -(1-e) log sigmoid(z) - e log sigmoid(-z).

    z = beta (D_w - D_l), e = `smoothing` the share of flipped labels; minimised at
    sigmoid(z) = 1 - e instead of z = inf. Source: ericmitchell.ai/cdpo.pdf.
    """
    return _pairs(Logistic(smoothing), beta)


def robust_dpo(beta: Scalar = 0.1, noise: Scalar = 0.1) -> Objective:
    """Robust DPO: L = [-(1-e) log sigmoid(z) + e log sigmoid(-z)] / (1 - 2e).

    The expected loss is that on clean labels when a share e = `noise` is flipped; it
    may be negative. Source: 2403.00409.
    """
    return _pairs(RobustLogistic(noise), beta)


def hinge(beta: Scalar = 0.1) -> Objective:
    """SLiC on log-ratios: L = max(0, 1 - z), z = beta (D_w - D_l).

    No gradient beyond z = 1. Source: 2305.10425, normalised as in RSO 2309.06657.
    """
    return _pairs(Hinge(), beta)


def chi_po(beta: Scalar = 0.1, r_max: Scalar | None = None) -> Objective:
    """chi-PO: L = -log sigmoid(clip(beta (phi(u_w) - phi(u_l)), +-2 r_max)).

    phi(u) = u + log u, u = prod_t pi/ref: f-DPO with the mixed divergence chi2/2 + KL,
    clipped at the range of the reward. `r_max` None: no clip. Source: 2407.13399.
    """
    bound = None if r_max is None else 2.0 * r_max
    return _pairs(Logistic(bound=bound), beta, Chi2KL())


def exo(beta: Scalar = 0.1, smoothing: Scalar = 1e-3) -> Objective:
    """EXO on a pair: L = KL((q, 1-q) || (1-e, e)), q = sigmoid(z). Source: 2402.00856.

    The reverse KL where cDPO has the forward one; e = `smoothing` must be positive.
    """
    return _pairs(Exo(smoothing), beta)


def discopop(beta: Scalar = 0.05, tau: Scalar = 0.05) -> Objective:
    """DiscoPOP: L = (1-g)(-log sigmoid(z)) + g e^-z, g = sigmoid(z/tau). 2406.08414.

    A loss found by search; not convex. Defaults are the paper's. For tau 0.05 it rises
    from z = -0.118 to 0.072: at the reference, z = 0, its gradient makes the chosen
    response less likely.
    """
    return _pairs(DiscoPOP(tau), beta)


def simpo(beta: Scalar = 2.0, gamma: Scalar = 1.0) -> Objective:
    """SimPO: L = -log sigmoid(beta (mean_t log pi_w - mean_t log pi_l) - gamma).

    No reference. Defaults: beta 2, gamma/beta 0.5, in the paper's range (2405.14734).
    TRL's `simpo_gamma` is this gamma, and its default beta 0.1.
    """
    link = Logistic(margin=gamma)
    return _pairs(link, beta, anchor="none", level="sequence_mean")


def nca(beta: Scalar = 0.1) -> Objective:
    """NCA on a pair: L = -log sig(R_w) - [log sig(-R_w) + log sig(-R_l)] / 2.

    R = beta sum_t log pi/ref of each response by itself, so reverse_kl alone. It keeps
    the chosen response from becoming less likely. Source: 2402.05369.
    """
    return _pairs(NoiseContrastive(), beta)


def bco(beta: Scalar = 0.1, shift: Scalar = 0.0) -> Objective:
    """BCO on a pair: L = -log sig(R_w - shift) - log sig(-(R_l - shift)). 2404.04656.

    `shift` is the running mean reward of the paper; 0 as TRL 1.x.
    """
    return _pairs(BinaryClassifier(shift), beta)


def sppo(beta: Scalar = 0.1) -> Objective:
    """SPPO, hard win rate: L = (D_w - 1/(2 beta))^2 + (D_l + 1/(2 beta))^2.

    D = sum_t log pi/ref, the reference being the previous iterate. The sum over the
    pair as TRL; the paper takes the mean over both rows, half of it. 2405.00675.
    """
    in_range("sppo.beta", beta, 0.0, what="is not positive and finite")
    return _pairs(SelfPlay(0.5 / beta))


def apo(beta: Scalar = 0.1, direction: Literal["zero", "down"] = "zero") -> Objective:
    """APO: L = 1 - sig(R_w) + sig(R_l) (zero), sig(R_w) + 1 - sig(R_w - R_l) (down).

    zero raises the chosen and lowers the rejected response; down lowers both, the
    rejected more: for a policy that is better than its data. Source: 2408.06266.
    """
    link = AnchoredUp() if direction == "zero" else AnchoredDown()
    return _pairs(link, beta)


def aot(beta: Scalar = 0.1, smoothing: Scalar = 0.0) -> Objective:
    """AOT: L = mean_k -log sigmoid(beta (policy margin_(k) - reference margin_(k))).

    (k) is the k-th smallest over the logical batch: the distribution of margins must
    dominate the reference's, not each pair's. Smoothing as cDPO. Source: 2406.05882.
    """
    point = OrderStatistics("margins")
    return _pairs(Logistic(smoothing), beta, reference_point=point)


def wpo(beta: Scalar = 0.1) -> Objective:
    """WPO: L = -w_w w_l log sigmoid(z), w = sg exp(mean_t [log p - log sum_v p_v^2]).

    DPO on pairs weighted by how likely the policy would be to write them; not clamped
    at 1 (TRL 1.16). Source: 2406.11827.
    """
    return _pairs(Logistic(), beta, corrections=(Confidence(),))


def ld_dpo(beta: Scalar = 0.1, share: Scalar = 0.5) -> Objective:
    """LD-DPO: DPO, L = -log sigmoid(z), with tokens past min(L_w, L_l) at `share`.

    share 1 is dpo (refused as it changes nothing), 0 compares prefixes of equal
    length. Source: 2409.06411.
    """
    return _pairs(Logistic(), beta, ratio=LengthDesensitised(share))


def kto(
    beta: Scalar = 0.1, desirable: Scalar = 1.0, undesirable: Scalar = 1.0
) -> Objective:
    """KTO: L = mean of l_D (1 - sig(beta (D - z0))) and l_U (1 - sig(beta (z0 - D))).

    D = sum_t log pi/ref; z0 = max(0, mean D of mismatched prompts and responses), a
    constant over the logical batch. Rewards label the rows: > 0 is desirable. One mean
    over all rows, whatever their class. Source: 2402.01306.
    """
    return Objective(
        beta=beta,
        anchor="reference",
        level="sequence",
        link=Gain(),
        signal=Desirability(desirable, undesirable),
        reference_point=MismatchedMean(),
        aggregation=SequenceMean(),
    )


def orpo(weight: Scalar = 0.1, on: Literal["response", "text"] = "response") -> Mixture:
    """ORPO: L = NLL of the chosen - weight log sigmoid(log odds_w - log odds_l).

    log odds = log(p/(1-p)), p the geometric mean probability of the response. The NLL
    is the token mean over the chosen responses (paper), or over prompt and response
    (`on="text"`, TRL). A sum of two objectives on one batch. Source: 2403.07691.
    """
    odds = _pairs(
        Logistic(), divergence=LogOdds(), anchor="none", level="sequence_mean"
    )
    demonstrations = Objective(signal=Chosen(on), aggregation=TokenMean())
    return Mixture((demonstrations, odds), (1.0, weight))


def cpo(beta: Scalar = 0.1, nll: Scalar = 1.0) -> Mixture:
    """CPO: L = -log sigmoid(beta (log pi_w - log pi_l)) + nll * NLL of the chosen.

    Reference-free DPO held in place by SFT on the chosen response. Source: 2401.08417.
    """
    demonstrations = Objective(signal=Chosen(), aggregation=TokenMean())
    return Mixture((dpo(beta, "none"), demonstrations), (1.0, nll))
