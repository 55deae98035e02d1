"""Reading one checkpoint: what it says, its state and what the data remember."""

from __future__ import annotations

import json
import logging
import zlib
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from unipost.checksums import checksums

LONGEST = 200
"""Characters of a reason that are told."""


class Restored(NamedTuple):
    """A checkpoint: steps done, the state, what the data remember, what it says."""

    step: int
    state: Any
    kept: bytes | None
    about: dict[str, Any]


def orbax() -> ModuleType:
    """Orbax, imported when it is needed: it is heavy, and chatty about every save."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_told_already)
    return ocp


def steps_in(folder: Any) -> list[int]:
    """Steps of the whole checkpoints in `folder`, in order, without touching it."""
    ocp = orbax()
    options = ocp.CheckpointManagerOptions(read_only=True, create=False)
    with ocp.CheckpointManager(folder, options=options) as manager:
        return sorted(manager.all_steps())


def read_about(folder: Any, step: int) -> dict[str, Any]:
    """What is written beside the state of `step`. Raises OSError or ValueError."""
    return json.loads((folder / str(step) / "about/metadata").read_text())


def read(folder: Any, step: int, like: Any) -> Restored:
    """The checkpoint of `step` in shapes and shardings of `like`, not yet verified.

    Processes read alone, so that one that fails leaves no other waiting. Raises
    whatever Orbax makes of damaged files.
    """
    about, kept = read_about(folder, step), None
    state = _item(folder / str(step) / "state", abstract(like))
    if "kept" in about:
        found = np.asarray(_item(folder / str(step) / "kept")["bytes"])
        kept = found.tobytes()
    return Restored(step, state, kept, about)


def verify(found: Restored) -> None:
    """Raises ValueError where what was read is not what was saved."""
    if checksums(found.state) != found.about["checksums"]:
        raise ValueError("its numbers are not those that were saved")
    kept = found.kept
    if kept is not None and zlib.crc32(kept) != found.about["kept"]:
        raise ValueError("what the data remember is not what was saved")


def read_part(folder: Any, step: int, like: Any) -> Any:
    """A part of the state of `step`: `like` has the same names and fewer of them.

    Raises ValueError where its numbers are not those that were saved.
    """
    ocp, target = orbax(), abstract(like)
    how = ocp.checkpoint_utils.construct_restore_args(target)
    args = ocp.args.PyTreeRestore(target, restore_args=how, partial_restore=True)
    handler = ocp.PyTreeCheckpointHandler()
    state = handler.restore(folder / str(step) / "state", args=args)
    saved = read_about(folder, step)["checksums"]
    if any(saved[name] != found for name, found in checksums(state).items()):
        raise ValueError("its numbers are not those that were saved")
    return state


def abstract(like: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )


def reason_of(error: Exception) -> str:
    """What went wrong, in one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:LONGEST] if lines else type(error).__name__


def _told_already(record: logging.LogRecord) -> bool:
    # of a full disk asyncio tells once for every array, beside the error that is raised
    return "orbax" not in record.getMessage()


def _item(folder: Any, like: Any = None) -> Any:
    # not by the manager, whose processes wait for each other at the end of a read
    ocp = orbax()
    args = ocp.args.StandardRestore(like)
    return ocp.StandardCheckpointHandler().restore(folder, args=args)
