"""One KL weight in five places of GRPO."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure

ABOUT = About(
    title="Where the KL stands and by which estimator",
    paper="2402.03300",
    item="k3 in the loss; the estimators of DeepSeek-V3.2",
    claim="k1 in the loss holds nothing back; k1 in the reward, k2 and k3 in the loss "
    "do, and k3 in the loss is the gradient of the other KL.",
    data=("kl_placement.json",),
    command="unipost run experiments/papers/kl_placement.yaml",
    differs="Exact bias and variance of the estimators: estimators. GSM8K equations, "
    "187k parameters.",
)
FIGURE = Figure(
    study="kl_placement",
    panels=(
        Dots("kl_reverse", "KL(policy‖base)", "final", "nats"),
        Dots("kl_forward", "KL(base‖policy)", "final", "nats"),
        Dots("equations/sampled", "equations", "final", "accuracy, %"),
    ),
    height=2.0,
    looks={
        "none": look_of("none"),
        "k1_loss": look_of("control"),
        "k1_reward": look_of("tis_token"),
        "k2_loss": look_of("grpo_kl"),
        "k3_loss": look_of("grpo"),
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
