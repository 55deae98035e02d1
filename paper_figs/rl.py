"""Tables and figure of the studies of RL, from their tables of runs alone.

python paper_figs/rl.py                  # the committed tables: data/*.csv
python paper_figs/rl.py RUNS [OUT_DIR]   # RUNS/{rl_methods,staleness,luffy_hard}

A study's table.csv has a row per arm and seed. Means are over the seeds; what stands
behind them is the range over the seeds, not an interval (report.md has those).
"""

import argparse
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
STUDIES = ("rl_methods", "staleness", "luffy_hard")
TARGET = {"luffy_hard": "falling/sampled"}
COLUMNS = {
    "kl_reverse": ("KL(policy‖base)", "{:.2f}"),
    "entropy": ("entropy", "{:.2f}"),
    "tokens": ("tokens", "{:,.0f}"),
    "train/ess_behavior_sequence": ("ESS, sequences", "{:.2f}"),
    "order/greedy": ("ordering %", "{:.1f}"),
}
# Paul Tol's bright scheme, a marker each, so that colour is not needed to tell them
LOOKS = {
    "none": ("#444444", "o"),
    "naive": ("#EE6677", "s"),
    "tis_token": ("#4477AA", "^"),
    "tis_sequence": ("#66CCEE", "v"),
    "mask": ("#228833", "D"),
    "decoupled": ("#AA3377", "P"),
}
Rows = list[dict[str, str]]


def rows_of(folder: Path, study: str) -> Rows:
    """The rows of a study's table: of a run directory, or of the committed tables."""
    for path in (folder / study / "table.csv", folder / f"{study}.csv"):
        if path.exists():
            with path.open(newline="") as file:
                return list(csv.DictReader(file))
    raise FileNotFoundError(f"{folder}: no table of {study}; run the study first")


def by_arm(rows: Rows) -> dict[str, Rows]:
    """The runs of every arm, in the order of the table; the base's row is left out."""
    arms: dict[str, Rows] = {}
    for row in rows:
        if row["arm"] != "base":
            arms.setdefault(row["arm"], []).append(row)
    return arms


def spread(runs: Rows, key: str) -> tuple[float, float, float]:
    """(mean, lowest, highest) of a number over the seeds of an arm."""
    values = [float(run[key]) for run in runs]
    return sum(values) / len(values), min(values), max(values)


def table(study: str, rows: Rows) -> str:
    """Markdown: accuracy of samples with its range over the seeds, and the rest."""
    target = TARGET.get(study, "equations/sampled")
    shown = [key for key in COLUMNS if any(row.get(key) for row in rows)]
    heads = ["arm", "accuracy % (range)", *(COLUMNS[key][0] for key in shown)]
    lines = [heads, ["---"] * len(heads)]
    base = next(row for row in rows if row["arm"] == "base")
    known = [_cell(base, key) for key in shown]
    lines.append(["base", f"{float(base[target]):.1f}", *known])
    for runs in by_arm(rows).values():
        mean, low, high = spread(runs, target)
        cells = [COLUMNS[key][1].format(spread(runs, key)[0]) for key in shown]
        lines.append([runs[0]["title"], f"{mean:.1f} ({low:.1f}-{high:.1f})", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(row: Mapping[str, str], key: str) -> str:
    return COLUMNS[key][1].format(float(row[key])) if row.get(key) else ""


def staleness_figure(rows: Rows):
    """Accuracy and effective sample size against the steps that the sampler lags."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    keys = ("equations/sampled", "train/ess_behavior_sequence")
    arms = by_arm(rows)
    for axes, key in zip(panels, keys, strict=True):
        for shift, (name, (color, marker)) in enumerate(LOOKS.items()):
            found = sorted((int(a.rpartition("_")[2]), a) for a in _of(arms, name))
            title = arms[found[0][1]][0]["title"].partition(", ")[2]
            points = [spread(arms[arm], key) for _, arm in found]
            # beside each other, as 0 is a place of its own on an axis of powers
            places = [i + (shift - 2.5) * 0.05 for i in range(len(found))]
            means = [mean for mean, _, _ in points]
            below = [mean - low for mean, low, _ in points]
            above = [high - mean for mean, _, high in points]
            style = {"color": color, "marker": marker, "ms": 4.5, "lw": 1.2}
            axes.errorbar(places, means, (below, above), label=title, **style)
        axes.set_xticks(range(len(found)), [str(k) for k, _ in found])
        axes.set_xlabel("steps that the sampler is behind")
        axes.spines[["top", "right"]].set_visible(False)
    base = next(row for row in rows if row["arm"] == "base")
    panels[0].axhline(float(base[keys[0]]), color="#888888", ls=":", lw=1)
    panels[0].text(0, float(base[keys[0]]) + 0.1, "base", color="#666666", fontsize=8)
    panels[0].set_ylabel("accuracy of samples, %")
    panels[1].set_ylabel("ESS, share of sequences")
    panels[0].legend(
        fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 0.1)
    )
    return figure


def _of(arms: Iterable[str], name: str) -> list[str]:
    return [arm for arm in arms if arm.rpartition("_")[0] == name]


def main(arguments: list[str] | None = None) -> None:
    """Write a table of every study as Markdown, and the figure as PNG and PDF."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    about = "folder with the studies' run directories; default: the committed tables"
    parser.add_argument("runs", nargs="?", type=Path, default=HERE / "data", help=about)
    out = Path("build") / "paper_figs" / "rl"
    about = "folder to write into; default: %(default)s"
    parser.add_argument("out", nargs="?", type=Path, default=out, help=about)
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    try:
        for study in STUDIES:
            text = table(study, rows_of(chosen.runs, study))
            (chosen.out / f"{study}.md").write_text(text + "\n")
            print(f"{study}\n\n{text}\n")
        figure = staleness_figure(rows_of(chosen.runs, "staleness"))
    except FileNotFoundError as error:
        parser.error(str(error))
    for kind in ("png", "pdf"):
        figure.savefig(chosen.out / f"staleness.{kind}", dpi=160)
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
