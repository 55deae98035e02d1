"""Checkpoints of a run's state, by Orbax: atomic, asynchronous, on disk or in a bucket.

FOLDER/STEP/state  parameters, optimiser, sampler's parameters, critic: sharded arrays,
                   read back onto whatever mesh the run has then
FOLDER/STEP/kept   what the data remember, and batches that are drawn already
FOLDER/STEP/about  the resolved config, checksums, and the number of `best`

There is no random state: every draw is a function of the seed and the step.

A save that was cut short leaves a folder that is not taken for a checkpoint, and one
that was damaged later is set aside by name, so a run killed at any moment goes on from
the newest one that is whole.
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from unipost import processes
from unipost.checksums import checksums
from unipost.retention import Best, Policy, best_first
from unipost.runs import RunError, first_difference
from unipost.saved import Restored, orbax, read, read_about, reason_of, verify


@dataclass(frozen=True)
class Checkpoints:
    """Save every `every` steps and after the last; keep the newest `keep`.

    best    also keep those at which a number was best
    folder  where they go: a folder, or a bucket (gs://NAME/..., s3://NAME/...), in a
            subfolder by the path of the run; None: checkpoints/ of the run
    """

    every: int = 100
    keep: int = 2
    best: Best | None = None
    folder: str | None = None

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"checkpoints.{name}: {getattr(self, name)}; write 1 or more, or "
                    "checkpoints: null"
                )
        if self.folder is not None and not self.folder.strip():
            raise ValueError(
                "checkpoints.folder: empty; write a folder, a bucket such as "
                "gs://NAME/runs, or null"
            )

    def place(self, run: Path) -> Any:
        """Where the checkpoints of the run in folder `run` are."""
        if self.folder is None:
            return run.absolute() / "checkpoints"
        from etils import epath

        # the whole path, so that runs of one name do not meet
        inside = run.resolve().relative_to(run.resolve().anchor)
        above = Path(self.folder).absolute() if self.local else self.folder
        return epath.Path(above) / inside

    @property
    def local(self) -> bool:
        """Whether they are in a folder of this machine, not in a bucket."""
        return self.folder is None or "://" not in self.folder

    def open(self, place: Any, config: str = "") -> Store:
        """The store in the folder `place`, made if it is not there.

        `config` is the resolved config of the run, kept in every checkpoint. Raises
        OSError naming the folder where it cannot be made.
        """
        return Store(self, place, config)


class Store:
    """Checkpoints of one run; a context manager, so that saves finish.

    numbers  {step: the number of `best`}; of a step without one there is none
    """

    def __init__(self, settings: Checkpoints, place: Any, config: str = ""):
        from etils import epath

        ocp = orbax()
        self._ocp, self._config, self.settings = ocp, config, settings
        self.folder = epath.Path(place)
        self.numbers: dict[int, float] = {}
        policy = Policy(self.numbers, settings.keep, settings.best)
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=1,
            preservation_policy=policy,
            cleanup_tmp_directories=True,
        )
        processes.on_first(self._probe)
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        for step in self.steps if settings.best else ():
            with contextlib.suppress(OSError, ValueError):  # said when it is read
                about = read_about(self.folder, step)
                if "number" in about:
                    self.numbers[step] = about["number"]

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self.wait()
        except OSError:
            # its threads end before anybody else writes to the folder
            with contextlib.suppress(Exception):
                self._manager.close()
            # what stopped the run says more than the save that failed too
            if kind is None:
                raise
        else:
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps after which there is a whole checkpoint, in order."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The number of steps done at the newest checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The steps done at the best checkpoint that is there, or None."""
        if self.settings.best is None:
            return None
        there = {s: self.numbers[s] for s in self.steps if s in self.numbers}
        return next(iter(best_first(there, self.settings.best)), None)

    def save(
        self,
        step: int,
        state: Any,
        kept: bytes | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Save `state` after `step` steps; returns once it is copied off the device.

        `kept` is what else a run goes on from, `about` plain data beside it. Raises
        OSError naming the folder when it, or the one before, cannot be written (a full
        disk): the checkpoints before stay whole.
        """
        args, own = self._ocp.args, dict(about or {})
        own |= {"config": self._config, "checksums": checksums(state)}
        items = {"state": args.StandardSave(state)}
        if kept is not None:
            whole = {"bytes": np.frombuffer(kept, np.uint8)}
            items["kept"] = args.StandardSave(whole)
            own["kept"] = zlib.crc32(kept)
        if step in self.numbers:
            own["number"] = self.numbers[step]
        items["about"] = args.JsonSave(own)
        try:
            done = self._manager.save(step, args=args.Composite(**items), force=True)
        except (OSError, ValueError, RuntimeError) as error:
            what = f"checkpoint {step} could not be written"
            raise self._unwritten(what, error) from error
        if not done:
            raise AssertionError(f"{self.folder}: checkpoint {step} was not taken")

    def wait(self) -> None:
        """Return once all saves are on disk. Raises OSError where one failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            what = "the last checkpoint could not be written"
            raise self._unwritten(what, error) from error

    def restore(self, like: Any, say: Callable[[str], None] | None = None) -> Restored:
        """The newest checkpoint that can be read, in shapes and shardings of `like`.

        Damaged ones before it are renamed to STEP.damaged, which `say` is told (None:
        standard error). Raises ValueError where none can be read; then all stay.
        """
        failed: dict[int, str] = {}
        for step in reversed(self.steps):
            found, reason = self._tried(step, like)
            if found is None:
                failed[step] = reason
                continue
            self._check_config(found)
            for bad, reason in failed.items():
                name = self._set_aside(bad)
                (say or _print)(
                    f"{self.folder / str(bad)}: checkpoint cannot be read ({reason}); "
                    f"set aside as {name}, going on from step {step}"
                )
            return found
        if not failed:
            raise ValueError(f"{self.folder}: holds no whole checkpoint")
        newest = max(failed)
        raise ValueError(
            f"{self.folder}: none of the checkpoints {', '.join(map(str, self.steps))} "
            f"can be read or fits this run (of {newest}: {failed[newest]}); put one "
            "back, or remove the folder to start again"
        )

    def _tried(self, step: int, like: Any) -> tuple[Restored | None, str]:
        """The checkpoint, or None and why not: in every process the same."""
        found = None

        def reading() -> str:
            nonlocal found
            try:
                found = read(self.folder, step, like)
            except Exception as error:  # whatever Orbax makes of damaged files
                return reason_of(error)
            return ""

        why = next((x for x in processes.everyones(reading) if x), "")
        if why or found is None:
            return None, why
        try:
            verify(found)
        except ValueError as error:
            return None, str(error)
        return found, ""

    def _check_config(self, found: Restored) -> None:
        """Refuse the checkpoint of another run in a folder apart from the run's."""
        if self.settings.folder is None:
            return
        difference = first_difference(found.about["config"], self._config)
        if difference:
            raise RunError(
                f"{self.folder}: holds checkpoints of a run with other settings "
                f"({difference}); choose another --out or checkpoints.folder"
            )

    def _set_aside(self, step: int) -> str:
        """Rename a checkpoint; its new name."""

        def rename() -> str:
            more = (f"-{i}" for i in count(2))
            names = (f"{step}.damaged{end}" for end in chain([""], more))
            name = next(x for x in names if not (self.folder / x).exists())
            (self.folder / str(step)).rename(self.folder / name)
            return name

        name = processes.on_first(rename)
        self.numbers.pop(step, None)
        self._manager.reload()
        return name

    def _probe(self) -> None:
        """Find out before the first step whether anything can be written at all."""
        probe = self.folder / ".probe"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except Exception as error:  # of a bucket, whatever its library raises
            raise self._unwritten("no checkpoint can be written", error) from error

    def _unwritten(self, what: str, error: Exception) -> OSError:
        return OSError(f"{self.folder}: {what}: {reason_of(error)}")


def _print(text: str) -> None:
    if processes.is_first():
        print(text, file=sys.stderr)
