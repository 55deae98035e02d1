"""TRL's advantages, sampler weights and the grouping of its rows.

TRL holds rewards in float32; here they have the batch's type. The rounding of a mean
shows where a group's rewards are equal and not exact in binary: TRL then has about
1e-4 where the advantage is 0.
"""

from __future__ import annotations

from typing import Any

from unipost.advantages import Standardised
from unipost.components import NormaliseThenSum, SumThenNormalise
from unipost.corrections import SamplerCorrection
from unipost.parts import Scalar
from unipost.signals import BatchZScore, LeaveOneOut, Mean, Signal, ZScore
from unipost.trl.options import (
    SAMPLING_MODES,
    MultiObjective,
    SamplingMode,
    ScaleRewards,
    choose,
)
from unipost.weights import Mask, Truncate

EPS = 1e-4  # TRL adds it to every standard deviation


def advantages(
    scale_rewards: ScaleRewards = "group",
    multi_objective_aggregation: MultiObjective = "sum_then_normalize",
    reward_weights: tuple[Scalar, ...] | None = None,
) -> Signal:
    """GRPOTrainer's advantages: A = (r - mean) / (std + 1e-4), ddof 1.

    sum_then_normalize  r = sum_k weights_k r_k over the rewards that were given; the
                        mean is the group's, std the group's, the batch's or none
    normalize_then_sum  each reward is standardised in its group, the weighted sum over
                        the batch (GDPO)

    One reward function: `batch.rewards` [P, G], reward_weights None. Several:
    `batch.components` [P, G, K] with their weights (None means ones for
    normalize_then_sum, and one reward for sum_then_normalize). NaN is TRL's None. A
    row without a reward, or alone in its group, gets 0 (alone: unless the scale is
    the batch's in normalize_then_sum). Rows whose completion is masked count.
    """
    choose("advantages.scale_rewards", scale_rewards, ("group", "batch", "none"))
    orders = ("sum_then_normalize", "normalize_then_sum")
    choose(
        "advantages.multi_objective_aggregation", multi_objective_aggregation, orders
    )
    weights = None if reward_weights is None else tuple(reward_weights)
    if multi_objective_aggregation == "normalize_then_sum":
        if scale_rewards != "group":
            raise ValueError(
                f"advantages.scale_rewards: {scale_rewards!r} is not read by "
                "normalize_then_sum; leave it out"
            )
        return NormaliseThenSum(ZScore(eps=EPS), weights, eps=EPS, empty="counted")
    scaled = {
        "group": ZScore(eps=EPS),
        "batch": BatchZScore(center="group", eps=EPS),
        "none": Mean(),
    }[scale_rewards]
    return SumThenNormalise(scaled, weights, empty="counted")


def rloo_advantages(
    normalize_advantages: bool = False,
    reward_clip_range: tuple[Scalar, Scalar] | None = None,
    reward_weights: tuple[Scalar, ...] | None = None,
) -> Signal:
    """RLOOTrainer's advantages: A_i = r_i - mean_{j != i} r_j over the scored rows.

    r is the weighted sum of the rewards, clipped to `reward_clip_range`, then minus the
    penalty in the reward. `normalize_advantages`: (A - mean) / (std + 1e-4) over the
    rows of the batch that have another scored row in their group; unscored rows get 0.
    Rewards as in `advantages`.
    """
    weights = None if reward_weights is None else tuple(reward_weights)
    own = LeaveOneOut()
    advantage = Standardised(own, eps=EPS) if normalize_advantages else own
    return SumThenNormalise(advantage, weights, reward_clip_range, empty="counted")


def is_correction(
    mode: SamplingMode = "sequence_mask",
    clip_max: Scalar | None = 3.0,
    clip_min: Scalar | None = None,
) -> SamplerCorrection:
    """vLLM's importance sampling correction, w = old/behavior per token or product.

    *_truncate: w clipped to [clip_min, clip_max]; *_mask: w inside, 0 outside; None is
    no bound. A token whose log-prob the sampler did not report (NaN) has ratio 1.

    Raises ValueError for *_truncate without a bound, and for clip_min >= clip_max.
    """
    choose("is_correction.mode", mode, SAMPLING_MODES)
    unit, rule = mode.split("_")
    if rule == "truncate" and clip_max is None and clip_min is None:
        raise ValueError(
            f"is_correction: {mode} without clip_max and clip_min truncates nothing; "
            "write one of them"
        )
    cap = float("inf") if clip_max is None else clip_max
    floor = 0.0 if clip_min is None else clip_min
    weight = Truncate(cap, floor) if rule == "truncate" else Mask(cap, floor)
    return SamplerCorrection(weight, "token" if unit == "token" else "sequence")


def groups(array: Any, num_generations: int) -> Any:
    """TRL's rows [P * G, ...] as ours [P, G, ...]; rows of a group are contiguous.

    Raises ValueError where the rows are no multiple of `num_generations`.
    """
    rows = array.shape[0]
    if num_generations < 1 or rows % num_generations:
        raise ValueError(
            f"groups: {rows} rows in groups of {num_generations}; write a "
            "num_generations that divides them"
        )
    return array.reshape(-1, num_generations, *array.shape[1:])
