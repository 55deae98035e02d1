"""The parts that TRL's options of GRPO stand for, and accumulation factors."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from unipost.aggregation import (
    Aggregation,
    Constant,
    Scaled,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from unipost.classical import PearsonChi2
from unipost.corrections import Correction, GivenWeight, StaleMask
from unipost.links import Clipped, Linear, SoftGate, Weighted
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.parametric import unit_curvature
from unipost.parts import Scalar, concrete
from unipost.penalties import Penalty
from unipost.signals import Signal, Zeros
from unipost.trl.advantages import advantages, is_correction
from unipost.trl.entropy import HighEntropy, OnHighEntropy
from unipost.trl.options import CLIPPED, WINDOW, Options
from unipost.trl.vespo import ClampedGamma
from unipost.weights import Truncate


def scaled(aggregation: Aggregation, factor: Scalar) -> Aggregation:
    """`aggregation` times `factor`; itself where the factor is 1."""
    return aggregation if concrete(factor) == 1.0 else Scaled(aggregation, factor)


def signal_of(options: Options) -> Signal:
    """The signal that was given, or TRL's advantages."""
    if options.signal is not None:
        return options.signal
    return advantages(
        options.scale_rewards,
        options.multi_objective_aggregation,
        options.reward_weights,
    )


def score_of(o: Options) -> dict[str, Any]:
    """Anchor, level and link: the policy loss of a loss_type, per token or row."""
    if o.loss_type == "vespo":  # its weight is a correction
        return {"link": Linear()}
    if o.loss_type == "cispo":
        level = "own" if o.level == "token" else o.level
        return {"link": Weighted(Truncate(o.high), over=o.over, level=level)}
    if o.loss_type == "sapo":
        link = SoftGate(o.sapo_temperature_pos, o.sapo_temperature_neg)
    else:
        link = Clipped(o.epsilon, o.high, cap=o.delta)
    ratio = unit_curvature(PearsonChi2())
    return {"divergence": ratio, "anchor": o.over, "level": o.level, "link": link}


def sampler_of(o: Options) -> Correction | None:
    """The weight that answers for the sampler, or None."""
    if not o.weighted:
        return None
    mode = o.vllm_importance_sampling_mode
    if mode == "given":
        return GivenWeight()
    if o.loss_type == "vespo" and mode.startswith("sequence"):
        raise ValueError(
            f"grpo.vllm_importance_sampling_mode: {mode} with vespo, which multiplies "
            "the tokens' ratios; write token_truncate or token_mask"
        )
    high, low = o.vllm_importance_sampling_clip_max, o.vllm_importance_sampling_clip_min
    return is_correction(mode, high, low)


def corrections_of(o: Options) -> tuple[Correction, ...]:
    """Detached weights of the policy loss: VESPO's, the sampler's, and two masks."""
    found: list[Correction] = []
    sampler = sampler_of(o)
    if o.loss_type == "vespo":
        gamma = ClampedGamma(
            o.vespo_k_pos,
            o.vespo_lambda_pos,
            o.vespo_k_neg,
            o.vespo_lambda_neg,
            o.over,
            sampler,
        )
        found.append(gamma)
    elif sampler is not None:
        found.append(sampler)
    if o.off_policy_mask_threshold is not None:
        over = "behavior" if o.use_vllm else "old"
        found.append(StaleMask(o.off_policy_mask_threshold, over))
    if concrete(o.top_entropy_quantile) != 1.0:
        found.append(HighEntropy(o.top_entropy_quantile))
    return tuple(found)


def penalty_of(o: Options) -> Penalty | None:
    """beta k3, times the importance ratio of the level where TRL corrects its bias."""
    if not o.penalised:
        return None
    if not o.use_bias_correction_kl:
        return Penalty(o.beta)
    return Penalty(o.beta, estimator="importance_k3", importance=o.level, over=o.over)


def aggregation_of(o: Options) -> Aggregation:
    """The denominator of a loss_type, gradient accumulation included in training."""
    train, steps = o.mode == "train", o.gradient_accumulation_steps
    if o.loss_type in WINDOW:
        whole = TokenMean()
        if o.num_items_in_batch is not None:
            whole = Constant(_at_least_one(o.num_items_in_batch), over="nothing")
        return scaled(whole, o.steps_per_generation / steps if train else 1.0)
    if o.loss_type == "bnpo":
        mean = TokenMean()
    elif o.loss_type == "luspo":
        mean = SequenceSum(empty="counted")
    elif o.loss_type == "dr_grpo":
        if o.max_completion_length is None:
            raise ValueError(
                "grpo.max_completion_length: dr_grpo divides by it; write the "
                "generation budget in tokens"
            )
        mean = Constant(o.max_completion_length, over="all_rows")
    else:
        mean = SequenceMean(empty="counted_as_zero")
    return scaled(mean, 1.0 / steps if train else 1.0)


def _at_least_one(count: Scalar) -> Scalar:
    known = concrete(count)
    return jnp.maximum(count, 1.0) if known is None else max(known, 1.0)


def waived_of(o: Options, aggregation: Aggregation) -> tuple[str, ...]:
    """Our refusals that TRL's number needs to pass."""
    names = []
    inner = aggregation.aggregation if isinstance(aggregation, Scaled) else aggregation
    sums = isinstance(inner, (Constant, SequenceSum))
    ratio = o.loss_type in (*CLIPPED, "sapo")
    if ratio and o.level != "token" and sums:
        names.append("sequence_aggregation")  # TRL repeats a row's loss for its tokens
    if o.loss_type == "cispo" and o.on_policy:
        names.append("redundant_weight")  # min(1, cap), which may be below 1
    return tuple(names)


def grpo_objective(o: Options) -> Objective | Mixture:
    """The objective of all options together."""
    aggregation = aggregation_of(o)
    parts = score_of(o) | {
        "signal": signal_of(o),
        "corrections": corrections_of(o),
        "penalty": penalty_of(o),
        "aggregation": aggregation,
        "waived": waived_of(o, aggregation),
        "clamp": None,  # TRL bounds no log-ratio
    }
    if concrete(o.entropy_coef) == 0.0:
        return Objective(**parts)
    train = o.mode == "train"
    bonus = o.entropy_coef / (o.gradient_accumulation_steps if train else 1.0)
    if concrete(o.top_entropy_quantile) == 1.0:
        return Objective(entropy_bonus=bonus, **parts)
    # the bonus is a mean over the tokens that were chosen, the loss one over all
    chosen = OnHighEntropy(Zeros(), o.top_entropy_quantile)
    entropy = Objective(signal=chosen, entropy_bonus=bonus)
    return Mixture((Objective(**parts), entropy), (1.0, 1.0))
