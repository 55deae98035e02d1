"""How far the distribution of tokens moved, at equal accuracy and at the end."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure

ABOUT = About(
    title="Shift of the token distribution",
    paper="2507.00432",
    item="Fig. 4",
    claim="At equal accuracy the distribution moves most under SFT on foreign traces, "
    "then own style, on-policy SFT and GRPO.",
    data=("transfer.json",),
    command="unipost run experiments/papers/transfer.yaml",
    differs="Printed values are in transfer_tokens (nats per token); ours are nats per "
    "response, on the prompts of the new task. Ours: arith-transfer, 0.15M parameters "
    "trained from scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="transfer",
    arms=("foreign_sft", "own_sft", "on_sft", "rft", "off_rl", "grpo", "grpo_kl"),
    claims=("shift_order",),
    panels=(
        Dots("kl_reverse", "KL(policy‖base), matched", "matched", "nats"),
        Dots("kl_reverse", "KL(policy‖base), final", "final", "nats"),
        Dots("kl_forward", "KL(base‖policy), final", "final", "nats"),
    ),
    looks={
        "foreign_sft": look_of("sft"),
        "own_sft": look_of("sft_own"),
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
