"""GRPO with permuted, inverted and style rewards."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure

ABOUT = About(
    title="Controls with spurious rewards",
    paper="2507.00432",
    item="A control that reviewers asked for",
    claim="Permuted rewards gain nothing, inverted ones lose, and a reward for the "
    "style alone gives more than 60% of the gain.",
    data=("spurious.json",),
    command="unipost run experiments/papers/spurious.yaml",
    differs="Not in the paper. Ours: arith-transfer, 0.15M parameters trained from "
    "scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="spurious",
    panels=(
        Dots("gain", "new skill", "final", "gain, points"),
        Dots("retention", "other skills", "final", "retention, points"),
        Dots("kl_reverse", "KL(policy‖base)", "final", "nats"),
    ),
    height=1.8,
    looks={
        "permuted": look_of("control"),
        "inverted": look_of("off_rl"),
        "style": look_of("online_rft"),
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
