"""When pages of completions are written, and a step's page from its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unipost.batch import Batch
from unipost.chat import stop_tokens
from unipost.completions.entries import entries_of
from unipost.completions.examine import examine, first
from unipost.completions.page import write_index, write_page
from unipost.model import Params, Policy
from unipost.objectives import AnyObjective
from unipost.processes import is_first
from unipost.tokenizer import Tokenizer
from unipost.update import Rows


@dataclass(frozen=True)
class Completions:
    """Pages of sampled completions, RUN/completions/STEP.html and an index.

    every   steps from one page to the next; the last step has one too
    groups  prompts on a page, the first of the batch, with all their responses
    """

    every: int
    groups: int = 8

    def __post_init__(self):
        for name in ("every", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"completions.{name}: {getattr(self, name)}; write 1 or more"
                )

    def due(self, step: int, steps: int) -> bool:
        """Whether 1-based `step` out of `steps` has a page."""
        return step % self.every == 0 or step == steps


def write_step(
    completions: Completions,
    folder: Path,
    step: int,
    objective: AnyObjective,
    policy: Policy,
    params: Params,
    tokenizer: Tokenizer,
    rows: Rows,
    batch: Batch,
    signal: Any = None,
    *,
    components: Sequence[str] = (),
    stop: Sequence[str] = (),
    staleness: float | None = None,
    microbatches: int = 1,
) -> Path:
    """Write the page of 1-based `step` and the index in `folder`; the page's path.

    `params` are those before the updates of the step, `rows` and `batch` its logical
    batch with all streams, `signal` its signal where it is known (`examine`). Of
    several processes the first writes.
    """
    groups = min(completions.groups, np.shape(batch.mask)[0])
    numbers = examine(
        objective,
        policy,
        params,
        rows,
        batch,
        signal,
        groups=groups,
        microbatches=microbatches,
    )
    entries = entries_of(
        *first(rows, batch, groups),
        numbers,
        tokenizer,
        stops=stop_tokens(tokenizer),
        stop=stop,
        components=components,
        staleness=staleness,
    )
    path = folder / f"{step:06d}.html"
    if not is_first():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    write_page(path, entries, step)
    write_index(folder)
    return path
