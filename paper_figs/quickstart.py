"""Table, report and figures of the quickstart study, from its results.json alone.

python paper_figs/quickstart.py                      # the committed results
python paper_figs/quickstart.py RUN_DIR [OUT_DIR]    # those of your own run
"""

import argparse
from pathlib import Path

from unipost.report import load_results, write_report

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> None:
    """Read the results, write report.md, table.csv and every figure as PNG and PDF."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        default=HERE / "data" / "quickstart_results.json",
        help="run directory of `unipost run experiments/quickstart.yaml`, or its "
        "results.json; default: the results committed with the project",
    )
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        default=Path("build") / "paper_figs" / "quickstart",
        help="folder to write into; default: %(default)s",
    )
    chosen = parser.parse_args(arguments)
    try:
        results = load_results(chosen.run)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(write_report(results, chosen.out, ("png", "pdf")))
    print(f"written: {chosen.out}")


if __name__ == "__main__":
    main()
