"""Losses on demonstrations: gain and retention of each."""

import arms
import suite
from drawing import About, main
from stored import Rows, Stored

ABOUT = About(
    title="Losses on demonstrations",
    paper="2507.12856",
    item="SFT and the losses that weigh its tokens",
    claim="Losses that weigh demonstrated tokens learn as much as SFT and keep more "
    "of its entropy or of the other skills.",
    data=("demonstration_losses.json",),
    command="unipost run experiments/papers/demonstration_losses.yaml",
    differs="Numbers of the presets are their defaults, not tuned loss by loss; GSM8K "
    "equations, 187k parameters. No published number fits beside them.",
)


def rows(stored: Stored) -> Rows:
    """A row for each arm with its intervals; then the claims."""
    return arms.judged_rows(stored, "demonstration_losses")


def draw(found: Rows):
    """Gain and retention of every arm."""
    return arms.draw(found, "gain on unseen equations", "change of other skills")


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
