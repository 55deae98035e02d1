"""Runs that are the same in one process and in several."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_runs import experiment

from unipost.adapters import LoRA
from unipost.completions import Completions
from unipost.experiment import Experiment
from unipost.mesh import Mesh
from unipost.presets import dpo, grpo
from unipost.sources import EMPTY, Demonstrations


def whole_run(folder: Path) -> Experiment:
    """Two steps of GRPO on 2 x 2 x 2 devices with all that is written beside.

    A new model with an adapter, which is merged where it is written.
    """
    return experiment(
        "grpo",
        str(folder / "sums.jsonl"),
        objective=grpo(kl=0.1),
        steps=2,
        minibatches=2,
        mesh=Mesh(data=2, fsdp=2, tensor=2),
        completions=Completions(every=1),
        lora=LoRA(rank=2, alpha=4.0),
    )


def cached_run(folder: Path, cache: Path) -> Experiment:
    """A step of DPO from a folder, its reference log-probs kept in another."""
    return experiment(
        "orpo",
        str(folder / "pairs.jsonl"),
        model=str(folder / "base"),
        objective=dpo(),
        steps=1,
        mesh=Mesh(data=2, fsdp=2, tensor=2),
        reference_cache=str(cache),
        evaluation=None,
        checkpoints=None,
        lora=LoRA(rank=2, alpha=4.0),
    )


@dataclass(frozen=True)
class Slow(Demonstrations):
    """Demonstrations that take `pause` seconds a step, so that a kill hits a step."""

    pause: float = 0.0

    def open(self, setting):
        return _Paused(super().open(setting), self.pause)


@dataclass(frozen=True)
class _Paused:
    inner: Any
    pause: float

    @property
    def size(self) -> int:
        return self.inner.size

    def batch(self, step, params, memory=EMPTY):
        time.sleep(self.pause)
        return self.inner.batch(step, params, memory)
