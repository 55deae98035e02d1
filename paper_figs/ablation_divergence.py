"""How far f-DPO goes by divergence and beta, and what it costs."""

from drawing import About, main
from stored import Rows, Stored
from style import DIVERGENCES, PAGE, new_figure, title

ABOUT = About(
    title="f-DPO: distance by divergence and beta",
    paper="2309.16240",
    item="Reward-divergence frontier (tables not to be had)",
    claim="At equal beta Jensen-Shannon and forward KL end nearer to the base than "
    "reverse KL.",
    data=("dpo_beta_divergence.json",),
    command="unipost sweep experiments/ablations/dpo_beta_divergence.yaml",
    differs="Pairs of right and wrong responses of a 187k model, 3 seeds; intervals "
    "over the seeds. No published number was to be had.",
)


def rows(stored: Stored) -> Rows:
    """A row for each divergence and beta: KL both ways, accuracy, entropy."""
    found = []
    for about in stored.json("dpo_beta_divergence")["combinations"].values():
        values = about["values"]
        row = {
            "divergence": values["objective.divergence"],
            "beta": values["objective.beta"],
        }
        for key in ("kl_reverse", "kl_forward", "equations/sampled", "entropy"):
            scale = 100 if "/" in key else 1
            for name, value in zip(
                ("mean", "low", "high"), about["means"][key], strict=True
            ):
                row[f"{key} {name}"] = scale * value
        found.append(row)
    return found


def draw(found: Rows):
    """KL against beta, and accuracy against KL."""
    figure = new_figure(PAGE, 2.4)
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(row["divergence"] for row in found):
        look = DIVERGENCES[name]
        own = sorted(
            (r for r in found if r["divergence"] == name), key=lambda r: r["beta"]
        )
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        x, kl = [r["beta"] for r in own], [r["kl_reverse mean"] for r in own]
        ends = [[r[f"kl_reverse {end}"] for r in own] for end in ("low", "high")]
        left.plot(x, kl, label=name.replace("_", " "), **style)
        left.vlines(x, *ends, color=look.color, lw=0.8)
        y = [r["equations/sampled mean"] for r in own]
        right.plot(kl, y, **style)
        for row, place in zip(own, zip(kl, y, strict=True), strict=True):
            offset = {"textcoords": "offset points", "fontsize": 7, "color": look.color}
            right.annotate(f"{row['beta']:g}", place, (4, 3), **offset)
    left.set_xscale("log")
    left.set_xticks([0.1, 0.3, 1.0], ["0.1", "0.3", "1"])
    left.minorticks_off()
    left.set_xlabel("beta")
    left.set_ylabel("KL(policy‖base), nats")
    right.set_xlabel("KL(policy‖base), nats")
    right.set_ylabel("accuracy of samples, %")
    title(left, "distance")
    title(right, "accuracy against distance (numbers: beta)")
    left.legend()
    return figure


def verdict(found: Rows) -> str:
    """Whether both are nearer at every beta."""
    kl = {(r["divergence"], r["beta"]): r["kl_reverse mean"] for r in found}
    betas = sorted({beta for _, beta in kl})
    nearer = {
        name: [b for b in betas if kl[name, b] < kl["reverse_kl", b]]
        for name in ("jensen_shannon", "forward_kl")
    }
    held = all(len(found) == len(betas) for found in nearer.values())
    said = ", ".join(
        f"{n.replace('_', ' ')} at {len(b)} of {len(betas)} betas"
        for n, b in nearer.items()
    )
    return f"{'supported' if held else 'not supported'}: nearer {said}"


if __name__ == "__main__":
    main(__file__)
