"""The process that trains several runs of a sweep as one program.

    python -m unipost.sweep.together [--cache FOLDER|off] RUN RUN ...

Every RUN is a run directory with its config.yaml. What is printed and the exit code
are those of `unipost run`, with a line `unipost: RUN: why` for each that failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unipost.cli import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the runs in the folders named; returns the exit code."""
    parser = argparse.ArgumentParser(prog="unipost")
    parser.add_argument("--cache", metavar="FOLDER|off")
    parser.add_argument("--traceback", action="store_true")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.set_defaults(command=_train)
    return guarded(parser.parse_args(arguments))


def _train(options: argparse.Namespace) -> None:
    from unipost.compilation import enable_cache
    from unipost.config import load
    from unipost.train import Experiment
    from unipost.vectorised import Failed, train_together

    enable_cache(options.cache)
    folders = options.folders
    experiments = [load(Experiment, folder / "config.yaml") for folder in folders]
    try:
        train_together(experiments, folders, f"{len(folders)} runs")
    except Failed as failed:
        for place, error in failed.failures.items():
            print(f"unipost: {folders[place]}: {error}", file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(main())
