"""Distillation against RL on problems that the student almost never solves."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure, Lines, Printed

ABOUT = About(
    title="Distillation against RL on a hard split",
    paper="2501.12948",
    item="Table 6",
    claim="On problems that a student almost never solves distillation ends at least "
    "20 points above RL on the student; RL after it adds; RL keeps more of the rest.",
    data=("published/r1.json", "distil.json"),
    command="unipost run experiments/papers/distil.yaml",
    differs="Printed: Qwen-32B, 800 thousand curated traces of a 671B teacher, AIME24. "
    "Ours: arith-transfer, chains of three-digit numbers; student and teacher have "
    "0.15M parameters, the teacher has seen demonstrations; one teacher.",
)
TITLES = {
    "direct": "RL on the student",
    "distilled": "distilled",
    "distilled_rl": "distilled, then RL",
}
SHOWN = Figure(
    study="distil",
    arms=tuple(TITLES),
    panels=(
        Printed(
            "r1",
            "distil_or_rl",
            "AIME24",
            {"direct": "RL on the model", "distilled": "distilled"},
            "printed, AIME24",
        ),
        Lines("during/v3/sampled", "ours, against steps"),
        Dots("v3/sampled", "ours, at the end", unit="accuracy of samples, %"),
        Dots("retention", "ours, other skills", unit="change, points"),
    ),
    columns=4,
    looks={arm: look_of(arm) for arm in TITLES},
)


def rows(stored: Stored) -> Rows:
    """The numbers of the panels and of the claims."""
    found = suite.rows(SHOWN, stored)
    return [row | {"title": TITLES.get(row["arm"], row["title"])} for row in found]


def draw(found: Rows):
    """The panels declared above."""
    return suite.draw(SHOWN, found)


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
