"""The divergence term of SFT along training: its gradient, and where it points."""

import statistics

from claims import claim_rows, told
from drawing import About, main
from stored import Rows, Stored
from style import DIVERGENCES, PAGE, Look, new_figure, rest, title

ABOUT = About(
    title="The divergence term of SFT is constant, and others keep it",
    paper="2507.00018",
    item="SFT as distribution matching: the constant KL term",
    claim="Along plain SFT the gradient of the divergence term is zero while the KL to "
    "the base grows; Pearson, squared Hellinger and reverse KL keep a term that pulls "
    "back to the base.",
    data=("sft_term.json",),
    command="python -m experiments.papers.sft_term",
    differs="By the reconstruction of the paper's f-divergence SFT that unipost has "
    "(docs/demonstrations.md); exact gradients on 128 demonstrations, means over three "
    "seeds. In the gauges lse and lsediff all terms but the plain one outgrow SFT.",
)
LOOKS = {
    "plain": ("plain SFT", Look("#08519c", "s", "-")),
    "total_variation": ("total variation, beta 1", DIVERGENCES["total_variation"]),
    "pearson_chi2": ("Pearson", DIVERGENCES["pearson_chi2"]),
    "squared_hellinger": ("squared Hellinger", DIVERGENCES["squared_hellinger"]),
    "reverse_kl": ("reverse KL", DIVERGENCES["reverse_kl"]),
}
NUMBERS = ("gradient", "cosine", "value")


def rows(stored: Stored) -> Rows:
    """Means over seeds of every term at every step, then the claims."""
    tree, groups = stored.json("sft_term"), {}
    for row in tree["rows"]:
        groups.setdefault((row["term"], row["step"]), []).append(row)
    found = []
    for (term, step), own in groups.items():
        name, _, gauge = term.partition("/")
        for key in NUMBERS:
            values = [r[key] for r in own if r[key] is not None]
            if values:
                about = {"arm": name, "gauge": gauge, "at": step, "what": key}
                found.append(about | {"mean": statistics.fmean(values)})
    return found + claim_rows(tree)


def _line(found: Rows, what: str, arm: str, gauge: str) -> tuple[list, list]:
    key = (what, arm, gauge)
    own = [r for r in found if (r["what"], r["arm"], r.get("gauge")) == key]
    return [r["at"] for r in own], [r["mean"] for r in own]


def draw(found: Rows):
    """KL to the base, then gradient and direction of the terms of gauge zero."""
    figure = new_figure(PAGE, 2.5)
    first, second, third = figure.subplots(1, 3)
    x, y = _line(found, "value", "kl", "")
    first.plot(x, y, color="#444444", marker="o")
    title(first, "KL(policy‖base)")
    first.set_ylabel("nats per token")
    for arm, (name, look) in LOOKS.items():
        style = {"color": look.color, "ls": look.line, "marker": look.marker}
        second.plot(*_line(found, "gradient", arm, "zero"), label=name, **style)
        x, y = _line(found, "cosine", arm, "zero")
        kept = [(a, b) for a, b in zip(x, y, strict=True) if a > 0]
        third.plot([a for a, _ in kept], [b for _, b in kept], **style)
    title(second, "|gradient of the term|")
    second.set_ylabel("of SFT's")
    title(third, "its cosine with grad KL")
    rest(third)
    for axes in (first, second, third):
        axes.set_xlabel("steps of SFT")
    handles, labels = second.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def verdict(found: Rows) -> str:
    """The claims of the script, as stored."""
    return told(found)


if __name__ == "__main__":
    main(__file__)
