"""Learning rate of SFT before DPO, and f-SFT beside it."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Dots, Figure

ABOUT = About(
    title="The rate of SFT, before and after DPO",
    paper="2507.00018",
    item="Learning-rate result; f-SFT",
    claim="The rate of SFT that is best after DPO is smaller than the one best after "
    "SFT alone; f-SFT that keeps its divergence term ends nearer to the base.",
    data=("bridge.json",),
    command="unipost run experiments/papers/bridge.yaml",
    differs="The paper measures win rates of 7B and 8B chat models (up to 25% "
    "relative, in its abstract); its tables were not to be had. GSM8K equations, 187k "
    "parameters.",
)
LOOKS = {
    **{
        f"dpo_{rate}": look_of("dpo")
        for rate in ("3e-5", "1e-4", "3e-4", "1e-3", "3e-3")
    },
    **{f"total_variation_{gauge}": look_of("f_sft_tv") for gauge in ("zero", "lse")},
    **{f"pearson_chi2_{gauge}": look_of("f_sft_pearson") for gauge in ("zero", "lse")},
    **{
        f"squared_hellinger_{gauge}": look_of("f_sft_hellinger")
        for gauge in ("zero", "lse")
    },
}
FIGURE = Figure(
    study="bridge",
    panels=(
        Dots("equations/sampled", "equations", "final", "accuracy, %"),
        Dots("retention", "other skills", "final", "retention, points"),
        Dots("kl_reverse", "KL(policy‖base)", "final", "nats"),
    ),
    height=4.2,
    looks=LOOKS,
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
