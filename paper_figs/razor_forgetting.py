"""Forgetting against the distance to the base, ours beside the printed relation."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Figure, Points

ABOUT = About(
    title="Forgetting against KL",
    paper="2509.04259",
    item="Figs 2 and 3, Table 1",
    claim="KL(base || policy) on the new task explains forgetting, better than the "
    "reverse KL and than the distance of the weights.",
    data=("transfer.json",),
    command="unipost run experiments/papers/transfer.yaml",
    differs="The paper's R^2 is that of a quadratic fit over methods, rates and steps "
    "(razor_printed); here points are the means of an arm, the test is over runs. "
    "Ours: arith-transfer, 0.15M parameters trained from scratch, one base; intervals "
    "over seeds and items.",
)
FIGURE = Figure(
    study="transfer",
    arms=("foreign_sft", "own_sft", "on_sft", "rft", "off_rl", "grpo", "grpo_kl"),
    claims=("forward_kl_predicts", "forward_beats_reverse", "kl_beats_weights"),
    panels=(
        Points(
            "kl_forward", "retention", "KL(base‖policy)", units=("nats", "retention")
        ),
        Points(
            "kl_reverse", "retention", "KL(policy‖base)", units=("nats", "retention")
        ),
        Points("weight_l2", "retention", "weights, L2", units=("L2", "retention")),
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
