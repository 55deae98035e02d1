"""One run to a folder: a lock that a second run finds, and that dies with its process.

The lock is the kernel's (flock) on RUN/.lock, so a run that was killed leaves none. On
network file systems it holds between machines where the mount does so (NFS 4, Lustre
with -o flock); where there are no locks at all, a line says so and the run goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unipost.checkpoint import Checkpoints
from unipost.processes import is_first, on_first
from unipost.runs import RunError, naming

NAME = ".lock"
BUSY = "another run is in it"
"""What the refusal of a folder in use says."""
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, made if it is not there; of processes the first does.

    Raises RunError naming who holds it, OSError naming what cannot be written.
    """
    file = on_first(lambda: _taken(folder))
    try:
        yield
    finally:
        if is_first():
            os.ftruncate(file, 0)
            os.close(file)


def elsewhere(settings: Checkpoints, place: Any) -> contextlib.AbstractContextManager:
    """The lock of a run's checkpoints at `place`, where that is a folder of its own.

    Two machines may share it whose run folders have the same path. A bucket has no
    locks.
    """
    if settings.folder is None or not settings.local:
        return contextlib.nullcontext()
    return held(Path(place))


def _taken(folder: Path) -> int:
    """An open file that holds the lock."""
    path = folder / NAME
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(file, folder)
        me = {"pid": os.getpid(), "host": socket.gethostname()}
        with naming(path):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(me).encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return file


def _lock(file: int, folder: Path) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"{folder}: {BUSY}{_whose(file)}; wait for its end or choose another --out"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OSError(f"{folder}: cannot be locked: {error.strerror}") from error
        print(
            f"{folder}: this file system has no locks, so a second run in it would not "
            "be noticed",
            file=sys.stderr,
        )


def _whose(file: int) -> str:
    """Who wrote the lock, as far as it is known."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return f" (process {found['pid']} on {found['host']})"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return ""
