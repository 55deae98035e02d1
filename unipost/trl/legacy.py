"""DPOTrainer as TRL had it from 0.13 to 0.27, before its losses were rewritten.

label_smoothing is cDPO's, the alpha-divergence is (1 - u^-a)/a, ipo sees log-probs
averaged before f', bco_pair subtracts a mean reward, WPO's weight is capped at 1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import jax.numpy as jnp

from unipost.classical import ForwardKL, JensenShannon, ReverseKL
from unipost.corrections import Confidence, Correction
from unipost.divergence import Divergence
from unipost.levels import Level, at_level, given
from unipost.links import Link
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.pair_links import BinaryClassifier, Logistic, MarginLink, PairLink
from unipost.parametric import Alpha
from unipost.parts import Scalar, concrete, part
from unipost.ratios import LengthDesensitised
from unipost.reference_points import ReferencePoint
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

FDivergence = Literal["reverse_kl", "js_divergence", "alpha_divergence"]
OF_THE_MARGIN = ("sigmoid", "robust", "exo_pair", "hinge", "ipo")
REFERENCE_FREE = (*OF_THE_MARGIN, "apo_zero", "apo_down")
SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_pair")
PAIR_LOSSES = (
    *REFERENCE_FREE,
    *("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_pair", "discopop"),
)
DPO_OLD_LOSSES = (*PAIR_LOSSES, "sft")
EXO_SMOOTHING = 1e-3  # what exo_pair takes for 0, and leaves to the losses after it


@part
class MeanReward(ReferencePoint):
    """The mean of log(pi/ref) over all rows of the logical batch: BCO's first delta."""

    @property
    def needs(self):
        return frozenset({"current", "reference"})

    def __call__(self, batch, signal, measured):
        ratio = measured("reference")
        return jnp.full(ratio.shape, ratio.mean())


@part
class UndiscountedReference(ReferencePoint):
    """(1 - share) sum of log ref over the tokens that LD-DPO discounts.

    Measured from it, the log-ratio of `LengthDesensitised(share)` has the discount on
    the policy alone, as TRL 0.17 to 0.27.
    """

    share: Scalar
    level: Level

    @property
    def needs(self):
        return frozenset({"reference"})

    def __call__(self, batch, signal, measured):
        reference = given(batch, "reference")
        kept = LengthDesensitised(self.share)(reference, signal, batch.mask)
        return at_level(reference - kept, batch.mask, self.level)


@part
class CappedConfidence(Correction):
    """min(w_w w_l, 1) of the two rows' `Confidence`, standing on the chosen row."""

    local: ClassVar[bool] = True

    @property
    def needs(self):
        return frozenset({"collision"})

    def __call__(self, batch, signal, streams):
        weight = Confidence()(batch, signal, streams)
        pair = jnp.minimum(weight.prod(1, keepdims=True), 1.0)
        return jnp.where(signal > 0, pair, 1.0)


def dpo_old(
    loss_type: LossType = "sigmoid",
    loss_weights: Weights = None,
    beta: Scalar = 0.1,
    f_divergence_type: FDivergence = "reverse_kl",
    f_alpha_divergence_coef: Scalar = 1.0,
    label_smoothing: Scalar = 0.0,
    reference_free: bool = False,
    rpo_alpha: Scalar | None = None,
    ld_alpha: Scalar | None = None,
    use_weighting: bool = False,
    discopop_tau: Scalar = 0.05,
    bco_delta: Scalar | None = None,
    logps: Literal["trainer", "sum", "average"] = "trainer",
) -> Objective | Mixture:
    """DPOConfig of TRL 0.13 to 0.27: sum_k weight_k loss_k + rpo_alpha NLL of chosen.

    f' for `OF_THE_MARGIN`: log u; log(2u/(1+u)); (1 - u^-a)/a, a =
    f_alpha_divergence_coef <= 1, the exponent capped where exp overflows. sigmoid:
    -(1-e) log sig(x) - e log sig(-x), e = label_smoothing. aot_pair is aot_unpaired of
    1.16. exo_pair without smoothing takes 1e-3, and so do the losses after it.

    reference_free  u = pi, for the losses `REFERENCE_FREE`
    ld_alpha        LD-DPO on the policy and not on the reference (response-only rows)
    use_weighting   WPO's weight, at most 1, as 0.13 aligns it
    bco_delta       the running mean reward; None: this batch's, as at the first step
    logps           "average" divides policy and reference by the length, before f';
                    "trainer": where ipo is in the list; "sum": `dpo_loss` given sums

    Raises ValueError for an option that none of the losses reads, and for what has no
    form here: the NLL or sorted losses under use_weighting; ld_alpha with a divergence,
    sorted losses or bco_pair without bco_delta.
    """
    names, weights = listed("dpo_old", loss_type, loss_weights, DPO_OLD_LOSSES)
    kind, coef = f_divergence_type, f_alpha_divergence_coef
    unread = Option("f_alpha_divergence_coef", coef, 1.0, ("alpha_divergence",))
    refuse_unread("dpo_old", (kind,), unread)
    options = (
        Option("label_smoothing", label_smoothing, 0.0, SMOOTHED),
        Option("reference_free", reference_free, False, REFERENCE_FREE),
        Option("f_divergence_type", kind, "reverse_kl", OF_THE_MARGIN),
        Option("discopop_tau", discopop_tau, 0.05, ("discopop",)),
        Option("ld_alpha", ld_alpha, None, PAIR_LOSSES),
        Option("bco_delta", bco_delta, None, ("bco_pair",)),
        Option("logps", logps, "trainer", PAIR_LOSSES),
    )
    refuse_unread("dpo_old", names, *options)
    ratio = desensitised("dpo_old", ld_alpha)
    _refuse_formless(names, kind, ratio, bco_delta, use_weighting, rpo_alpha)
    averaged = logps == "average" or (logps == "trainer" and "ipo" in names)
    context = _Context(
        Options(beta, label_smoothing, discopop_tau),
        *_divergence(kind, coef),
        "sequence_mean" if averaged else "sequence",
        ratio,
        (CappedConfidence(),) if use_weighting else (),
        reference_free,
        bco_delta,
    )
    return _with_nll(context.terms(names), weights, rpo_alpha)


def _with_nll(terms, weights, rpo_alpha: Scalar | None) -> Objective | Mixture:
    """The weighted losses, and the NLL of the chosen with RPO's weight."""
    if rpo_alpha is None:
        return combined(terms, weights)
    return combined([*terms, chosen_nll()], [*weights, rpo_alpha])


@dataclasses.dataclass(frozen=True)
class _Context:
    """What the losses of one list share."""

    options: Options
    divergence: Divergence
    clamp: Scalar | None
    level: Level
    ratio: LengthDesensitised | None
    corrections: tuple[Correction, ...]
    reference_free: bool
    bco_delta: Scalar | None

    def terms(self, names: tuple[str, ...]) -> list[Objective]:
        """One objective per loss; exo_pair changes a smoothing of 0 for the rest."""
        found, options = [], self.options
        for name in names:
            if name == "exo_pair" and concrete(options.label_smoothing) == 0.0:
                options = dataclasses.replace(options, label_smoothing=EXO_SMOOTHING)
            found.append(chosen_nll() if name == "sft" else self._term(name, options))
        return found

    def _term(self, name: str, options: Options) -> Objective:
        margin, link = name in OF_THE_MARGIN, self._link(name, options)
        free = self.reference_free and name in REFERENCE_FREE
        point, waived = self._point(name), ()
        if self.ratio is not None and not free:
            point = UndiscountedReference(self.ratio.share, self.level)
            # the discount that the reference lacks does not cancel in a margin
            waived = ("reference_unit",) if isinstance(link, MarginLink) else ()
        return pair_term(
            link,
            scale(name, options.beta),
            self.divergence if margin else ReverseKL(),
            self.level,
            waived,
            anchor="none" if free else "reference",
            clamp=self.clamp if margin and not free else None,
            ratio=self.ratio,
            reference_point=point,
            corrections=self.corrections,
        )

    def _link(self, name: str, options: Options) -> Link | PairLink:
        if name == "sigmoid":
            return Logistic(options.label_smoothing)
        if name == "bco_pair" and self.bco_delta is not None:
            return BinaryClassifier(self.bco_delta)
        return LINKS[_today(name)](options)

    def _point(self, name: str) -> ReferencePoint | None:
        if name == "bco_pair" and self.bco_delta is None:
            return MeanReward()
        return SORTED.get(_today(name))


def _today(name: str) -> str:
    """The name of a loss in TRL 1.16."""
    return "aot_unpaired" if name == "aot_pair" else name


def _divergence(kind: str, coef: Scalar) -> tuple[Divergence, Scalar | None]:
    """The divergence of TRL's old margin, and the bound on |log u| that caps it."""
    match kind:
        case "reverse_kl":
            return ReverseKL(), None
        case "js_divergence":
            return JensenShannon(), None
        case "alpha_divergence":
            divergence = ForwardKL() if concrete(coef) == 1.0 else Alpha(coef)
            return divergence, _exponent_cap() / abs(coef)
    raise ValueError(
        f"dpo_old.f_divergence_type: {kind!r}; write reverse_kl, js_divergence or "
        "alpha_divergence"
    )


def _exponent_cap() -> float:
    """log of the largest float, cut to four digits: 709.7827, in float32 88.7228."""
    largest = float(jnp.finfo(jnp.result_type(float)).max)
    return math.floor(math.log(largest) * 1e4) / 1e4


def _refuse_formless(names, kind, ratio, bco_delta, use_weighting, rpo_alpha) -> None:
    """ld_alpha shifts log u behind f' and every order; a weight is a pair's own."""
    if ratio is not None and kind != "reverse_kl":
        raise ValueError(
            f"dpo_old.ld_alpha: with {kind} has no form here; write "
            "f_divergence_type='reverse_kl', or dpo"
        )
    if ratio is not None and "bco_pair" in names and bco_delta is None:
        raise ValueError(
            "dpo_old.ld_alpha: with bco_pair and its own mean has no form here; write "
            "a bco_delta"
        )
    if use_weighting and (rpo_alpha is not None or "sft" in names):
        raise ValueError(
            "dpo_old.use_weighting: with the NLL of rpo_alpha or sft has no form here; "
            "write a mixture of dpo_old and sft"
        )
    for option, used in (("ld_alpha", ratio), ("use_weighting", use_weighting or None)):
        if used is not None and {"aot", "aot_pair"} & set(names):
            raise ValueError(
                f"dpo_old.{option}: the losses of aot and aot_pair are sorted; write "
                "another loss"
            )
