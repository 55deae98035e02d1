"""pass@k and maj@k at equal entropy, and the perplexity of RL's samples."""

from claims import claim_rows, told
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, Look, look_of, new_figure, published, rest, title

ABOUT = About(
    title="pass@k at equal entropy, maj@k, perplexity under the start",
    paper="2504.13837",
    item="Figs 6, 8 and 17; Fig. 7 of 2402.03300",
    claim="At equal entropy GRPO's pass@1 is still above the start's and its pass@256 "
    "below; it closes less than half of the start's way from pass@1 to pass@256; its "
    "samples are likely under the start; it raises maj@64 and not pass@64.",
    data=("entropy_match.json", "pass_hard.json", "published/pass_at_k.json"),
    command="python -m experiments.papers.entropy_match --runs runs",
    differs="Printed: Qwen2.5-7B on Omni-MATH, test, k = 1 and 256 (the other figures "
    "print no numbers). Ours: three-digit chains, 64 problems, 0.15M parameters, three "
    "seeds, one base, from two starts: after 160 steps of SFT and after 120.",
)
ARMS = {
    "start": ("start", look_of("base")),
    "grpo": ("GRPO", look_of("grpo")),
    "grpo_matched": ("GRPO, entropy of start", Look("#f0a35e", "s", "--")),
    "start_matched": ("start, entropy of GRPO", Look("#88a0b8", "^", ":")),
    "distil": ("teacher", look_of("sft_own")),
}
SETTINGS = {"plain": "start of 160 steps", "hard": "start of 120 steps"}
PRINTED = {"base": "start", "GRPO": "grpo"}


def rows(stored: Stored) -> Rows:
    """The curves of both settings, the printed ends, then the claims."""
    tree, found = stored.json("entropy_match"), []
    for row in tree["table"]:
        name, _, k = row["what"].partition("@")
        about = {"setting": row["setting"], "arm": row["arm"], "what": name}
        ends = {key: row[key] for key in ("mean", "low", "high")}
        found.append(about | {"at": int(k) if k else ""} | ends)
    table = stored.published("pass_at_k", "algorithms")
    for name, arm in PRINTED.items():
        for k in (1, 256):
            value = table["rows"][name][table["columns"].index(f"test {k}")]
            about = {"setting": "printed", "arm": arm, "what": "pass", "at": k}
            found.append(about | {"mean": value})
    return found + claim_rows(tree)


def draw(found: Rows):
    """For each setting: pass@k with the controls, votes, and likelihoods."""
    figure = new_figure(PAGE, 4.4)
    panels = figure.subplots(2, 3, width_ratios=(1.25, 1.25, 0.8))
    for line, (setting, text) in zip(panels, SETTINGS.items(), strict=True):
        own = [r for r in found if r.get("setting") == setting]
        _passes(line[0], own)
        _votes(line[1], own)
        _likely(line[2], own)
        title(line[0], f"{text}: pass@k")
        title(line[1], "maj@k and pass@k")
        title(line[2], "under the start")
    _printed(panels[0][0], found)
    panels[0][1].legend(loc="center right")
    panels[1][1].legend(loc="upper left")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure


def _passes(axes, own: Rows) -> None:
    for arm, (name, look) in ARMS.items():
        _line(axes, [r for r in own if (r["arm"], r["what"]) == (arm, "pass")], look)
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        axes.plot([], [], label=name, **style)
    _samples(axes, 256)


def _printed(axes, found: Rows) -> None:
    for arm in PRINTED.values():
        ends = [r for r in found if (r.get("setting"), r["arm"]) == ("printed", arm)]
        x, y = [r["at"] for r in ends], [r["mean"] for r in ends]
        axes.plot(x, y, color=ARMS[arm][1].color, lw=0.6, ls=ARMS[arm][1].line)
        published(axes, x, y, "printed, 7B" if arm == "start" else "")


def _votes(axes, own: Rows) -> None:
    for arm in ("start", "grpo"):
        look = ARMS[arm][1]
        for what, line in (("maj", "-"), ("pass", "--")):
            picked = [r for r in own if (r["arm"], r["what"]) == (arm, what)]
            picked = [r for r in picked if r["at"] <= 64]
            _line(axes, picked, look._replace(line=line))
    for text, line in (("maj@k", "-"), ("pass@k", "--")):
        axes.plot([], [], color="#666666", ls=line, label=text)
    _samples(axes, 64)


def _likely(axes, own: Rows) -> None:
    arms = ("start", "grpo", "distil")
    for i, arm in enumerate(arms):
        look = ARMS[arm][1]
        (row,) = (r for r in own if (r["arm"], r["what"]) == (arm, "nll"))
        axes.plot([i, i], [row["low"], row["high"]], color=look.color, lw=1.1)
        axes.plot(i, row["mean"], look.marker, color=look.color, ms=5)
    axes.set_xticks(range(len(arms)), ["start", "GRPO", "teacher"])
    axes.set_xlim(-0.5, len(arms) - 0.5)
    axes.tick_params(axis="x", length=0)
    highest = max(r["high"] for r in own if r["what"] == "nll")
    axes.set_ylim(0, 1.08 * highest)
    axes.set_ylabel("-log p of a token, nats")
    rest(axes)


def _line(axes, own: Rows, look: Look) -> None:
    x = [r["at"] for r in own]
    ends = [[r[key] for r in own] for key in ("low", "high")]
    axes.fill_between(x, *ends, color=look.color, alpha=0.12, lw=0)
    style = {"color": look.color, "ls": look.line, "marker": look.marker}
    axes.plot(x, [r["mean"] for r in own], ms=3, **style)


def _samples(axes, last: int) -> None:
    axes.set_xscale("log", base=2)
    ticks = [k for k in (1, 4, 16, 64, 256) if k <= last]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.set_xlabel("samples k")
    axes.set_ylabel("%")
    rest(axes)


def verdict(found: Rows) -> str:
    """The claims of the script, as stored."""
    return told(found)


if __name__ == "__main__":
    main(__file__)
