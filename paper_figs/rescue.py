"""Replay and a small rate as rescues of SFT on foreign traces."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure

ABOUT = About(
    title="Rescues of SFT",
    paper="2507.00432",
    item="A control that reviewers asked for",
    claim="Replay recovers more than 70% of what SFT on foreign traces loses; a tenth "
    "of the learning rate less than half.",
    data=("rescue.json",),
    command="unipost run experiments/papers/rescue.yaml",
    differs="Not in the paper. Ours: arith-transfer, 0.15M parameters trained from "
    "scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="rescue",
    panels=(
        Dots("retention", "at equal accuracy", "matched", "retention, points"),
        Dots("retention", "after all steps", "final", "retention, points"),
        Dots("gain", "new skill", "final", "gain, points"),
    ),
    height=1.6,
    looks={
        "foreign": look_of("sft"),
        "replay": look_of("sft_replay"),
        "slow": look_of("alpha_sft"),
    },
)


def rows(stored: Stored) -> Rows:
    """The numbers of the panels and of the claims."""
    return suite.rows(FIGURE, stored)


def draw(found: Rows):
    """The panels declared above."""
    return suite.draw(FIGURE, found)


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
