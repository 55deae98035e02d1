"""SFT on labellings of equal accuracy and growing distance."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure

ABOUT = About(
    title="The oracle of RL's Razor",
    paper="2509.04259",
    item="Section 5 (oracle SFT)",
    claim="SFT on the base's own right answers forgets no more than GRPO; labellings "
    "that lie farther away forget more.",
    data=("oracle.json",),
    command="unipost run experiments/papers/oracle.yaml",
    differs="The paper prints no table of it. Ours: arith-transfer, 0.15M parameters "
    "trained from scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="oracle",
    panels=(
        Dots("retention", "at equal accuracy", "matched", "retention, points"),
        Dots("kl_forward", "KL(base‖policy), matched", "matched", "nats"),
        Dots("retention", "after all steps", "final", "retention, points"),
    ),
    height=1.9,
    looks={
        "canonical": look_of("sft"),
        "uniform": look_of("sft_own"),
        "oracle": look_of("rft"),
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
