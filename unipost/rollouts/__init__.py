"""Where rollouts come from: prompts, samples of the policy, guidance, rewards, groups.

SOURCES lists every source of experience under its name; GUIDANCE, GROUPS and ORDERS the
parts of `Rollouts`.
"""

from unipost.rollouts.groups import GROUPS as GROUPS
from unipost.rollouts.groups import Drop as Drop
from unipost.rollouts.groups import GroupRule as GroupRule
from unipost.rollouts.groups import Keep as Keep
from unipost.rollouts.groups import Resample as Resample
from unipost.rollouts.guidance import GUIDANCE as GUIDANCE
from unipost.rollouts.guidance import BufferedDemonstrations as BufferedDemonstrations
from unipost.rollouts.guidance import Demonstration as Demonstration
from unipost.rollouts.guidance import Guidance as Guidance
from unipost.rollouts.guidance import Prefix as Prefix
from unipost.rollouts.guidance import Replay as Replay
from unipost.rollouts.order import ORDERS as ORDERS
from unipost.rollouts.order import Curriculum as Curriculum
from unipost.rollouts.order import Epochs as Epochs
from unipost.rollouts.order import Order as Order
from unipost.rollouts.order import Prioritised as Prioritised
from unipost.rollouts.preferences import SampledPreferences as SampledPreferences
from unipost.rollouts.questions import check_stop as check_stop
from unipost.rollouts.questions import texts as texts
from unipost.rollouts.source import Rollouts as Rollouts
from unipost.scalar.steps import LabelledSteps
from unipost.sources import (
    Demonstrations,
    LabelledRows,
    Mixture,
    Preferences,
    Source,
)

SOURCES: dict[str, type[Source]] = {
    "mixture": Mixture,
    "demonstrations": Demonstrations,
    "preferences": Preferences,
    "labelled": LabelledRows,
    "labelled_steps": LabelledSteps,
    "rollouts": Rollouts,
    "sampled_preferences": SampledPreferences,
}
