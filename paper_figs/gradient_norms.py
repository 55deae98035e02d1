"""Gradient norms over training, one normaliser for every arm."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Figure, Lines

ABOUT = About(
    title="Gradient norm by arm",
    paper="2507.00432",
    item="Figs 6 and 13",
    claim="In the first five steps the gradient of SFT on foreign traces is more than "
    "1.5 times that of every other arm; its own-style twin has no spike.",
    data=("transfer.json",),
    command="unipost run experiments/papers/transfer.yaml",
    differs="The paper prints curves without a table (indicators: transfer_gradients) "
    "and its arms are normalised differently. Ours: arith-transfer, 0.15M parameters "
    "trained from scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="transfer",
    arms=("foreign_sft", "own_sft", "on_sft", "rft", "off_rl", "grpo", "grpo_kl"),
    claims=("gradient_spike",),
    panels=(
        Lines("window/grad_norm", "gradient norm since the last point", "norm"),
        Lines("ch4/sampled", "accuracy of samples, new skill", "%"),
    ),
    columns=2,
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
