"""What learning a new skill costs the others, by where the data come from."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure, Printed

ABOUT = About(
    title="Which lever keeps the other skills",
    paper="2507.00432",
    item="Tables 1 and 4, Fig. 1",
    claim="At equal accuracy on the new skill, learning from own samples keeps more of "
    "the other skills than SFT on foreign traces; a teacher in the model's own style "
    "recovers most of the gap.",
    data=("published/transfer_levers.json", "transfer.json"),
    command="unipost run experiments/papers/transfer.yaml",
    differs="Printed: change of the mean of non-reasoning tasks, 8B, not at equal "
    "accuracy. Ours: arith-transfer, 0.15M parameters trained from scratch, one base; "
    "intervals over seeds and items. The comparison at equal accuracy and the "
    "own-style teacher are not in the paper.",
)
FIGURE = Figure(
    study="transfer",
    arms=("foreign_sft", "own_sft", "on_sft", "rft", "off_rl", "grpo", "grpo_kl"),
    claims=("on_policy_keeps", "kl_is_minor", "accepted_only", "style_not_policy"),
    panels=(
        Printed(
            "transfer_levers",
            "levers",
            "non",
            {
                "foreign_sft": "Off-policy SFT",
                "on_sft": "On-policy SFT",
                "off_rl": "Off-policy RL",
                "grpo": "On-policy RL (no KL)",
                "grpo_kl": "On-policy RL",
            },
            "printed: non-reasoning",
            "points over the base",
            minus="base",
        ),
        Dots("retention", "ours: at equal accuracy", "matched", "retention, points"),
        Dots("retention", "ours: after all steps", "final", "retention, points"),
        Dots("gain", "ours: new skill", "final", "gain, points"),
    ),
    columns=4,
    height=2.6,
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
