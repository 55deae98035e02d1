"""Length of wrong responses under GRPO and Dr. GRPO."""

import suite
from drawing import About, main
from stored import Rows, Stored
from suite import Figure, Lines

ABOUT = About(
    title="Length of wrong responses",
    paper="2503.20783",
    item="Figs 1 and 7",
    claim="The length of wrong samples grows faster under GRPO than under Dr. GRPO, at "
    "equal accuracy.",
    data=("published/dr_grpo.json", "length_bias.json"),
    command="unipost run experiments/papers/length_bias.yaml",
    differs="Read off the paper's figures: 990 tokens (GRPO) against 520 (Dr. GRPO) at "
    "nearly equal reward, and 750 to 1250 against 900 to 500 on Llama. Ours: "
    "arith-transfer, 0.15M parameters trained from scratch, one base; intervals over "
    "seeds and items.",
)
FIGURE = Figure(
    study="length_bias",
    arms=("grpo", "dr_grpo", "dapo"),
    panels=(
        Lines("window/length_wrong", "length of wrong samples", "tokens"),
        Lines("window/length_correct", "length of right samples", "tokens"),
        Lines("free/sampled", "accuracy of samples", "%"),
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
