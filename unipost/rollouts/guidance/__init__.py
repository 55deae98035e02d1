"""Rows of a group beside the policy's own, by the names that a config gives them."""

from unipost.rollouts.guidance.base import Guidance as Guidance
from unipost.rollouts.guidance.base import Guide as Guide
from unipost.rollouts.guidance.base import Site as Site
from unipost.rollouts.guidance.base import Turn as Turn
from unipost.rollouts.guidance.demonstrations import (
    BufferedDemonstrations as BufferedDemonstrations,
)
from unipost.rollouts.guidance.demonstrations import Demonstration as Demonstration
from unipost.rollouts.guidance.prefix import Prefix as Prefix
from unipost.rollouts.guidance.replay import Replay as Replay

GUIDANCE: dict[str, type[Guidance]] = {
    "demonstration": Demonstration,
    "replay": Replay,
    "prefix": Prefix,
    "buffered_demonstrations": BufferedDemonstrations,
}
