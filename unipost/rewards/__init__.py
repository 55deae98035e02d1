"""Rewards of text: what scores a response, and how scoring is kept from failing."""

from typing import Any

from unipost.rewards.answers import last_number as last_number
from unipost.rewards.calls import Noted as Noted
from unipost.rewards.composed import Weighted as Weighted
from unipost.rewards.composed import WeightedSum as WeightedSum
from unipost.rewards.correctness import exact as exact
from unipost.rewards.correctness import numeric as numeric
from unipost.rewards.grades import Composite as Composite
from unipost.rewards.grades import Grades as Grades
from unipost.rewards.grades import Reward as Reward
from unipost.rewards.grades import Scorer as Scorer
from unipost.rewards.grading import Grader as Grader
from unipost.rewards.grading import Scores as Scores
from unipost.rewards.grading import open_reward as open_reward
from unipost.rewards.grading import score_texts as score_texts
from unipost.rewards.sample import Sample as Sample

REWARDS: dict[str, Any] = {
    "numeric": numeric,
    "exact": exact,
    "sum": WeightedSum,
}
"""Rewards by the names that a config gives them."""
