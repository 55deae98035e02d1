"""Reward, diversity and distance of f-DPO by divergence and beta."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import DIVERGENCES
from suite import Figure, Points

ABOUT = About(
    title="f-DPO: alignment against diversity",
    paper="2309.16240",
    item="Reward-divergence frontier, diversity table",
    claim="At equal beta entropy falls from forward KL over alpha and Jensen-Shannon "
    "to reverse KL, and the accuracy of samples in the opposite order.",
    data=("f_dpo.json",),
    command="unipost run experiments/papers/f_dpo.yaml",
    differs="The paper's tables were not to be had: no number is drawn beside ours. "
    "Pairs of right and wrong solutions of GSM8K equations, 187k parameters, means "
    "over three beta.",
)
FIGURE = Figure(
    study="f_dpo",
    panels=(
        Points(
            "kl_reverse",
            "equations/sampled",
            "reward",
            units=("KL(policy‖base), nats", "accuracy, %"),
        ),
        Points(
            "entropy",
            "equations/sampled",
            "diversity",
            units=("entropy, nats", "accuracy, %"),
        ),
    ),
    columns=2,
    height=2.7,
    looks={
        "reverse_kl": DIVERGENCES["reverse_kl"],
        "jensen_shannon": DIVERGENCES["jensen_shannon"],
        "alpha_3": DIVERGENCES["alpha_0.3"],
        "alpha_5": DIVERGENCES["alpha"],
        "alpha_7": DIVERGENCES["alpha_0.7"],
        "forward_kl": DIVERGENCES["forward_kl"],
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
