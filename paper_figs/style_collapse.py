"""Which of its output formats a model keeps under RL."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Figure, Lines

ABOUT = About(
    title="Collapse to one format",
    paper="2504.07912",
    item="Figs 2 and 3",
    claim="RL without a KL term makes one format more than 95% of the responses by the "
    "time of nine tenths of the gain; a strong KL term keeps the others.",
    data=("style_collapse.json",),
    command="unipost run experiments/papers/style_collapse.yaml",
    differs="The paper's formats are code and natural language of 150M and 1B models, "
    "its numbers are in figures that were not read. Ours: arith-transfer, 0.15M "
    "parameters trained from scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="style_collapse",
    arms=("none", "weak", "strong"),
    panels=(
        Lines("cot/sampled", "running values", "% of samples"),
        Lines("ch4/sampled", "accuracy of samples", "%"),
        Lines("ch4/pass@8", "pass@8", "%"),
    ),
    looks={
        "none": look_of("grpo"),
        "weak": look_of("grpo_kl"),
        "strong": look_of("tis_token"),
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
