"""The claims on transfer again, from a base trained with another seed."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, rest, title

ABOUT = About(
    title="Transfer, from a second base",
    paper="2507.00432",
    item="Tables 1 and 4; R^2 table of 2509.04259",
    claim="The verdicts on transfer and on forgetting do not hang on one base.",
    data=("transfer.json", "transfer_base1.json"),
    command="unipost run experiments/papers/base.yaml seed=1 --out runs/base1 && "
    "unipost run experiments/papers/transfer.yaml base=runs/base1/final together=3 "
    "--out runs/transfer_base1",
    differs="Each row is a claim of transfer.yaml with its weakest effect, corrected "
    "for all of them; a row without a mark has arms that never reach the accuracy at "
    "which it compares. Two bases, 3 seeds each; no interval over bases is drawn.",
)
STUDIES = {"transfer": ("base 0", "base"), "transfer_base1": ("base 1", "control")}
PANELS = {
    "points": {
        "on_policy_keeps": "GRPO − foreign SFT",
        "kl_is_minor": "GRPO − GRPO with KL",
        "accepted_only": "GRPO − on-policy SFT",
        "online_late": "on-policy SFT − RFT, end",
        "online_early": "the same, step 10",
    },
    "R², shares, ratios": {
        "style_not_policy": "own style: share won back",
        "forward_kl_predicts": "R² of forward KL",
        "forward_beats_reverse": "its R² − reverse KL's",
        "kl_beats_weights": "its R² − weights'",
        "gradient_spike": "first gradients, ratio",
    },
}


def rows(stored: Stored) -> Rows:
    """The claims of both studies, each with its verdict and weakest effect."""
    return [
        row | {"study": study}
        for study in STUDIES
        for row in suite.claim_rows(stored.results(study))
    ]


def draw(found: Rows):
    """A row for each claim, a mark for each base."""
    figure = new_figure(PAGE, 2.3)
    axes_of = figure.subplots(1, 2)
    for axes, (unit, claims) in zip(axes_of, PANELS.items(), strict=True):
        for row in found:
            if row["arm"] not in claims:
                continue
            text, method = STUDIES[row["study"]]
            look, y = look_of(method), list(claims).index(row["arm"])
            y += -0.15 if row["study"] == "transfer" else 0.15
            ends = [row["low"], row["high"]]
            label = text if row["arm"] == next(iter(claims)) else ""
            axes.plot(ends, [y, y], color=look.color, lw=1.5)
            if row["mean"] is not None:
                axes.plot(row["mean"], y, look.marker, color=look.color, ms=5)
            axes.plot([], [], look.marker, color=look.color, label=label)
        rest(axes, way="v")
        axes.set_yticks(range(len(claims)), list(claims.values()))
        axes.set_ylim(len(claims) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(unit)
    title(axes_of[0], "retention or accuracy")
    title(axes_of[1], "what predicts and what rescues")
    legend_below(figure, axes_of[0], 2)
    return figure


def verdict(found: Rows) -> str:
    """How many verdicts are the same from both bases, and which are not."""
    by = {(row["study"], row["arm"]): row["at"] for row in found}
    names = [row["arm"] for row in found if row["study"] == "transfer"]
    pairs = {n: (by["transfer", n], by["transfer_base1", n]) for n in names}
    other = [f"{n}: {a}, then {b}" for n, (a, b) in pairs.items() if a != b]
    clash = [n for n, two in pairs.items() if {*two} == {"supported", "not supported"}]
    word = "not supported" if clash else "supported"
    same = f"{len(names) - len(other)} of {len(names)} verdicts are the same"
    return "; ".join([f"{word}: {same}, {len(clash)} contradict each other", *other])


if __name__ == "__main__":
    main(__file__)
