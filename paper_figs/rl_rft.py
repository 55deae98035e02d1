"""Online and offline rejection sampling against GRPO over training."""

import suite
from drawing import About, main
from stored import Rows, Stored
from suite import Figure, Lines

ABOUT = About(
    title="RFT, online RFT and GRPO",
    paper="2402.03300",
    item="Fig. 5",
    claim="After all steps GRPO is at least as accurate as online RFT, and that more "
    "than RFT from the frozen base.",
    data=("accepted_only.json",),
    command="unipost run experiments/papers/accepted_only.yaml",
    differs="The paper prints the order alone (published/deepseekmath.json); process "
    "supervision is not an arm here. Ours: arith-transfer, 0.15M parameters trained "
    "from scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="accepted_only",
    arms=("rft", "on_sft", "grpo"),
    claims=("online_late", "online_early"),
    panels=(
        Lines("ch4/sampled", "accuracy of samples", "%"),
        Lines("ch4/pass@8", "pass@8", "%"),
        Lines("entropy", "entropy", "nats"),
    ),
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
