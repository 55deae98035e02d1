"""`unipost figures`: every figure of the gallery, from stored results alone."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

FIGURES = """\
Draw the figures of paper_figs/ from the results that are stored there; nothing is
trained. Each writes NAME.pdf, NAME.png and the numbers as NAME.csv.

  unipost figures                          (all, into build/paper_figs)
  unipost figures transfer_index staleness
  unipost figures --check                  (which differ from the committed numbers;
                                            decides every stored claim again)
  python paper_figs/staleness.py runs/staleness     (one of them, from your own run)

Run in a checkout: the scripts and the results are no part of the installed package.
"""


CHUNK = 4
"""Figures that a process takes at a time: neighbours often read the same results."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `unipost figures`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    default = Path("build") / "paper_figs"
    text = "folder to write into (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=default, help=text)
    text = "draw nothing; list what differs from the committed numbers, exit code 1"
    parser.add_argument("--check", action="store_true", help=text)


def checkout(start: Path | None = None) -> Path:
    """The folder paper_figs of the checkout around `start` (default: here).

    Raises ValueError where there is none: an installed package has no figures.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "paper_figs" / "drawing.py").exists():
            return folder / "paper_figs"
    raise ValueError(
        f"figures: {start} is in no checkout of unipost (no paper_figs/ there or "
        "above); clone the repository and run this in it"
    )


def parts(folder: Path) -> tuple[ModuleType, ModuleType]:
    """(drawing, gallery) of the checkout's paper_figs."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("drawing"), importlib.import_module("gallery")


def draw_figures(options: argparse.Namespace) -> None:
    """Draw the figures asked for, or check them against the committed numbers."""
    folder = checkout()
    drawing, gallery = parts(folder)
    names = options.names or drawing.names()
    for name in names:
        drawing.script(name)
    if options.check:
        _check(gallery, names)
        return
    for name, (seconds, said) in zip(
        names, _all_drawn(folder, names, options.out), strict=True
    ):
        print(f"{name:<24} {seconds:5.1f} s  {said}", flush=True)
    print(f"{len(names)} figures in {options.out}")


def _all_drawn(
    folder: Path, names: Sequence[str], out: Path
) -> Iterator[tuple[float, str]]:
    """(seconds, verdict) of each figure, drawn by several processes where it pays."""
    each = zip(*((folder, name, out) for name in names), strict=True)
    jobs = min(os.cpu_count() or 1, len(names) // CHUNK)
    if jobs < 2:
        yield from map(_drawn, *each)
        return
    # not forked: a library with threads may be there already
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(_drawn, *each, chunksize=CHUNK)


def _drawn(folder: Path, name: str, out: Path) -> tuple[float, str]:
    drawing, _ = parts(folder)
    began = time.perf_counter()
    said = drawing.write(drawing.script(name), out / name)
    return time.perf_counter() - began, said


def _check(gallery: ModuleType, names: list[str]) -> None:
    old = gallery.outdated(names)
    if old:
        raise ValueError(
            f"figures: {', '.join(old)}: the committed numbers are not those of the "
            "stored results; run python paper_figs/gallery.py"
        )
    if told := gallery.undecided(names):
        raise ValueError(f"figures: {'; '.join(told)}")
    print(f"{len(names)} figures are up to date, and so are the verdicts")
