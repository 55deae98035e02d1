"""TRL 1.16's preference losses: DPO in 15 kinds, KTO, CPO and ORPO.

Rows without a token count as TRL counts them: in the mean, at log-ratio 0, length 1.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from unipost import presets
from unipost.aggregation import SequenceMean
from unipost.classical import ForwardKL, JensenShannon, ReverseKL
from unipost.corrections import Confidence
from unipost.divergence import Divergence
from unipost.links import Gain
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.pair_links import Hinge, Logistic, Squared
from unipost.parametric import Alpha
from unipost.parts import Scalar, concrete
from unipost.reference_points import MismatchedMean
from unipost.signals import Desirability
from unipost.trl.members import (
    LINKS,
    SORTED,
    LossType,
    Option,
    Options,
    Weights,
    chosen_nll,
    combined,
    desensitised,
    listed,
    pair_term,
    refuse_unread,
    scale,
)

Array = jax.Array
FDivergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]

TAKE_A_DIVERGENCE = (
    *("sigmoid", "sigmoid_norm", "hinge", "ipo"),
    *("exo_pair", "robust", "discopop", "sft"),
)
DPO_LOSSES = (
    *TAKE_A_DIVERGENCE,
    *("nca_pair", "bco_pair", "sppo_hard", "aot"),
    *("aot_unpaired", "apo_zero", "apo_down"),
)
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")
NOT_WEIGHTED = ("aot", "aot_unpaired", "hinge", "sft")
ALPHA_CAP = 80.0  # TRL's bound on the exponent (a - 1) log u


def pairs(rows: Array) -> Array:
    """[2P, ...] as TRL stacks preferences, chosen rows first -> [P, 2, ...]."""
    if rows.ndim == 0 or rows.shape[0] % 2:
        raise ValueError(f"pairs: shape {tuple(rows.shape)}; write [2 * pairs, ...]")
    return jnp.stack(jnp.split(rows, 2), axis=1)


def dpo(
    loss_type: LossType = ("sigmoid",),
    loss_weights: Weights = None,
    beta: Scalar = 0.1,
    f_divergence_type: FDivergence = "reverse_kl",
    f_alpha_divergence_coef: Scalar = 0.5,
    label_smoothing: Scalar = 0.0,
    ld_alpha: Scalar | None = None,
    use_weighting: bool = False,
    discopop_tau: Scalar = 0.05,
) -> Objective | Mixture:
    """DPOConfig: L = sum_k weight_k mean over pairs of loss_k.

    With s = f'(u), u = prod_t pi/ref, d = s_w - s_l and e = label_smoothing:

        sigmoid      -log sig(beta d); e is read by `SMOOTHED` alone
        sigmoid_norm, ipo   s is divided by the number of tokens, after f'
        sft          token mean of -log pi over all chosen responses; reads neither
                     beta nor the divergence
        others       as `unipost.presets` has them; bco_pair has no running mean

    f' by f_divergence_type: log u; 1 - 1/u; log(2u/(1+u)); (u^(a-1) - 1)/(a-1), a =
    f_alpha_divergence_coef >= 0, the exponent capped at 80. A value other than
    reverse_kl is for `TAKE_A_DIVERGENCE`. ld_alpha in [0, 1]: LD-DPO. use_weighting:
    WPO, not capped. Raises ValueError for what TRL refuses or fails on, and for an
    option that none of the losses reads.
    """
    names, weights = listed("dpo", loss_type, loss_weights, DPO_LOSSES)
    kind, coef = f_divergence_type, f_alpha_divergence_coef
    unread = Option("f_alpha_divergence_coef", coef, 0.5, ("alpha_divergence",))
    refuse_unread("dpo", (kind,), unread)
    refuse_unread(
        *("dpo", names),
        Option("label_smoothing", label_smoothing, 0.0, SMOOTHED),
        Option("discopop_tau", discopop_tau, 0.05, ("discopop",)),
        Option("ld_alpha", ld_alpha, None, set(DPO_LOSSES) - {"sft"}),
    )
    _refuse_as_trl(names, kind, label_smoothing, use_weighting)
    options = Options(beta, label_smoothing, discopop_tau)
    divergence, clamp = _divergence(kind, coef)
    shared = {
        "clamp": clamp,
        "ratio": desensitised("dpo", ld_alpha),
        "corrections": (Confidence(),) if use_weighting else (),
    }
    terms = [_dpo_term(name, options, divergence, shared) for name in names]
    return combined(terms, weights)


def _dpo_term(name: str, options: Options, divergence: Divergence, shared: dict):
    """One loss of `dpo`."""
    if name == "sft":
        return chosen_nll()
    logistic = name in ("sigmoid", "sigmoid_norm")
    return pair_term(
        Logistic() if logistic else LINKS[name](options),
        scale(name, options.beta),
        divergence,
        per="length" if name in ("sigmoid_norm", "ipo") else "one",
        reference_point=SORTED.get(name),
        **shared,
    )


def _refuse_as_trl(names, kind: str, label_smoothing: Scalar, use_weighting: bool):
    """What TRL 1.16 refuses, or fails on when it runs."""
    for name in names if kind != "reverse_kl" else ():
        if name not in TAKE_A_DIVERGENCE:
            raise ValueError(
                f"dpo.f_divergence_type: {kind} with {name}, where the normaliser does "
                "not cancel; write f_divergence_type='reverse_kl'"
            )
    if "exo_pair" in names and concrete(label_smoothing) == 0.0:
        raise ValueError("dpo.label_smoothing: 0 with exo_pair; write 1e-3")
    for name in NOT_WEIGHTED if use_weighting else ():
        if name in names:
            raise ValueError(
                f"dpo.use_weighting: {name} has no weighted form in TRL; write "
                "use_weighting=False, or another loss"
            )


def _divergence(kind: str, coef: Scalar) -> tuple[Divergence, Scalar | None]:
    """The divergence of TRL 1.16's f', and the bound on |log u| that caps it."""
    match kind:
        case "reverse_kl":
            return ReverseKL(), None
        case "forward_kl":
            return ForwardKL(), None
        case "js_divergence":
            return JensenShannon(), None
        case "alpha_divergence":
            return _alpha(coef)
    raise ValueError(
        f"dpo.f_divergence_type: {kind!r}; write reverse_kl, forward_kl, "
        "js_divergence or alpha_divergence"
    )


def _alpha(coef: Scalar) -> tuple[Divergence, Scalar | None]:
    known = concrete(coef)
    if known is not None and abs(known - 1.0) < 1e-6:  # as TRL does
        return ReverseKL(), None
    if known is not None and known < 0.0:
        raise ValueError(
            f"dpo.f_alpha_divergence_coef: {known:g} is negative; write 0 (forward_kl) "
            "or more"
        )
    # |log u| <= cap / |a - 1| bounds the exponent on the other side too, at e^-80
    divergence = ForwardKL() if known == 0.0 else Alpha(1.0 - coef)
    return divergence, ALPHA_CAP / abs(coef - 1.0)


def kto(
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto",
    beta: Scalar = 0.1,
    desirable_weight: Scalar = 1.0,
    undesirable_weight: Scalar = 1.0,
) -> Objective:
    """KTOConfig: L = mean over rows of w_D (1 - sig(beta (r - z))) or its mirror image.

    r = sum_t log pi/ref [P, 1, T]; `batch.rewards` [P, 1] labels the rows, > 0 is
    desirable. kto: z = max(0, mean of `batch.mismatched`) [P, 1], the sequence
    log-ratios of the mismatched pairs, a constant; apo_zero_unpaired: z = 0. The
    denominator is the number of rows, whatever their weights.
    """
    if loss_type not in ("kto", "apo_zero_unpaired"):
        raise ValueError(
            f"kto.loss_type: {loss_type!r}; write kto or apo_zero_unpaired"
        )
    point = MismatchedMean("counted") if loss_type == "kto" else None
    return Objective(
        beta=beta,
        anchor="reference",
        level="sequence",
        link=Gain(),
        signal=Desirability(desirable_weight, undesirable_weight),
        reference_point=point,
        aggregation=SequenceMean(empty="counted"),
    )


SIMPO = ("simpo", "alphapo")
CPO_LOSSES = ("sigmoid", "hinge", "ipo", *SIMPO)


def cpo(
    loss_type: Literal["sigmoid", "hinge", "ipo", "simpo", "alphapo"] = "sigmoid",
    beta: Scalar = 0.1,
    label_smoothing: Scalar = 0.0,
    alpha: Scalar = 0.0,
    simpo_gamma: Scalar = 0.5,
    cpo_alpha: Scalar = 1.0,
) -> Objective | Mixture:
    """CPOConfig: L = loss(p_w - p_l) + cpo_alpha * token mean of -log pi of the chosen.

    p = log pi of the response, summed (sigmoid, hinge) or averaged over its tokens
    (ipo, simpo, alphapo); alpha != 0 replaces it by (1 - e^(-alpha p)) / alpha, alpha
    <= 1. simpo: -log sig(beta (p_w - p_l) - simpo_gamma). `alphapo` is simpo without
    the NLL: TRL sets cpo_alpha to 0. Averages leave out the pairs with an empty
    response, where TRL's is 0/0. Raises ValueError for an option that the loss does
    not read.
    """
    (name,), _ = listed("cpo", loss_type, None, CPO_LOSSES)
    refuse_unread(
        *("cpo", (name,)),
        Option("label_smoothing", label_smoothing, 0.0, ("sigmoid", *SIMPO)),
        Option("simpo_gamma", simpo_gamma, 0.5, SIMPO),
    )
    margin = name in SIMPO
    divergence = ReverseKL()
    if concrete(alpha) != 0.0:
        divergence = ForwardKL() if concrete(alpha) == 1.0 else Alpha(alpha)
    if name in ("hinge", "ipo"):
        link = Hinge() if name == "hinge" else Squared(beta)
    else:
        link = Logistic(label_smoothing, simpo_gamma if margin else 0.0)
    average = margin or name == "ipo"
    term = pair_term(
        link,
        scale(name, beta),
        divergence,
        "sequence_mean" if average else "sequence",
        anchor="none",
        aggregation=SequenceMean("left_out" if average else "counted"),
    )
    if name == "alphapo" or concrete(cpo_alpha) == 0.0:
        return term
    return Mixture((term, chosen_nll()), (1.0, cpo_alpha))


def orpo(beta: Scalar = 0.1) -> Mixture:
    """ORPOConfig: L = NLL of the chosen - beta log sig(log odds_w - log odds_l).

    odds = p/(1-p), p the geometric mean probability of the response. The NLL is the
    token mean over prompt and response of the chosen rows, `batch.text` [P, 2, T]; T
    covers both. The second term of the mixture is `odds_ratio_loss`. Pairs with an
    empty response are left out of it, where TRL's mean is 0/0.
    """
    return presets.orpo(weight=beta, on="text")
