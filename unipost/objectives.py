"""The three kinds of objective as one: what a run can train, and under which name."""

from __future__ import annotations

from collections.abc import Callable

from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.pair_links import PairLink
from unipost.presets import PRESETS
from unipost.scalar.objective import ScalarObjective
from unipost.scalar.reward_models import BradleyTerry, ProcessReward
from unipost.score import Score
from unipost.vocabulary import Distillation, Gem, Vocabulary

AnyObjective = Objective | Mixture | Vocabulary
"""They share `needs`, `advantage`, `prepare` and `loss`; a training step asks no more.

A mixture's signal and prepared batch are tuples, one entry per term.
"""

Trainable = Objective | Mixture | Vocabulary | ScalarObjective
"""What a run can train: an objective of a language model, or of a scalar head."""

OBJECTIVES: dict[str, Callable[..., Trainable]] = {
    **PRESETS,
    "gem": Gem,  # the class takes what the preset takes, and has the preset's name
    "custom": Objective,
    "mixture": Mixture,
    "distillation": Distillation,
    "bradley_terry": BradleyTerry,
    "process_reward": ProcessReward,
}
"""Every objective by its name in a config."""


def terms(objective: Trainable) -> tuple[Objective | Vocabulary, ...]:
    """The terms of a mixture; any other objective as its only term.

    An objective of a scalar head has none.
    """
    if isinstance(objective, ScalarObjective):
        return ()
    return objective.terms if isinstance(objective, Mixture) else (objective,)


def margin_score(objective: Trainable | None) -> Score | None:
    """The score whose f' and beta measure a margin to the reference, if there is one.

    That of the first term with a pair link on the reference.
    """
    for term in () if objective is None else terms(objective):
        pair = isinstance(term, Score) and isinstance(term.link, PairLink)
        if isinstance(term, Score) and pair and term.anchor == "reference":
            return term
    return None
