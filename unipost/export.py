"""unipost export: the model of a checkpoint in the Hugging Face layout."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

EXPORT = """\
Write the model of a run as it was at a checkpoint, in the Hugging Face layout: of the
newest one, of the best by checkpoints.best, or of a step. Of an adapter on a model that
was read from a folder, the adapter. The run may be going on.

  unipost export runs/grpo --out runs/grpo/newest
  unipost export runs/grpo --best --out runs/grpo/best
  unipost export runs/grpo --step 200 --out runs/grpo/200
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `unipost export`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="after N steps")
    which.add_argument(
        "--best", dest="which", action="store_const", const="best", help="the best one"
    )
    which.add_argument(
        "--latest",
        dest="which",
        action="store_const",
        const="latest",
        help="the newest one (default)",
    )
    parser.set_defaults(which="latest")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a new folder"
    )


def export(options: argparse.Namespace) -> None:
    """unipost export RUN --out FOLDER."""
    which = options.which if options.step is None else options.step
    step = export_model(options.run, options.out, which)
    print(f"{options.out}: the model of {options.run} after step {step}")


def export_model(run: Path, out: Path, which: int | str = "latest") -> int:
    """Write the model of a checkpoint of `run` to the new folder `out`; its step.

    `which` is a step, latest or best. Raises ValueError naming what is not there, and
    what can be asked for.
    """
    from unipost.adapters import trained_part, with_trained
    from unipost.saved import read_part, reason_of
    from unipost.scalar.loading import open_model

    if out.exists():
        raise ValueError(f"{out}: is there already; choose another --out")
    experiment = _experiment(run)
    settings = experiment.checkpoints
    if settings is None:
        raise ValueError(f"{run}: has no checkpoints; its model is in {run / 'final'}")
    from etils import epath

    place = epath.Path(settings.place(run))
    step = _step(run, place, settings, which)
    parts = experiment.seed, experiment.lora, experiment.compute
    model = open_model(experiment.objective, experiment.model, *parts)
    frozen, first = trained_part(model.params)
    try:
        found = read_part(place, step, {"state": {"params": first}})
    except Exception as error:  # whatever Orbax makes of damaged files
        problem = f"checkpoint cannot be read ({reason_of(error)})"
        raise ValueError(f"{place / str(step)}: {problem}") from error
    _write(model, with_trained(frozen, found["state"]["params"]), out)
    return step


def _experiment(run: Path) -> Any:
    """The experiment of a run by its resolved config."""
    from unipost.config import load
    from unipost.train import Experiment

    file = run / "config.yaml"
    if not file.exists():
        raise ValueError(f"{run}: holds no config.yaml; give the directory of a run")
    return load(Experiment, file)


def _step(run: Path, place: Any, settings: Any, which: int | str) -> int:
    """The step that is meant, which has a checkpoint."""
    from unipost.measures import past_numbers
    from unipost.retention import best_first
    from unipost.saved import read_about, steps_in

    steps = steps_in(place) if place.exists() else []
    if not steps:
        raise ValueError(f"{place}: holds no whole checkpoint")
    there = f"there are {', '.join(map(str, steps))}"
    if which == "latest":
        return steps[-1]
    if which != "best":
        if which in steps:
            return int(which)
        raise ValueError(f"--step: {which} has no checkpoint; {there}")
    if settings.best is None:
        raise ValueError(f"--best: {run} has no checkpoints.best; {there}")
    numbers: dict[int, float] = {}
    for step in steps:
        with contextlib.suppress(OSError, ValueError):
            about = read_about(place, step)
            numbers |= {step: about["number"]} if "number" in about else {}
    numbers |= past_numbers(settings.best, run / "evaluation.jsonl")
    kept = {step: numbers[step] for step in steps if step in numbers}
    if not kept:
        raise ValueError(
            f"--best: {settings.best.metric} is measured at none of the checkpoints; "
            f"{there}"
        )
    return best_first(kept, settings.best)[0]


def _write(model: Any, params: Any, out: Path) -> None:
    """`params` in the folder `out`: whole, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as there:
        model.save(Path(there), params)
        (made,) = Path(there).iterdir()
        target = out if made.is_dir() else out.with_suffix(made.suffix)
        os.replace(made, target)
