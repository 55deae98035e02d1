"""The gallery: small pictures, their numbers, and README.md, from the scripts alone.

    python paper_figs/gallery.py [NAME...]

Writes gallery/NAME.png and gallery/NAME.csv (of all figures, or of those named) and
README.md.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from drawing import HERE, missing, names, script, scripts, write
from stored import DATA, Stored, csv_text, same, typed

GALLERY = HERE / "gallery"
PICTURE_DPI = 110
NOTE = "<!-- written by paper_figs/gallery.py: edit the scripts, not this page -->"
INTRODUCTION = """\
Every figure is drawn by a script of this folder from stored results alone; nothing is
trained again and no number is typed by hand.

```
unipost figures                                  # all of them, into build/paper_figs
unipost figures --check                          # which differ from the stored numbers
python paper_figs/staleness.py runs/staleness    # one, from a run of your own
```

- A hollow black diamond is what a paper has printed, everything else is computed here.
  Published numbers are in [data/published](data/published), with table, version and how
  they were read; our results are in [data](data), with the command and the commit that
  made them.
- Intervals are 95%, by a hierarchical bootstrap over seeds and then items, paired where
  arms share seeds and items. They hold for the one base model of a study.
- A verdict is computed from the stored numbers each time: supported, not supported or
  inconclusive, by the rule that the claim states. A claim that fails stays.
- Our models have 75 to 300 thousand parameters, the papers' 1 to 70 billion. A verdict
  is about what is seen at our size, unless it is about the printed numbers themselves.
"""


def outdated(chosen: list[str]) -> list[str]:
    """The figures whose committed numbers are not what the stored results give."""
    return [name for name in chosen if not _current(name)]


def undecided(chosen: list[str]) -> list[str]:
    """Claims whose stored verdict is not the one that their outcomes give now."""
    from unipost.report import load_results
    from unipost.studies.verdicts import differences, found_of

    told, files = [], {file for name in chosen for file in script(name).ABOUT.data}
    for file in sorted(files):
        if (DATA / file).parent != DATA or not file.endswith(".json"):
            continue
        tree = json.loads((DATA / file).read_text())
        if claims := tree.get("claims") if "arms" in tree else None:
            found = found_of(load_results(DATA / file))
            told += [f"{file}: {line}" for line in differences(claims, found)]
    return told


def _current(name: str) -> bool:
    committed = GALLERY / f"{name}.csv"
    if not committed.exists():
        return False
    return same(committed.read_text(), csv_text(script(name).rows(Stored())))


def page() -> str:
    """README.md: an index, then picture, claim, verdict and command of each figure.

    Verdicts follow from the committed numbers of the figures.
    """
    scripts_ = {name: script(name) for name in ordered()}
    said = {name: decided(name) for name in scripts_}
    lines = ["# Figures", "", NOTE, "", INTRODUCTION]
    lines += ["| figure | paper | what of it | verdict |", "| --- | --- | --- | --- |"]
    for name, module in scripts_.items():
        about = module.ABOUT
        verdict = _short(said[name])
        where = _paper(about.paper)
        lines.append(
            f"| [{about.title}](#{name}) | {where} | {about.item} | {verdict} |"
        )
    lines += [*waiting(), ""]
    for name, module in scripts_.items():
        lines += _section(name, module, said[name])
    return "\n".join(lines)


def decided(name: str) -> str:
    """The verdict of a figure, from the numbers that are committed with it."""
    return script(name).verdict(typed((GALLERY / f"{name}.csv").read_text()))


def waiting() -> list[str]:
    """The figures whose results are not stored, with what makes them."""
    found = [name for name in scripts() if missing(name)]
    if not found:
        return []
    lines = ["", "Not run yet:", ""]
    for name in found:
        about = script(name).ABOUT
        lines.append(f"- {about.title} ({_paper(about.paper)}): `{about.command}`")
    return lines


def ordered() -> list[str]:
    """The figures by paper, then by name."""
    return sorted(names(), key=lambda name: (script(name).ABOUT.paper, name))


def _paper(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper})" if paper else "ours"


def _short(said: str) -> str:
    """A verdict for the table: its words, without numbers."""
    parts = [re.split("[:(]", part)[0].strip() for part in said.split("; ")]
    if parts[0][:1].isdigit():
        return parts[0]
    words = ("supported", "not supported", "inconclusive")
    return "; ".join(part for part in parts if part.startswith(words))


def _section(name: str, module: ModuleType, said: str) -> list[str]:
    about = module.ABOUT
    data = ", ".join(f"[{file}](data/{file})" for file in about.data)
    lines = [
        f"## {name}",
        "",
        f"**{about.title}** ({_paper(about.paper)}: {about.item})",
    ]
    lines += ["", f"![{about.title}](gallery/{name}.png)", ""]
    lines += [f"- Claim: {about.claim}"] if about.claim else []
    first, *rest = said.split("; ")
    lines += [f"- Verdict: {first}", *(f"  - {each}" for each in rest)]
    lines += [f"- What differs: {about.differs}"] if about.differs else []
    lines += (
        [f"- Results: `{about.command}`{_made(about.data)}"] if about.command else []
    )
    lines += [f"- Figure: `unipost figures {name}`, from {data or 'formulas'}; "]
    lines[-1] += f"[numbers](gallery/{name}.csv), [script]({name}.py)"
    return [*lines, ""]


def _made(files: tuple[str, ...]) -> str:
    """By which commit, with how many seeds and in what time the results were made."""
    told = []
    for file in files:
        tree = json.loads((DATA / file).read_text())
        told += [f"commit {tree['git']}"] if tree.get("git") else []
        told += [f"{len(tree['seeds'])} seeds"] if tree.get("seeds") else []
        if seconds := tree.get("wall_seconds"):
            told.append(f"{seconds / 60:.0f} minutes on {tree.get('cores', 2)} cores")
        elif tree.get("cost"):
            told.append(tree["cost"])
    return f" ({', '.join(told)})" if told else ""


def small_png(source: Path, target: Path) -> None:
    """The picture with a palette of 128 colours: a quarter of the bytes."""
    from PIL import Image

    with Image.open(source) as picture:
        plain = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    held = io.BytesIO()
    plain.save(held, "PNG", optimize=True)
    target.write_bytes(held.getvalue())


def make(chosen: list[str]) -> None:
    """Draw the figures chosen into gallery/, then write the page."""
    GALLERY.mkdir(exist_ok=True)
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            write(script(name), here, None, ("png",), PICTURE_DPI)
            small_png(here / f"{name}.png", GALLERY / f"{name}.png")
            shutil.copy(here / f"{name}.csv", GALLERY / f"{name}.csv")
    (HERE / "README.md").write_text(page())


if __name__ == "__main__":
    make(sys.argv[1:] or names())
