"""Switching between SFT and RL by prompt (HPT), printed and at our size."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, rest, title

ABOUT = About(
    title="HPT against SFT, RL and their mixtures",
    paper="2509.04419",
    item="Table 2",
    claim="Switching by prompt is above SFT, GRPO, SFT followed by GRPO, LUFFY and "
    "SRFT.",
    data=("published/hpt.json", "luffy_hard.json"),
    command="unipost run experiments/luffy_hard.yaml",
    differs="Left printed, 7B, in distribution (small) and out of it (large). Right "
    "ours on prompts that the base never solves, where every prompt is switched to "
    "SFT at first; SFT alone and SFT then GRPO are no arms of that study.",
)
ARMS = {
    "base": ("base", None),
    "SFT": ("sft", None),
    "GRPO": ("grpo", "on_policy"),
    "SFT, then GRPO": ("sft_rl", None),
    "LUFFY": ("luffy", "luffy"),
    "SRFT": ("srft", "srft"),
    "HPT": ("hpt", "hpt"),
}


def rows(stored: Stored) -> Rows:
    """A row for each arm: printed averages, and our gain where there is one."""
    table = stored.published("hpt", "main")["rows"]
    arms = {arm.name: arm for arm in stored.summary("luffy_hard").arms}
    found = []
    for name, (_, ours) in ARMS.items():
        row = {"arm": name, "in": table[name][0], "out": table[name][1]}
        gain = arms[ours].gain if ours else None
        for key, value in zip(
            ("gain", "low", "high"), gain or (None,) * 3, strict=True
        ):
            row[key] = value
        found.append(row)
    return found


def draw(found: Rows):
    """Printed averages left, our gains right."""
    figure = new_figure(PAGE, 2.3)
    left, right = figure.subplots(1, 2, sharey=True)
    for y, row in enumerate(found):
        look = look_of(ARMS[row["arm"]][0])
        left.plot([row["in"], row["out"]], [y, y], color=look.color, lw=2.5, alpha=0.5)
        published(left, [row["in"]], [y], "in distribution" if not y else "")
        published(left, [row["out"]], [y], "out of it" if not y else "", ms=7)
        if row["gain"] is None:
            note = "not an arm here" if row["arm"] != "base" else "0 by definition"
            place = (0.5, y)
            right.annotate(note, place, fontsize=7, color="#888888", va="center")
            continue
        right.plot([row["low"], row["high"]], [y, y], color=look.color, lw=1.5)
        right.plot(row["gain"], y, look.marker, color=look.color, ms=6)
    title(left, "printed, Qwen2.5-Math-7B")
    title(right, "ours, 187k, hard prompts")
    rest(right, way="v")
    left.set_xlabel("accuracy, %")
    right.set_xlabel("gain over the base, points")
    left.set_yticks(range(len(found)), [row["arm"] for row in found])
    left.tick_params(axis="y", length=0)
    left.set_ylim(len(found) - 0.5, -0.5)
    left.legend(loc="upper left", bbox_to_anchor=(-0.02, 0.75))
    return figure


def verdict(found: Rows) -> str:
    """HPT against LUFFY, SRFT and RL at our size, by intervals that do not overlap."""
    ours = {row["arm"]: row for row in found if row["gain"] is not None}
    hpt = ours.pop("HPT")
    apart = [name for name, row in ours.items() if row["high"] < hpt["low"]]
    word = "supported" if len(apart) == len(ours) else "inconclusive"
    return f"{word}: intervals apart from those of {', '.join(apart)}"


if __name__ == "__main__":
    main(__file__)
