"""TRL's GRPO, GMPO, RLOO and A*-PO by its option names.

One call of the objective is one micro-batch of TRL's trainer: rows [P * G, T] become
[P, G, T] with `trl.groups`, the mask is completion_mask (times tool_mask), `old` the
old_per_token_logps, `behavior` the sampling_per_token_logps, `reference` the
ref_per_token_logps. An option that TRL would ignore is refused unless at its default.
"""

from __future__ import annotations

from typing import Literal

from unipost.advantages import OptimalValue
from unipost.aggregation import Scaled, SequenceMean
from unipost.classical import PearsonChi2
from unipost.links import Clipped, Importance, Residual
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.parametric import unit_curvature
from unipost.parts import Scalar, concrete
from unipost.penalties import Penalty
from unipost.ratios import GeometricClip
from unipost.signals import Signal, Zeros
from unipost.trl.advantages import advantages, rloo_advantages
from unipost.trl.build import grpo_objective, scaled
from unipost.trl.entropy import OnHighEntropy
from unipost.trl.options import (
    MODES,
    LossType,
    Mode,
    MultiObjective,
    Options,
    SamplingMode,
    ScaleRewards,
    choose,
    refuse_unread,
)


def grpo(
    loss_type: LossType = "dapo",
    importance_sampling_level: Literal["token", "sequence"] = "token",
    beta: Scalar = 0.0,
    epsilon: Scalar = 0.2,
    epsilon_high: Scalar | None = None,
    delta: Scalar | None = None,
    use_bias_correction_kl: bool = True,
    max_completion_length: Scalar | None = None,
    num_items_in_batch: Scalar | None = None,
    gradient_accumulation_steps: Scalar = 1,
    steps_per_generation: Scalar = 1,
    mode: Mode = "train",
    on_policy: bool = False,
    top_entropy_quantile: Scalar = 1.0,
    entropy_coef: Scalar = 0.0,
    off_policy_mask_threshold: Scalar | None = None,
    sapo_temperature_pos: Scalar = 1.0,
    sapo_temperature_neg: Scalar = 1.05,
    vespo_k_pos: Scalar = 2.0,
    vespo_lambda_pos: Scalar = 3.0,
    vespo_k_neg: Scalar = 3.0,
    vespo_lambda_neg: Scalar = 2.0,
    use_vllm: bool = False,
    vllm_importance_sampling_correction: bool = True,
    vllm_importance_sampling_mode: SamplingMode | Literal["given"] = "sequence_mask",
    vllm_importance_sampling_clip_max: Scalar | None = 3.0,
    vllm_importance_sampling_clip_min: Scalar | None = None,
    scale_rewards: ScaleRewards = "group",
    multi_objective_aggregation: MultiObjective = "sum_then_normalize",
    reward_weights: tuple[Scalar, ...] | None = None,
    signal: Signal | None = None,
) -> Objective | Mixture:
    """GRPOTrainer's loss: -min(u A, clip(u) A) and seven other `loss_type`s, + beta k3.

    Options mean what they mean in GRPOConfig 1.16. Beyond it:

    epsilon              epsilon_low; epsilon_high None is epsilon. For cispo
                         epsilon_high is the cap on u itself
    num_items_in_batch   tokens of the generation batch; None: those of this batch
    on_policy            no old log-probs are kept: u is 1 with its gradient
    use_vllm             `behavior` is given: the ratio old/behavior and the off-policy
                         mask read it. Mode "given": the ratio is `batch.importance`
    signal               the advantages; None: `trl.advantages` of the three options
                         before it. `Given()` reads `batch.advantage`

    An entropy bonus with top_entropy_quantile < 1 makes a `Mixture`, whose second term
    is the bonus. Raises ValueError for an option that would be ignored.
    """
    options = Options(**locals())
    refuse_unread(grpo, vars(options), options.read())
    return grpo_objective(options)


def gmpo(
    beta: Scalar = 0.0,
    epsilon: Scalar = 0.4,
    epsilon_high: Scalar | None = None,
    gradient_accumulation_steps: Scalar = 1,
    mode: Mode = "train",
    on_policy: bool = False,
    top_entropy_quantile: Scalar = 1.0,
    scale_rewards: ScaleRewards = "group",
    multi_objective_aggregation: MultiObjective = "sum_then_normalize",
    reward_weights: tuple[Scalar, ...] | None = None,
    signal: Signal | None = None,
) -> Objective | Mixture:
    """GMPOTrainer's loss: mean_i -A exp(mean_t d_t) + beta mean_t k3, d clipped in log.

    d_t <= epsilon_high where A > 0 and >= -epsilon elsewhere. A row without a token
    counts with -A (and no gradient). With top_entropy_quantile < 1 the geometric mean
    is over the tokens of highest entropy, the KL over all: a `Mixture` of the two.
    Options as in `grpo`.
    """
    choose("gmpo.mode", mode, MODES)
    train, own = mode == "train", signal is None
    reader = "the advantages, which signal gives"
    read = {"gradient_accumulation_steps": (train, "mode train")}
    for name in ("scale_rewards", "multi_objective_aggregation", "reward_weights"):
        read[name] = (own, reader)
    refuse_unread(gmpo, locals(), read)
    if signal is None:
        signal = advantages(scale_rewards, multi_objective_aggregation, reward_weights)
    factor = 1.0 / gradient_accumulation_steps if train else 1.0
    mean = scaled(SequenceMean(empty="counted"), factor)
    penalty = None if concrete(beta) == 0.0 else Penalty(beta)
    whole = concrete(top_entropy_quantile) == 1.0
    high = epsilon if epsilon_high is None else epsilon_high
    policy = Objective(
        divergence=unit_curvature(PearsonChi2()),
        anchor="self" if on_policy else "old",
        ratio=GeometricClip(epsilon, high),
        level="sequence_mean",
        link=Importance(),
        signal=signal if whole else OnHighEntropy(signal, top_entropy_quantile),
        penalty=penalty if whole else None,
        aggregation=mean,
        # on policy the clip is there and never acts
        waived=("unused_ratio",) if on_policy else (),
        clamp=None,
    )
    if whole or penalty is None:
        return policy
    kl = Objective(signal=Zeros(), penalty=penalty, aggregation=mean, clamp=None)
    return Mixture((policy, kl), (1.0, 1.0))


def rloo(
    beta: Scalar = 0.05,
    normalize_advantages: bool = False,
    reward_clip_range: tuple[Scalar, Scalar] | None = None,
    epsilon: Scalar = 0.2,
    epsilon_high: Scalar | None = None,
    reward_weights: tuple[Scalar, ...] | None = None,
    signal: Signal | None = None,
) -> Objective:
    """RLOOTrainer's loss: mean_i -min(u A, clip(u) A), u = prod_t pi/old of the row.

    A is leave-one-out of the clipped reward minus beta sum_t log(old/ref)
    (`trl.rloo_advantages`); beta 0: no KL. With a `signal` of your own the KL must be
    in it, and beta is not read. A row without a token counts with -A (no gradient).
    """
    reader = "the advantages, which signal gives"
    names = "beta", "normalize_advantages", "reward_clip_range", "reward_weights"
    refuse_unread(rloo, locals(), {name: (signal is None, reader) for name in names})
    penalty = None
    if signal is None:
        signal = rloo_advantages(
            normalize_advantages, reward_clip_range, reward_weights
        )
        if concrete(beta) != 0.0:
            penalty = Penalty(beta, estimator="in_reward")
    return Objective(
        divergence=unit_curvature(PearsonChi2()),
        anchor="old",
        level="sequence",
        link=Clipped(epsilon, epsilon if epsilon_high is None else epsilon_high),
        signal=signal,
        penalty=penalty,
        aggregation=SequenceMean(empty="counted"),
        clamp=None,
    )


def a2po(beta1: Scalar = 0.5, beta2: Scalar = 1e-3) -> Objective:
    """A2POTrainer's loss: mean_i (beta2 sum_t log pi/ref - (r - V*))^2, A*-PO.

    V* = beta1 log mean_j exp(r_j / beta1) over `batch.reference_rewards` [P, N], the
    rewards of N responses of the reference; TRL samples one response per prompt, [P,
    1]. No 1/2 before the square. Dropping prompts that the reference never solves
    (filter_all_incorrect) belongs to the data. Source: 2505.20686.
    """
    return Objective(
        beta=beta2,
        anchor="reference",
        level="sequence",
        link=Residual(),
        signal=OptimalValue(beta1),
        aggregation=Scaled(SequenceMean(empty="counted"), 2.0),
    )
