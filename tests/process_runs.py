"""Runs that are the same in one process and in several."""

from pathlib import Path

from tiny_runs import demonstrations, experiment

from unipost.completions import Completions
from unipost.experiment import Experiment
from unipost.held_out import HeldOut
from unipost.mesh import Mesh
from unipost.presets import grpo


def whole_run(folder: Path) -> Experiment:
    """Two steps of GRPO on 2 x 2 x 2 devices with all that is written beside."""
    sums = str(folder / "sums.jsonl")
    return experiment(
        "grpo",
        sums,
        objective=grpo(kl=0.1),
        steps=2,
        minibatches=2,
        mesh=Mesh(data=2, fsdp=2, tensor=2),
        completions=Completions(every=1),
        held_out=HeldOut(demonstrations(sums), every=1),
    )
