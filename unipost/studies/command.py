"""`unipost verdicts`: the verdicts of stored results, computed again."""

from __future__ import annotations

import argparse
from pathlib import Path

VERDICTS = """\
Compute the verdicts on the claims of stored results again, from the outcomes of every
item, and print one table.

  unipost verdicts runs/transfer
  unipost verdicts paper_figs/data/transfer.json paper_figs/data/razor.json
  unipost verdicts paper_figs/data/transfer.json --check

--check fails where a verdict or a number differs from what is stored.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `unipost verdicts`."""
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="results.json, or the run directory that holds it",
    )
    parser.add_argument(
        "--check", action="store_true", help="fail where they differ from those stored"
    )


def verdicts(options: argparse.Namespace) -> None:
    """unipost verdicts RESULTS ... [--check]. Raises ValueError where they differ."""
    from unipost.studies.claim_table import HEADS, cells
    from unipost.studies.stored import load_results
    from unipost.studies.verdicts import differences, found_of
    from unipost.tables import markdown

    rows, odd = [], []
    for path in options.results:
        results = load_results(path)
        found = found_of(results)
        if not found:
            raise ValueError(f"{path}: has no claims; name the results of a study with")
        odd += [f"{path}: {told}" for told in differences(results["claims"], found)]
        for name, made in found.items():
            claim = results["claims"][name]
            rows.append([results["study"], name, *cells(claim | {"found": made})])
    print(markdown(["study", "claim", *HEADS], rows))
    if odd and options.check:
        raise ValueError("; ".join(odd))
    for line in odd:
        print(f"differs from what is stored: {line}")
