"""pass@k of a model, of it after GRPO and after more demonstrations."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import look_of
from suite import Figure, PassAt

ABOUT = About(
    title="pass@k before and after RL, and after a teacher",
    paper="2504.13837",
    item="Figs 2 and 7",
    claim="GRPO raises pass@1 of the model that it starts from and lowers its "
    "pass@256; more demonstrations raise both.",
    data=("pass_at_k.json",),
    command="unipost run experiments/papers/pass_at_k.yaml",
    differs="The paper's curves are of 7B to 32B models (two printed points of each: "
    "pass_at_k). Ours: three-digit chains with 1000 answers, 256 samples of each of 64 "
    "problems, 0.15M parameters, one base.",
)
FIGURE = Figure(
    study="pass_at_k",
    arms=("start", "grpo", "distil"),
    panels=(PassAt("v3", (1, 2, 4, 8, 16, 32, 64, 128, 256), "three-digit chains"),),
    columns=1,
    height=2.6,
    looks={
        "start": look_of("base"),
        "grpo": look_of("grpo"),
        "distil": look_of("sft_own"),
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
