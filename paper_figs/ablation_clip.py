"""Clip and KL weight of GRPO with four updates of a batch."""

from drawing import About, main
from stored import Rows, Stored
from style import PAGE, Look, new_figure, title

ABOUT = About(
    title="Clip and KL weight of GRPO",
    paper="2503.14476",
    item="Clip-higher and no KL (section 3.1)",
    claim="Raising the upper clip alone raises the entropy; a larger KL weight keeps "
    "the policy nearer to the base.",
    data=("grpo_clip_kl.json",),
    command="unipost sweep experiments/ablations/grpo_clip_kl.yaml",
    differs="DAPO raises the upper clip to 0.28 at 32B; here 0.8, since at this size "
    "only 1 to 2% of the tokens are clipped at all. Intervals over 3 seeds.",
)
CLIPS = {
    "0.05, 0.05": Look("#0570b0", "v", "--"),
    "0.2, 0.2": Look("#d55e00", "o", "-"),
    "0.2, 0.8": Look("#e6ab02", "*", "-."),
}
METRICS = {
    "kl_reverse": ("KL(policy‖base), nats", 1),
    "train/entropy": ("entropy over the run, nats", 1),
    "equations/sampled": ("accuracy of samples, %", 100),
}


def rows(stored: Stored) -> Rows:
    """A row for each clip and KL weight: distance, entropy, accuracy."""
    found = []
    for about in stored.json("grpo_clip_kl")["combinations"].values():
        clip = about["values"]["objective"]
        bounds = f"{clip['low']}, {clip['high']}"
        row = {"clip": bounds, "kl": about["values"]["objective.kl"]}
        for key, (_, scale) in METRICS.items():
            for name, value in zip(
                ("mean", "low", "high"), about["means"][key], strict=True
            ):
                row[f"{key} {name}"] = scale * value
        runs = about["runs"].values()
        row["entropy by seed"] = " ".join(f"{r['train/entropy']:.6g}" for r in runs)
        found.append(row)
    return found


def draw(found: Rows):
    """A panel for each number against the KL weight, a line for each clip."""
    figure = new_figure(PAGE, 2.4)
    panels = figure.subplots(1, 3)
    for axes, (key, (text, _)) in zip(panels, METRICS.items(), strict=True):
        for i, (clip, look) in enumerate(CLIPS.items()):
            own = sorted((r for r in found if r["clip"] == clip), key=lambda r: r["kl"])
            x = [r["kl"] * (1 + 0.05 * (i - 1)) for r in own]
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            axes.plot(x, [r[f"{key} mean"] for r in own], label=f"clip {clip}", **style)
            ends = [[r[f"{key} {end}"] for r in own] for end in ("low", "high")]
            axes.vlines(x, *ends, color=look.color, lw=0.8)
        axes.set_xscale("log")
        axes.set_xticks([0.01, 0.04, 0.16], ["0.01", "0.04", "0.16"])
        axes.minorticks_off()
        axes.set_xlabel("KL weight")
        title(axes, text)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def verdict(found: Rows) -> str:
    """Entropy in every seed at every weight; distances by their means."""
    by = {(row["clip"], row["kl"]): row for row in found}
    kls = sorted({kl for _, kl in by})
    entropy = [
        higher > lower
        for kl in kls
        for higher, lower in zip(
            *(
                map(float, by[clip, kl]["entropy by seed"].split())
                for clip in ("0.2, 0.8", "0.2, 0.2")
            ),
            strict=True,
        )
    ]
    near = []
    for clip in CLIPS:
        distances = [by[clip, kl]["kl_reverse mean"] for kl in kls]
        near.append(distances == sorted(distances, reverse=True))
    words = ["supported" if all(x) else "not supported" for x in (entropy, near)]
    return f"{words[0]} for entropy; {words[1]} for distance"


if __name__ == "__main__":
    main(__file__)
