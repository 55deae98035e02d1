"""Tables of the studies of RL, from their tables of runs alone.

python paper_figs/rl.py                  # the committed tables: data/*.csv
python paper_figs/rl.py RUNS [OUT_DIR]   # RUNS/{rl_methods,staleness,luffy_hard}

A study's table.csv has a row per arm and seed. Means are over the seeds; what stands
behind them is the range over the seeds, not an interval (report.md has those).
"""

import argparse
import csv
from collections.abc import Mapping
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


def main(arguments: list[str] | None = None) -> None:
    """Write a table of every study as Markdown."""
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
    except FileNotFoundError as error:
        parser.error(str(error))
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
