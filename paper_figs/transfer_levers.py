"""Which ingredient of RL transfers: sampling, negative gradients, the KL term."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, rest, title

ABOUT = About(
    title="The levers between SFT and RL",
    paper="2507.00432",
    item="Tables 3 and 4",
    claim="Sampling on policy goes with more transfer: on-policy SFT keeps more of the "
    "other tasks than off-policy SFT, and on-policy RL more than off-policy RL.",
    data=("transfer_tables.json",),
    differs="Printed values, without seeds or intervals and not at equal accuracy: the "
    "off-policy arms have the higher mean in mathematics. Ours at equal accuracy: "
    "transfer_arms.",
)
ARMS = {
    "Off-policy SFT": "sft",
    "On-policy SFT": "on_sft",
    "Off-policy RL": "off_rl",
    "On-policy RL (no KL)": "grpo",
    "On-policy RL": "grpo_kl",
}
COLUMNS = ("math", "other", "non", "index_other", "index_non")
NAMES = {"On-policy RL": "On-policy RL, KL"}


def rows(stored: Stored) -> Rows:
    """A row for each arm: mean scores of the groups, gains over the base, indices."""
    table = stored.json("transfer_tables")["ablation_table4"]
    base = table["Qwen3-8B-Base"]
    found = []
    for arm in ARMS:
        row = {
            "arm": NAMES.get(arm, arm),
            **dict(zip(COLUMNS, table[arm], strict=True)),
        }
        gains = {f"gain_{g}": row[g] - base[i] for i, g in enumerate(COLUMNS[:3])}
        found.append(row | gains)
    return found


def draw(found: Rows):
    """Gains of the three groups, and both indices, of each arm."""
    figure = new_figure(PAGE, 2.6)
    left, right = figure.subplots(1, 2, sharey=True)
    marks = {"math": "o", "other": "s", "non": "^"}
    texts = {"math": "mathematics", "other": "other reasoning", "non": "other tasks"}
    for y, (row, arm) in enumerate(zip(found, ARMS.values(), strict=True)):
        color = look_of(arm).color
        for group, mark in marks.items():
            left.plot(row[f"gain_{group}"], y, mark, color=color, ms=5.5)
    for group, mark in marks.items():
        left.plot([], [], mark, color="#333333", label=texts[group])
    for key, text, size in (
        ("other", "other reasoning", 4.5),
        ("non", "other tasks", 7),
    ):
        x = [row[f"index_{key}"] for row in found]
        published(right, x, range(len(found)), text, ms=size)
    for axes, text in ((left, "gain over the base"), (right, "transferability index")):
        rest(axes, way="v")
        title(axes, text)
        axes.set_ylim(len(found) - 0.4, -0.6)
    left.set_xlabel("points")
    right.set_xlabel("%")
    left.set_yticks(range(len(found)), [row["arm"] for row in found])
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2)
    return figure


def verdict(found: Rows) -> str:
    """The two comparisons of the claim, in points of other tasks."""
    by = {row["arm"]: row["non"] for row in found}
    sft = by["On-policy SFT"] - by["Off-policy SFT"]
    rl = by["On-policy RL (no KL)"] - by["Off-policy RL"]
    word = "supported" if min(sft, rl) > 0 else "not supported"
    return f"{word} by the printed means: SFT {sft:+.1f}, RL {rl:+.1f} points"


if __name__ == "__main__":
    main(__file__)
