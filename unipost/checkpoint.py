"""Checkpoints of a run's state, by Orbax: atomic, asynchronous, the newest kept.

A save that was cut short leaves a folder that Orbax ignores, so a run killed at any
moment resumes from the save before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Checkpoints:
    """Save every `every` steps and after the last; keep the newest `keep`."""

    every: int = 100
    keep: int = 2

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"checkpoints.{name}: {getattr(self, name)}; write 1 or more, or "
                    "checkpoints: null"
                )

    def open(self, folder: Path) -> Store:
        """The store in `folder`, made if it is not there."""
        return Store(self, folder)


class Store:
    """Checkpoints of one run on disk; a context manager, so that saves finish."""

    def __init__(self, settings: Checkpoints, folder: Path):
        # heavy import, and chatty about every save
        import logging

        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.WARNING)
        self._ocp = ocp
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                save_interval_steps=1, max_to_keep=settings.keep
            ),
        )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The number of steps done at the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, kept: bytes | None = None) -> None:
        """Save `state` after `step` steps; returns once it is copied off the device.

        `kept` is what else a run goes on from: what its data remember.

        Raises OSError naming the folder when it cannot be written (a full disk): the
        checkpoints before it stay whole.
        """
        try:
            args = self._ocp.args
            items = {"state": args.StandardSave(state)}
            if kept is not None:
                whole = {"bytes": np.frombuffer(kept, np.uint8)}
                items["kept"] = args.StandardSave(whole)
            self._manager.save(step, args=args.Composite(**items))
        except (OSError, ValueError) as error:
            raise OSError(
                f"{self._folder}: checkpoint {step} could not be written: {error}"
            ) from error

    def restore(self, like: Any) -> tuple[int, Any, bytes | None]:
        """(steps done, state, kept) of the newest checkpoint, in the shapes of `like`.

        Raises ValueError naming the checkpoint when it does not fit or is damaged.
        """
        step = self.latest
        if step is None:
            raise ValueError(f"{self._folder}: holds no whole checkpoint")
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        args, kept = self._ocp.args, None
        there = self._folder / str(step) / "kept"
        try:
            items = {"state": args.StandardRestore(abstract)}
            found = self._manager.restore(step, args=args.Composite(**items))
            if there.exists():
                kept = self._bytes(step)
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{self._folder / str(step)}: checkpoint cannot be read; remove it to "
                f"go on from the one before ({reason})"
            ) from error
        return step, found["state"], kept

    def _bytes(self, step: int) -> bytes:
        args = self._ocp.args
        items = {"kept": args.StandardRestore()}
        found = self._manager.restore(step, args=args.Composite(**items))
        return np.asarray(found["kept"]["bytes"]).tobytes()
