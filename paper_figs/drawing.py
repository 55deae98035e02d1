"""What every figure's script is: what it says of itself, its numbers, its picture.

A script has ABOUT, rows(stored) -> the numbers drawn, draw(rows) -> figure, and
verdict(rows) -> what follows from the numbers, computed. `main` writes NAME.pdf,
NAME.png and NAME.csv.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from stored import DATA, Stored, csv_text

from unipost.figure_style import RC, save

HERE = Path(__file__).parent
PARTS = ("arms", "audit", "claims", "drawing", "f_dpo_arms", "gallery", "stored")
PARTS += ("style", "suite")
OUT = Path("build") / "paper_figs"


@dataclass(frozen=True)
class About:
    """What a figure is about.

    title    what it shows
    paper    arXiv id, "" for none
    item     figure or table of the paper
    claim    stated so that it can fail; "" where nothing is claimed
    data     files below data/ that it reads
    command  what makes our numbers, "" where there are none
    differs  what is not as in the paper
    """

    title: str
    paper: str
    item: str
    claim: str
    data: tuple[str, ...]
    command: str = ""
    differs: str = ""


def scripts() -> list[str]:
    """All figures, by the names of their scripts."""
    return sorted(
        p.stem for p in HERE.glob("*.py") if p.stem not in PARTS and _is_figure(p)
    )


def names() -> list[str]:
    """The figures whose results are stored."""
    return [name for name in scripts() if not missing(name)]


def missing(name: str) -> list[str]:
    """The files below data/ that a figure needs and that are not there."""
    return [file for file in script(name).ABOUT.data if not (DATA / file).exists()]


def _is_figure(path: Path) -> bool:
    return "\nABOUT = About(" in path.read_text()


def script(name: str) -> ModuleType:
    """The module of a figure. Raises ValueError for a name that is no figure."""
    if name not in scripts():
        raise ValueError(f"figures: {name!r} is none of {', '.join(scripts())}")
    full = f"paper_figs_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ValueError(f"figures: {name}.py cannot be read")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


def write(
    module: ModuleType,
    folder: Path,
    stored: Stored | None = None,
    formats: tuple[str, ...] = ("pdf", "png"),
    dpi: int = 200,
) -> str:
    """Write NAME.pdf, NAME.png, NAME.csv into `folder`; return the verdict."""
    from matplotlib import rc_context

    name = module.__name__.removeprefix("paper_figs_")
    found = module.rows(stored or Stored())
    with rc_context(RC):
        save(module.draw(found), folder / name, formats, dpi)
    (folder / f"{name}.csv").write_text(csv_text(found))
    return module.verdict(found)


def main(name: str, arguments: list[str] | None = None) -> None:
    """Run one script by itself: [RUN] [OUT]. `name` is the script's file."""
    module = script(Path(name).stem)
    about = module.ABOUT
    parser = argparse.ArgumentParser(description=about.title)
    text = "run directory or results file; default: the results committed in data/"
    parser.add_argument("run", nargs="?", type=Path, help=text)
    default = OUT / Path(name).stem
    text = "folder to write into; default: %(default)s"
    parser.add_argument("out", nargs="?", type=Path, default=default, help=text)
    chosen = parser.parse_args(arguments)
    try:
        said = write(module, chosen.out, Stored(chosen.run))
    except (OSError, ValueError) as problem:
        parser.error(str(problem))
    print(f"{about.title}\n{said}\nwritten: {chosen.out}")
