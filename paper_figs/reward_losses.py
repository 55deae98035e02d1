"""Losses on rewards, fresh and stale: gain and retention of each."""

import arms
import suite
from drawing import About, main
from stored import Rows, Stored

ABOUT = About(
    title="Losses on rewards, fresh and stale",
    paper="",
    item="reward_losses",
    claim="REINFORCE++ and the smoother clips learn as GRPO does; losses made for it "
    "learn from samples of a policy eight steps old.",
    data=("reward_losses.json",),
    command="unipost run experiments/papers/reward_losses.yaml",
    differs="Numbers of the presets are their defaults, not tuned loss by loss; GSM8K "
    "equations, 187k parameters. No published number fits beside them.",
)


def rows(stored: Stored) -> Rows:
    """A row for each arm with its intervals; then the claims."""
    return arms.judged_rows(stored, "reward_losses")


def draw(found: Rows):
    """Gain and retention of every arm."""
    return arms.draw(found, "gain on unseen equations", "change of other skills")


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
