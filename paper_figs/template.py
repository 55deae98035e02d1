"""A template that the base does not know, and a small set of easier problems."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Figure, Lines

ABOUT = About(
    title="Template and data",
    paper="2503.20783",
    item="Fig. 6, Table 1",
    claim="Behind an unknown template the base loses 30 points, which RL wins back; "
    "128 easier problems do nearly as well as the real ones.",
    data=("published/dr_grpo.json", "template.json"),
    command="unipost run experiments/papers/template.yaml",
    differs="Printed (read off): with the R1 template 5% at the start and 26 to 39% at "
    "the end by question set, with the Qwen template 23 and 39. Ours: arith-transfer, "
    "0.15M parameters trained from scratch, one base; intervals over seeds and items.",
)
FIGURE = Figure(
    study="template",
    arms=("known", "unknown", "easier"),
    panels=(
        Lines("ch4/sampled", "known template", "accuracy, %"),
        Lines("strange/sampled", "unknown template", "accuracy, %"),
    ),
    columns=2,
    looks={
        "known": look_of("grpo"),
        "unknown": look_of("off_rl"),
        "easier": look_of("online_rft"),
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
