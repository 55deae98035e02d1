"""DFT against SFT with teachers that the base supports, hardly, and not at all."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure

ABOUT = About(
    title="DFT by the teacher's support",
    paper="2508.05629",
    item="Table 1 and the limitation of section 5",
    claim="With a teacher that the base supports DFT learns as much as SFT; from a "
    "format that the base never writes SFT learns more; from a rare one DFT forgets "
    "less.",
    data=("dft.json",),
    command="unipost run experiments/papers/dft.yaml",
    differs="The paper's tables are in dft_results. Ours: arith-transfer, 0.15M "
    "parameters trained from scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="dft",
    panels=(
        Dots("ch4/sampled", "new skill", "final", "accuracy, %"),
        Dots("retention", "other skills", "final", "retention, points"),
        Dots("kl_forward", "KL(base‖policy)", "final", "nats"),
    ),
    looks={
        "sft_own": look_of("sft_own"),
        "dft_own": look_of("dft"),
        "sft_rare": look_of("sft"),
        "dft_rare": look_of("dft"),
        "sft_never": look_of("iw_sft"),
        "dft_never": look_of("dft"),
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
