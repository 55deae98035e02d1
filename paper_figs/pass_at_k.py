"""pass@1 against pass@256 of RL with verifiable rewards, by algorithm and by steps."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, published, title

ABOUT = About(
    title="RL raises pass@1 and not pass@256",
    paper="2504.13837",
    item="Tables 2 and 3, Figs 1 and 8",
    claim="Every algorithm is far above the base at k = 1 and none is above it at "
    "k = 256 on the training problems; with more steps of GRPO pass@1 rises and "
    "pass@256 falls.",
    data=("published/pass_at_k.json",),
    differs="Printed values, two points of each curve; the paper's Fig. 2 has the "
    "whole curves. Ours: pass_curves.",
)
METHODS = {
    "base": "base",
    "GRPO": "grpo",
    "PPO": "ppo",
    "ReMax": "reinforce",
    "RLOO": "rloo",
    "REINFORCE++": "reinforce_pp",
    "DAPO": "dapo",
}
SETS = {"train": "training problems", "test": "test problems"}


def rows(stored: Stored) -> Rows:
    """A row for each algorithm or number of steps, and set: both ends."""
    found = []
    for name in ("algorithms", "steps"):
        table = stored.published("pass_at_k", name)
        for row, values in table["rows"].items():
            named = dict(zip(table["columns"], values, strict=True))
            for part in ("train", "test", "MATH500"):
                one, many = named[f"{part} 1"], named[f"{part} 256"]
                pair = {"pass@1": one, "pass@256": many}
                found.append({"table": name, "row": row, "set": part, **pair})
    return found


def draw(found: Rows):
    """Algorithms as points of (pass@1, pass@256), and both against steps of GRPO."""
    figure = new_figure(PAGE, 2.6)
    panels = figure.subplots(1, 3)
    for axes, (part, text) in zip(panels, SETS.items(), strict=False):
        own = [r for r in found if (r["table"], r["set"]) == ("algorithms", part)]
        for row in own:
            look = look_of(METHODS[row["row"]])
            x, y = [row["pass@1"]], [row["pass@256"]]
            axes.plot(x, y, look.marker, color=look.color, ms=5, label=row["row"])
            published(axes, x, y, "", ms=8)
        base = next(row for row in own if row["row"] == "base")
        axes.axhline(base["pass@256"], color="#666666", lw=0.7, ls="--", zorder=0.5)
        title(axes, text)
        axes.set_xlabel("pass@1, %")
        axes.set_ylabel("pass@256, %")
        axes.margins(0.12)
    last = panels[2]
    own = [r for r in found if (r["table"], r["set"]) == ("steps", "train")]
    steps = [int(row["row"]) for row in own]
    for key, line in (("pass@1", "-"), ("pass@256", "--")):
        values = [row[key] for row in own]
        last.plot(steps, values, line, color=look_of("grpo").color)
        published(last, steps, values, "")
        place = (steps[-1], values[-1])
        style = {"textcoords": "offset points", "fontsize": 7, "ha": "right"}
        last.annotate(key, place, (0, 6), **style)
    last.set_xlabel("steps of GRPO")
    last.set_ylabel("%")
    last.set_ylim(0, 80)
    title(last, "training problems")
    legend_below(figure, panels[0], 7)
    return figure


def verdict(found: Rows) -> str:
    """The claim's three parts, by the printed values of the training problems."""
    own = [r for r in found if r["set"] == "train"]
    arms = {r["row"]: r for r in own if r["table"] == "algorithms"}
    base = arms.pop("base")
    above = [n for n, r in arms.items() if r["pass@256"] > base["pass@256"]]
    steps = [r for r in own if r["table"] == "steps"][1:]
    ones, many = ([r[key] for r in steps] for key in ("pass@1", "pass@256"))
    falls = ones == sorted(ones) and many == sorted(many, reverse=True)
    ahead = all(r["pass@1"] > base["pass@1"] for r in arms.values())
    word = "supported" if ahead and falls and not above else "not supported"
    said = f"above the base at 256: {', '.join(above)}" if above else "as claimed"
    return f"{word} by the printed values ({said})"


if __name__ == "__main__":
    main(__file__)
