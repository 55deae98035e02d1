"""verl's policy losses by `loss_mode`, as objectives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from unipost.advantages import Given
from unipost.aggregation import Aggregation, SequenceMean
from unipost.corrections import Correction
from unipost.links import Clipped, Importance, Linear, SoftGate, Weighted
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.parts import Scalar, concrete
from unipost.penalties import Penalty
from unipost.presets.rewards import ratio
from unipost.signals import Signal
from unipost.verl.aggregations import EPS, Agg, aggregation
from unipost.verl.corrections import (
    CovarianceDrop,
    RowGeometricMean,
    TopCovariance,
    TrustRegion,
)
from unipost.verl.links import Distance, QuadraticRatio
from unipost.verl.options import read
from unipost.verl.ratios import CappedSequenceToken, RowGeometricClip
from unipost.verl.rollout import Corrected, RolloutCorrection, RolloutWeight
from unipost.weights import Truncate

Array = jax.Array
Mode = Literal[
    "vanilla",
    "gspo",
    "sapo",
    "cispo",
    "gpg",
    "clip_cov",
    "kl_cov",
    "geo_mean",
    "dro",
    "dppo_tv",
    "dppo_kl",
    "bypass_mode",
]
LEAST = math.exp(-20.0)  # the ratio where verl clamps its logarithm


class Frame(NamedTuple):
    """What every mode is put into: the options that verl reads for all of them."""

    agg: Agg
    loss_scale_factor: Scalar | None
    signal: Signal
    corrections: tuple[Correction, ...]
    penalty: Penalty | None

    @property
    def aggregation(self) -> Aggregation:
        """verl's aggregation by its name."""
        return aggregation(self.agg, self.loss_scale_factor)

    @property
    def rest(self) -> dict[str, Any]:
        """Signal, corrections and penalty of the objective."""
        return {
            "signal": self.signal,
            "corrections": self.corrections,
            "penalty": self.penalty,
        }


def policy_loss(
    mode: Mode = "vanilla",
    agg: Agg = "token-mean",
    clip_low: Scalar = 0.2,
    clip_high: Scalar = 0.2,
    clip_c: Scalar = 3.0,
    tau_pos: Scalar = 1.0,
    tau_neg: Scalar = 1.05,
    dro_beta: Scalar | None = None,
    clip_cov_ratio: Scalar = 2e-4,
    clip_cov_lb: Scalar = 1.0,
    clip_cov_ub: Scalar = 5.0,
    dropped: Array | None = None,
    kl_cov_ratio: Scalar = 2e-4,
    ppo_kl_coef: Scalar = 0.1,
    rollout_correction: RolloutCorrection | None = None,
    loss_scale_factor: Scalar | None = None,
    signal: Signal = Given(),
    corrections: tuple[Correction, ...] = (),
    penalty: Penalty | None = None,
) -> Objective | Mixture:
    """verl's policy loss `mode` aggregated by `agg`; the modes are documented below.

    clip_low, clip_high, clip_c are clip_ratio_low, clip_ratio_high, clip_ratio_c; the
    other names are verl's. `signal` Given() reads `batch.advantage`; `advantage` makes
    verl's estimators. rollout_is_weights stand in `batch.importance` with
    corrections=(GivenWeight(),), and the KL loss is penalty=kl_penalty(...).

    Raises ValueError for an option that the mode does not read, unless it has its
    default. A batch without tokens has loss 0, where verl has 0/0.
    """
    given = locals()
    if mode not in MODES:
        raise ValueError(f"verl.policy_loss.mode: {mode!r}; write {', '.join(MODES)}")
    make = MODES[mode]
    options = read("verl.policy_loss", f"mode {mode}", make, given, DEFAULTS)
    frame = Frame(agg, loss_scale_factor, signal, corrections, penalty)
    return make(frame, **options)


def vanilla(
    frame: Frame, clip_low: Scalar, clip_high: Scalar, clip_c: Scalar
) -> Objective:
    """max(-A u, -A clip(u, 1-low, 1+high)), at most -A clip_c where A < 0: PPO."""
    link = Clipped(clip_low, clip_high, dual=clip_c)
    return ratio(link, aggregation=frame.aggregation, **frame.rest)


def gspo(frame: Frame, clip_low: Scalar, clip_high: Scalar) -> Objective:
    """The same without clip_c, u_t = sg(s) pi/sg(pi), log s = mean_t log u at most 10.

    Where A differs between tokens each is clipped with its own.
    """
    link = Clipped(clip_low, clip_high)
    treatment = CappedSequenceToken()
    return ratio(
        link,
        aggregation=frame.aggregation,
        treatment=treatment,
        clamp=None,
        **frame.rest,
    )


def sapo(frame: Frame, tau_pos: Scalar, tau_neg: Scalar) -> Objective:
    """-A (4/tau) sigmoid(tau (u - 1)), always aggregated by seq-mean-token-mean.

    verl ignores agg here: left at its default it is accepted, another is refused.
    """
    own = "seq-mean-token-mean"
    if frame.agg not in ("token-mean", own):
        raise ValueError(
            f"verl.policy_loss.agg: {frame.agg} with mode sapo; write {own}"
        )
    if frame.penalty is not None and frame.agg != own:
        raise ValueError(
            f"verl.policy_loss.agg: {frame.agg} with mode sapo and a penalty, which "
            f"would have another aggregation; write {own}"
        )
    link, chosen = SoftGate(tau_pos, tau_neg), frame._replace(agg=own)
    return ratio(link, aggregation=chosen.aggregation, **frame.rest)


def cispo(frame: Frame, clip_low: Scalar, clip_high: Scalar) -> Objective:
    """-sg(clip(u, 1-low, 1+high)) A log pi: both sides clipped, every token learns.

    The paper has no lower bound: clip_low 1 or more.
    """
    known = concrete(clip_low)
    floor = LEAST if known is not None and known >= 1.0 else 1.0 - clip_low
    link = Weighted(Truncate(1.0 + clip_high, floor), over="old")
    return Objective(link=link, aggregation=frame.aggregation, **frame.rest)


def gpg(frame: Frame) -> Objective:
    """-A log pi."""
    return Objective(link=Linear(), aggregation=frame.aggregation, **frame.rest)


def clip_cov(
    frame: Frame,
    clip_low: Scalar,
    clip_high: Scalar,
    clip_cov_ratio: Scalar,
    clip_cov_lb: Scalar,
    clip_cov_ub: Scalar,
    dropped: Array | None,
) -> Objective:
    """max(-A u, -A clip(u)) without some tokens of high covariance: `CovarianceDrop`.

    verl draws them at random, so that numbers agree only where no more are candidates
    than are dropped, or where `dropped` [P, G, T] gives verl's draw.
    """
    drop = CovarianceDrop(
        clip_cov_ratio, clip_cov_lb, clip_cov_ub, clip_low, clip_high, dropped
    )
    frame = frame._replace(corrections=(drop, *frame.corrections))
    link = Clipped(clip_low, clip_high)
    return ratio(link, aggregation=frame.aggregation, clamp=None, **frame.rest)


def kl_cov(frame: Frame, kl_cov_ratio: Scalar, ppo_kl_coef: Scalar) -> Mixture:
    """-A u, plus coef |log u| on the tokens of largest covariance: `TopCovariance`.

    There is no clip. The second term is an objective of its own, of weight coef.
    """
    link, agg = Importance(), frame.aggregation
    first = ratio(link, aggregation=agg, clamp=None, **frame.rest)
    second = Objective(
        anchor="old",
        link=Distance(),
        signal=frame.signal,
        corrections=(TopCovariance(kl_cov_ratio), *frame.corrections),
        aggregation=agg,
    )
    return Mixture((first, second), (1.0, ppo_kl_coef))


def geo_mean(frame: Frame, clip_low: Scalar, clip_high: Scalar) -> Objective:
    """mean_i -A exp(mean_t log u_t), log u clipped as in `RowGeometricClip`: GMPO.

    agg is ignored by verl and refused unless it has its default: the mean is over all
    rows, those without a token included (in [P, G] also the padding of small groups).
    Corrections become their geometric mean over the row.
    """
    if frame.agg != "token-mean" or frame.loss_scale_factor is not None:
        raise ValueError(
            f"verl.policy_loss.agg: {frame.agg} with mode geo_mean, which takes the "
            "mean over all rows; leave agg and loss_scale_factor out"
        )
    if frame.penalty is not None:
        raise ValueError(
            "verl.policy_loss.penalty: with mode geo_mean it would be averaged over "
            "rows; write a Mixture with the penalty in an objective of its own"
        )
    weights = tuple(RowGeometricMean(each) for each in frame.corrections)
    frame = frame._replace(corrections=weights)
    return ratio(
        Importance(),
        aggregation=SequenceMean("counted_as_zero", EPS),
        treatment=RowGeometricClip(clip_low, clip_high),
        clamp=None,
        **frame.rest,
    )


def dro(frame: Frame, dro_beta: Scalar | None) -> Objective:
    """-A log pi + dro_beta/2 log(pi/old)^2; dro_beta has no default."""
    if dro_beta is None:
        raise ValueError("verl.policy_loss.dro_beta: missing; write dro_beta: 0.1")
    link = QuadraticRatio(dro_beta)
    return Objective(link=link, aggregation=frame.aggregation, **frame.rest)


def dppo_tv(
    frame: Frame, clip_low: Scalar, clip_high: Scalar, clip_c: Scalar
) -> Objective:
    """-A sg(min(u, clip_c)) log pi inside a band of pi - old: `TrustRegion` tv."""
    return _dppo(frame, TrustRegion(clip_low, clip_high, "tv"), clip_c)


def dppo_kl(
    frame: Frame, clip_low: Scalar, clip_high: Scalar, clip_c: Scalar
) -> Objective:
    """The same inside a ball of the binary KL(old || pi): `TrustRegion` kl."""
    return _dppo(frame, TrustRegion(clip_low, clip_high, "kl"), clip_c)


def _dppo(frame: Frame, region: TrustRegion, clip_c: Scalar) -> Objective:
    link = Weighted(Truncate(clip_c, LEAST), over="old")
    frame = frame._replace(corrections=(region, *frame.corrections))
    return Objective(link=link, aggregation=frame.aggregation, **frame.rest)


def bypass_mode(
    frame: Frame,
    clip_low: Scalar,
    clip_high: Scalar,
    clip_c: Scalar,
    rollout_correction: RolloutCorrection | None,
) -> Objective:
    """`old` is the sampler: vanilla, or -A log pi sg(w), on what is not rejected.

    Weights and rejections follow the present policy over the logical batch. With
    loss_type reinforce the bounds of the clip are not read.
    """
    rule = rollout_correction or RolloutCorrection()
    if frame.corrections:
        raise ValueError(
            "verl.policy_loss.corrections: mode bypass_mode makes its own weights; "
            "leave them out"
        )
    if rule.rejections and not isinstance(frame.signal, Given):
        raise ValueError(
            f"verl.policy_loss.signal: {type(frame.signal).__name__} would be computed "
            "on what is not rejected; write signal: given"
        )
    frame = frame._replace(signal=Corrected(frame.signal, rule))
    if rule.loss_type == "ppo_clip":
        return vanilla(frame, clip_low, clip_high, clip_c)
    bounds = {"clip_low": clip_low, "clip_high": clip_high, "clip_c": clip_c}
    for name, value in bounds.items():
        if concrete(value) != DEFAULTS[name]:
            raise ValueError(
                f"verl.policy_loss.{name}: loss_type reinforce does not read it; leave "
                "it out"
            )
    if rule.level != "none":
        frame = frame._replace(corrections=(RolloutWeight(),))
    return gpg(frame)


MODES: dict[str, Callable[..., Objective | Mixture]] = {
    "vanilla": vanilla,
    "gspo": gspo,
    "sapo": sapo,
    "cispo": cispo,
    "gpg": gpg,
    "clip_cov": clip_cov,
    "kl_cov": kl_cov,
    "geo_mean": geo_mean,
    "dro": dro,
    "dppo_tv": dppo_tv,
    "dppo_kl": dppo_kl,
    "bypass_mode": bypass_mode,
}
DEFAULTS = {
    name: p.default
    for name, p in inspect.signature(policy_loss).parameters.items()
    if name not in ("mode", *Frame._fields)
}
