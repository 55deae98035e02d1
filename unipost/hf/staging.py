"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_target(folder: Path, marker: str) -> None:
    """Raises ValueError for a file, and for a folder with things but no `marker`."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give a new folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / marker).exists():
        raise ValueError(
            f"{folder}: holds files but no checkpoint ({marker}); give an empty or new "
            "folder"
        )


@contextmanager
def replaced(folder: Path, marker: str, size: int) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` when the block ends.

    When the block fails nothing has changed. marker: the file that tells a checkpoint,
    which may be replaced, from other folders, which may not. size: bytes that will be
    written. Raises ValueError for a folder of other things, and OSError in one line
    where the disk is too small or cannot be written.
    """
    check_target(folder, marker)
    staging = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_room(folder, size)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        new = staging / "new"
        new.mkdir()
        yield new
        _swap(new, folder, staging / "old")
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"{folder}: not written ({reason}); what was there is as it was"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging)


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        need = f"{size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free"
        raise OSError(f"disk too small: {need}")


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Puts `new` at `folder` and what was there at `old`, or changes nothing."""
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
