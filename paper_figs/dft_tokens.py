"""Probabilities of the training set's tokens under the base, SFT and DFT."""

import suite
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, legend_below, look_of, new_figure, title
from suite import Figure

ABOUT = About(
    title="Token probabilities of the training set under SFT and DFT",
    paper="2508.05629",
    item="Fig. 2",
    claim="On its own training set DFT leaves more tokens at the two ends of the scale "
    "than SFT, and leaves improbable those that the base never writes.",
    data=("dft_tokens.json",),
    command="unipost run experiments/papers/dft_tokens.yaml",
    differs="Ten log bins of half a decade (the paper does not state its own), smaller "
    "values in the first; a log axis for the shares, those below 0.01% drawn there. "
    "Three teachers of one small task, 3 seeds.",
)
FIGURE = Figure(study="dft_tokens", panels=())
TEACHERS = {
    "own": ("completion", "running values (48% of the base)"),
    "never": ("dotted", "dotted (never)"),
    "many": ("many", "running values, verbose, dotted"),
}
LEAST = 0.01
BINS = 10


def rows(stored: Stored) -> Rows:
    """A row for each teacher, model and bin; then one for each claim."""
    results = stored.results(FIGURE.study)
    sample = suite.sampled(results)
    found: Rows = []
    for panel, (teacher, (column, _)) in enumerate(TEACHERS.items()):
        for method in ("base", "sft", "dft"):
            arm = "base" if method == "base" else f"{method}_{teacher}"
            at = "base" if method == "base" else "final"
            head = {"panel": panel, "arm": method, "title": method.upper()}
            for place in range(BINS):
                what = f"token_bin_{column}_{place}"
                low = 10 ** (-5 + place / 2)
                row = head | {"what": what, "at": place, "from": low}
                found.append(row | suite.triple(sample, arm, what, at))
    return found + suite.claim_rows(results)


def draw(found: Rows):
    """A panel for each teacher: share of tokens in each bin of probability."""
    figure = new_figure(PAGE, 2.5)
    panels = figure.subplots(1, len(TEACHERS), sharex=True, sharey=True)
    for number, (axes, teacher) in enumerate(zip(panels, TEACHERS, strict=True)):
        for method in ("base", "sft", "dft"):
            own = [r for r in found if (r["panel"], r["arm"]) == (number, method)]
            look, shares = look_of(method), [row["mean"] for row in own]
            x = [row["from"] * 10**0.25 for row in own]
            kept = [max(y, LEAST) for y in shares]
            size = {"base": 7, "sft": 5, "dft": 3.5}[method]
            style = {"color": look.color, "ls": look.line, "marker": look.marker}
            style |= {"ms": size, "mfc": "none" if method == "base" else look.color}
            label = "base" if method == "base" else own[0]["title"]
            axes.plot(x, kept, label=label, **style)
        title(axes, TEACHERS[teacher][1])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("probability of the token")
    panels[0].set_ylabel("share of tokens, %")
    legend_below(figure, panels[0])
    return figure


def verdict(found: Rows) -> str:
    """The study's claims, decided from its outcomes."""
    return suite.verdict(found)


if __name__ == "__main__":
    main(__file__)
