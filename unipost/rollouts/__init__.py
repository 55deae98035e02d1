"""Where rollouts come from: prompts, samples of the policy, guidance, rewards, groups.

SOURCES lists every source of experience under its name.
"""

from unipost.rollouts.source import SOURCES as SOURCES
from unipost.rollouts.source import Rollouts as Rollouts
from unipost.rollouts.source import SampledPreferences as SampledPreferences
from unipost.rollouts.source import check_stop as check_stop
from unipost.rollouts.source import texts as texts
