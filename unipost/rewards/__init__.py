"""Rewards of text: what scores a response, and how scoring is kept from failing."""

from typing import Any

from unipost.rewards.answers import last_number as last_number
from unipost.rewards.arithmetic import step_equations as step_equations
from unipost.rewards.calls import Noted as Noted
from unipost.rewards.composed import Weighted as Weighted
from unipost.rewards.composed import WeightedSum as WeightedSum
from unipost.rewards.correctness import boxed_answer as boxed_answer
from unipost.rewards.correctness import exact as exact
from unipost.rewards.correctness import math as math
from unipost.rewards.correctness import numeric as numeric
from unipost.rewards.correctness import tagged_answer as tagged_answer
from unipost.rewards.format_rewards import boxed_format as boxed_format
from unipost.rewards.format_rewards import think_format as think_format
from unipost.rewards.format_rewards import trl_think_format as trl_think_format
from unipost.rewards.grades import Composite as Composite
from unipost.rewards.grades import Grades as Grades
from unipost.rewards.grades import Reward as Reward
from unipost.rewards.grades import Scorer as Scorer
from unipost.rewards.grades import grades_of as grades_of
from unipost.rewards.grading import Grader as Grader
from unipost.rewards.grading import Scores as Scores
from unipost.rewards.grading import open_reward as open_reward
from unipost.rewards.grading import score_samples as score_samples
from unipost.rewards.grading import score_texts as score_texts
from unipost.rewards.language import language_consistency as language_consistency
from unipost.rewards.learned import ProcessRewardModel as ProcessRewardModel
from unipost.rewards.learned import RewardModel as RewardModel
from unipost.rewards.lengths import CosineLength as CosineLength
from unipost.rewards.lengths import KimiLength as KimiLength
from unipost.rewards.lengths import SoftOverlong as SoftOverlong
from unipost.rewards.repetition import repetition_penalty as repetition_penalty
from unipost.rewards.sample import Sample as Sample
from unipost.rewards.steps import StepRewards as StepRewards

REWARDS: dict[str, Any] = {
    "numeric": numeric,
    "exact": exact,
    "boxed_answer": boxed_answer,
    "tagged_answer": tagged_answer,
    "math": math,
    "think_format": think_format,
    "trl_think_format": trl_think_format,
    "boxed_format": boxed_format,
    "language": language_consistency,
    "kimi_length": KimiLength,
    "cosine_length": CosineLength,
    "soft_overlong": SoftOverlong,
    "repetition": repetition_penalty,
    "steps": StepRewards,
    "step_equations": step_equations,
    "reward_model": RewardModel,
    "process_reward_model": ProcessRewardModel,
    "sum": WeightedSum,
}
"""Rewards by the names that a config gives them."""
