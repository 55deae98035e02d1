"""Ways of using demonstrations on problems that the base almost never solves."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure, Printed

ABOUT = About(
    title="SFT, RL and their mixtures on hard problems",
    paper="2504.14945",
    item="Table 1; Table 2 of 2509.04419",
    claim="LUFFY and HPT end 20 points above GRPO; HPT keeps more of the other skills "
    "than SFT followed by GRPO; shaping keeps the entropy up.",
    data=("published/luffy.json", "hard_split.json"),
    command="unipost run experiments/papers/hard_split.yaml",
    differs="Printed: averages of six mathematics sets, 7B (luffy_results, "
    "hpt_results); SFT then RL is the row that LUFFY's figure leaves out. Ours: "
    "arith-transfer, 0.15M parameters trained from scratch, one base; intervals over "
    "seeds and items.",
)
FIGURE = Figure(
    study="hard_split",
    arms=("grpo", "sft", "sft_grpo", "mixed", "luffy", "hpt"),
    panels=(
        Printed(
            "luffy",
            "main",
            "average",
            {
                "grpo": "on-policy RL",
                "sft": "SFT",
                "sft_grpo": "SFT, then RL",
                "luffy": "LUFFY",
            },
            "printed, 7B",
            "gain, points",
            minus="base",
        ),
        Dots("gain", "ours: new skill", "final", "gain, points"),
        Dots("retention", "ours: other skills", "final", "retention, points"),
        Dots("entropy", "ours: entropy", "final", "nats"),
    ),
    columns=4,
    looks={"sft_grpo": look_of("sft_rl")},
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
