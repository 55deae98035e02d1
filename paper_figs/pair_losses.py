"""Losses on pairs: gain and retention of each."""

import arms
import suite
from drawing import About, main
from stored import Rows, Stored

ABOUT = About(
    title="Losses on pairs",
    paper="2305.18290",
    item="DPO and the losses after it",
    claim="Losses on the same pairs differ little from DPO in what is learned; IPO "
    "stays nearer to the base, chi-PO keeps more, SimPO learns more.",
    data=("pair_losses.json",),
    command="unipost run experiments/papers/pair_losses.yaml",
    differs="Numbers of the presets are their defaults, not tuned loss by loss; GSM8K "
    "equations, 187k parameters. No published number fits beside them.",
)


def rows(stored: Stored) -> Rows:
    """A row for each arm with its intervals; then the claims."""
    return arms.judged_rows(stored, "pair_losses")


def draw(found: Rows):
    """Gain and retention of every arm."""
    return arms.draw(found, "gain on unseen equations", "change of other skills")


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
