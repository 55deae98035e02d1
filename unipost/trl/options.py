"""TRL's options of GRPO as data, and the refusal of options that would not be read."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from unipost.levels import Level
from unipost.parts import Scalar, concrete
from unipost.signals import Signal

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"]
Mode = Literal["train", "eval"]
ScaleRewards = Literal["group", "batch", "none"]
MultiObjective = Literal["sum_then_normalize", "normalize_then_sum"]
SamplingMode = Literal[
    "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
]
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
WINDOW = ("dapo", "cispo", "vespo")  # divided by the tokens of a generation batch
LOSS_TYPES = (*CLIPPED, "cispo", "sapo", "vespo")
MODES = ("train", "eval")
SAMPLING_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `trl.grpo`, which says what they are."""

    loss_type: LossType
    importance_sampling_level: Literal["token", "sequence"]
    beta: Scalar
    epsilon: Scalar
    epsilon_high: Scalar | None
    delta: Scalar | None
    use_bias_correction_kl: bool
    max_completion_length: Scalar | None
    num_items_in_batch: Scalar | None
    gradient_accumulation_steps: Scalar
    steps_per_generation: Scalar
    mode: Mode
    on_policy: bool
    top_entropy_quantile: Scalar
    entropy_coef: Scalar
    off_policy_mask_threshold: Scalar | None
    sapo_temperature_pos: Scalar
    sapo_temperature_neg: Scalar
    vespo_k_pos: Scalar
    vespo_lambda_pos: Scalar
    vespo_k_neg: Scalar
    vespo_lambda_neg: Scalar
    use_vllm: bool
    vllm_importance_sampling_correction: bool
    vllm_importance_sampling_mode: SamplingMode | Literal["given"]
    vllm_importance_sampling_clip_max: Scalar | None
    vllm_importance_sampling_clip_min: Scalar | None
    scale_rewards: ScaleRewards
    multi_objective_aggregation: MultiObjective
    reward_weights: tuple[Scalar, ...] | None
    signal: Signal | None

    def __post_init__(self):
        choose("grpo.loss_type", self.loss_type, LOSS_TYPES)
        choose("grpo.mode", self.mode, MODES)
        level = self.importance_sampling_level
        choose("grpo.importance_sampling_level", level, ("token", "sequence"))
        mode = self.vllm_importance_sampling_mode
        modes = (*SAMPLING_MODES, "given")
        choose("grpo.vllm_importance_sampling_mode", mode, modes)

    @property
    def high(self) -> Scalar:
        """epsilon_high, which is epsilon unless it is given."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def level(self) -> Level:
        """Our name of the importance sampling level."""
        return "token" if self.importance_sampling_level == "token" else "sequence_mean"

    @property
    def over(self) -> Literal["old", "self"]:
        """What the ratio is to: itself where no old log-probs are kept."""
        return "self" if self.on_policy else "old"

    @property
    def penalised(self) -> bool:
        """Whether there is a KL in the loss."""
        return concrete(self.beta) != 0.0

    @property
    def weighted(self) -> bool:
        """Whether the loss is multiplied by the sampler's importance ratio."""
        return self.use_vllm and self.vllm_importance_sampling_correction

    def read(self) -> dict[str, tuple[bool, str]]:
        """Options that are not always read: whether this one is, and what reads it."""
        return self._read_by_loss() | self._read_by_sampler() | self._read_by_signal()

    def _read_by_loss(self):
        kind, train = self.loss_type, self.mode == "train"
        cispo_cap = kind == "cispo" and self.epsilon_high is None
        ratio_in_kl = self.penalised and self.use_bias_correction_kl
        clipped, window = kind in CLIPPED, f"loss_type {', '.join(WINDOW)}"
        table = {
            "importance_sampling_level": (
                kind != "vespo" or ratio_in_kl,
                "other loss types, or the ratio in the KL",
            ),
            "epsilon": (clipped or cispo_cap, "clipped losses, or cispo as its cap"),
            "epsilon_high": (clipped or kind == "cispo", "clipped losses and cispo"),
            "delta": (clipped, f"loss_type {', '.join(CLIPPED)}"),
            "use_bias_correction_kl": (self.penalised, "the KL; beta is 0"),
            "max_completion_length": (kind == "dr_grpo", "loss_type dr_grpo"),
            "num_items_in_batch": (kind in WINDOW, window),
            "gradient_accumulation_steps": (train, "mode train"),
            "steps_per_generation": (train and kind in WINDOW, f"{window} in training"),
        }
        for name in ("sapo_temperature_pos", "sapo_temperature_neg"):
            table[name] = (kind == "sapo", "loss_type sapo")
        for name in ("k_pos", "lambda_pos", "k_neg", "lambda_neg"):
            table[f"vespo_{name}"] = (kind == "vespo", "loss_type vespo")
        return table

    def _read_by_sampler(self):
        stale = self.off_policy_mask_threshold is not None
        computed = self.weighted and self.vllm_importance_sampling_mode != "given"
        table = {
            "off_policy_mask_threshold": (
                self.use_vllm or not self.on_policy,
                "use_vllm, or old log-probs; on policy nothing is stale",
            ),
            "use_vllm": (
                self.weighted or stale,
                "the correction or off_policy_mask_threshold",
            ),
            "vllm_importance_sampling_correction": (self.use_vllm, "use_vllm"),
            "vllm_importance_sampling_mode": (self.weighted, "use_vllm's correction"),
        }
        for end in ("max", "min"):
            name = f"vllm_importance_sampling_clip_{end}"
            table[name] = (computed, "use_vllm's correction, where it is computed")
        return table

    def _read_by_signal(self):
        own = (self.signal is None, "the advantages, which signal gives")
        summed = self.multi_objective_aggregation == "sum_then_normalize"
        return {
            "scale_rewards": (
                self.signal is None and summed,
                "sum_then_normalize, without a signal of your own",
            ),
            "multi_objective_aggregation": own,
            "reward_weights": own,
        }


def refuse_unread(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    read: Mapping[str, tuple[bool, str]],
) -> None:
    """Refuse options that are not at `function`'s default although nothing reads them.

    `read` gives for an option whether it is read, and what reads it. Raises ValueError.
    """
    parameters = inspect.signature(function).parameters
    for name, (used, reader) in read.items():
        value = options[name]
        if not used and not _equal(value, parameters[name].default):
            raise ValueError(
                f"{function.__name__}.{name}: {value!r} is read by {reader}; "
                "leave it out"
            )


def _equal(value: Any, default: Any) -> bool:
    known = concrete(value)
    if known is not None and concrete(default) is not None:
        return known == concrete(default)
    return value is default or (isinstance(value, str) and value == default)


def choose(where: str, value: str, names: Iterable[str]) -> None:
    """Refuse a name that is not one of `names`. Raises ValueError."""
    names = tuple(names)
    if value not in names:
        raise ValueError(f"{where}: {value!r}; write one of {', '.join(names)}")
