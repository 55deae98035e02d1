"""Write docs/plan.md, its table and figures, from what `unipost plan` found.

    python docs/make_plan.py --compile           # what is missing; needs unipost[tpu]
    python docs/make_plan.py --compile --again   # everything, an hour or two
    python docs/make_plan.py                     # page and figures, nothing compiled

Every cell of the table is a call of the command whose --json is kept in docs/plan/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
KEPT = DOCS / "plan"
LIMIT = 2400

TABLE = (
    "v5e-16",
    "v5e-64",
    "v5e-256",
    "v5p-8",
    "v5p-16",
    "v5p-64",
    "v5p-128",
    "v5p-256",
    "v6e-64",
)
SCALING = ("v5p-16", "v5p-32", "v5p-64", "v5p-128", "v5p-256", "v5p-512")
"""8 to 256 chips, two TensorCores each."""


@dataclass(frozen=True)
class Cell:
    """One call: an experiment of experiments/plan on a topology.

    mesh  as --mesh; auto with the fewest microbatches under which something fits
    """

    experiment: str
    topology: str
    mesh: str = "auto"
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file in docs/plan."""
        mesh = "" if self.mesh == "auto" else f"_{self.mesh.replace('=', '')}"
        return f"{self.experiment}_{self.topology}{mesh.replace(',', '_')}"

    @property
    def path(self) -> Path:
        """Where its numbers are kept."""
        return KEPT / f"{self.name}.json"


def cells() -> Iterator[Cell]:
    """Every cell, the most wanted first."""
    for experiment in ("sft_8b", "dpo_8b"):
        yield from (Cell(experiment, name) for name in ("v5e-256", "v5p-16"))
    for name in SCALING:
        yield Cell("sft_8b", name, "fsdp=-1")
    for experiment in ("sft_8b", "sft_70b", "sft_0.5b"):
        yield from (Cell(experiment, name) for name in TABLE)
    yield Cell("grpo_8b", "v5p-32")


def settled(cell: Cell) -> Cell:
    """A cell of mesh auto with the microbatches under which the estimate fits.

    Where none does, with the most that divide over some mesh.
    """
    from unipost.config import load
    from unipost.plan.search import quickest, roomiest
    from unipost.plan.topology import parse_topology
    from unipost.train import Experiment

    if cell.mesh != "auto":
        return cell
    topology, most = parse_topology(cell.topology), cell
    for count in (1, 2, 4, 8, 16, 32, 64):
        asked = (*cell.overrides, f"microbatches={count}")
        experiment = load(Experiment, _file(cell), asked)
        if quickest(experiment, topology) is not None:
            return replace(cell, overrides=asked)
        if roomiest(experiment, topology) is not None:
            most = replace(cell, overrides=asked)
    return most


def compile_cell(cell: Cell) -> None:
    """Run the command for one cell; what it found goes to docs/plan."""
    KEPT.mkdir(exist_ok=True)
    cell_now = settled(cell)
    command = [sys.executable, "-m", "unipost", "plan", str(_file(cell))]
    command += [*cell_now.overrides, "--topology", cell.topology, "--mesh", cell.mesh]
    print("$", " ".join(command[2:]), flush=True)
    done = subprocess.run(
        [*command, "--json", str(cell.path)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=DOCS.parent,
    )
    print(done.stdout or done.stderr[-500:], flush=True)


def _file(cell: Cell) -> Path:
    return Path("experiments") / "plan" / f"{cell.experiment}.yaml"


def found(cell: Cell) -> dict[str, Any] | None:
    """What is kept of a cell."""
    return json.loads(cell.path.read_text()) if cell.path.exists() else None


def main(arguments: list[str]) -> None:
    """Compile what is asked for, and write the page."""
    if "--compile" in arguments:
        for cell in cells():
            if "--again" in arguments or not cell.path.exists():
                compile_cell(cell)
    from plan_page import write_page

    write_page()


if __name__ == "__main__":
    main(sys.argv[1:])
